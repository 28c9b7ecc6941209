"""Training in one process, without Ray: for notebooks, laptops and tests. The same loop and the same result."""

import sys
from collections.abc import Sequence
from typing import Any

from davam.api import TextModel
from davam.data.batches import Rows
from davam.data.source import split_by_hash
from davam.data.tokenizer import EOS_ID, TextTokenizer, count_words
from davam.errors import DataError
from davam.families.base import Trainable
from davam.recipe import FileData, Recipe, load_recipe
from davam.train.loop import Hooks, train
from davam.train.optim import build_optimizer
from davam.train.stages import build_job, check_enough, pretraining_module, stage_one_module, stage_two_module
from davam.train.state import TrainState, training_record


def fit(texts: Sequence[str], recipe: Recipe | None = None) -> TextModel:
    """A model trained on the texts, one sentence each; the `recommended` recipe unless another is given.

    Rows are split by the hash of their text, as for a corpus in files without given splits. Blank and too long
    texts are left out and counted on stderr. Raises DataError when too little is left.
    """
    if recipe is None:
        recipe = load_recipe(["recommended"])
    kept = [text for text in texts if text.strip()]
    tokenizer = fit_tokenizer(kept, recipe)
    encoded = tokenizer.encode(kept)
    splits: dict[str, list[tuple[int, list[int]]]] = {"train": [], "valid": [], "test": []}
    shares = recipe.data if isinstance(recipe.data, FileData) else FileData(train="")
    for index, (text, row) in enumerate(zip(kept, encoded, strict=True)):
        if 1 <= len(row) <= recipe.data.max_tokens:
            splits[split_by_hash(text, shares.valid_share, shares.test_share)].append((index, row))
    used = sum(len(rows) for rows in splits.values())
    if used < len(texts):
        print(f"left out {len(texts) - used} blank or too long texts", file=sys.stderr)
    train_rows, valid_rows = (_rows(splits[name], EOS_ID) for name in ("train", "valid"))
    check_enough(len(train_rows), len(valid_rows), recipe.model)

    model = TextModel(recipe.model, recipe.prior, tokenizer, recipe.data.max_tokens)
    pretrained = None
    if recipe.pretraining is not None:
        autoencoder = pretraining_module(recipe, tokenizer.vocab_size)
        model.training["pretraining"] = _train(autoencoder, train_rows, valid_rows, recipe, "pretraining")
        pretrained = autoencoder.state_dict()
    core = stage_one_module(recipe, tokenizer.vocab_size, pretrained)
    model.training["stage_one"] = _train(core, train_rows, valid_rows, recipe, "stage_one")
    model.core.load_state_dict(core.state_dict())

    if model.prior is not None:
        texts_of = {name: [kept[index] for index, _ in splits[name]] for name in ("train", "valid")}
        codes = [_rows(list(enumerate(model.encode(rows))), model.prior.end_code) for rows in texts_of.values()]
        prior = stage_two_module(recipe)
        model.training["stage_two"] = _train(prior, codes[0], codes[1], recipe, "stage_two")
        model.prior.load_state_dict(prior.prior.state_dict())
    return model


def fit_tokenizer(texts: Sequence[str], recipe: Recipe) -> TextTokenizer:
    """The recipe's tokenizer, fitted on the texts."""
    settings = recipe.tokenizer
    if not texts:
        raise DataError("no text to train on: every text is blank")
    if settings.kind == "bpe":
        return TextTokenizer.fit_bpe(texts, settings.vocab_size or 8000)
    return TextTokenizer.fit_words(count_words(texts), settings.vocab_size, settings.min_count)


def _rows(rows: list[tuple[int, list[int]]], terminator: int) -> Rows:
    return Rows.from_lists([index for index, _ in rows], [[*row, terminator] for _, row in rows])


def _train(module: Trainable, train_rows: Rows, valid_rows: Rows, recipe: Recipe, stage: str) -> dict[str, Any]:
    def report(values: dict[str, float]) -> None:
        name = f"valid/{module.objective}"
        if name in values:
            print(
                f"{stage}  epoch {values['epoch']:.0f}/{values['epochs']}  {name} {values[name]:.2f}", file=sys.stderr
            )

    job = build_job(module, module, train_rows, valid_rows, recipe, stage)
    hooks = Hooks(report, lambda state, trained, optimizer: None, lambda: False)
    state = train(job, build_optimizer(module, job.config), TrainState(), hooks)
    module.eval()
    return training_record(state, module)
