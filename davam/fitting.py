"""Training in one process, without Ray: for notebooks, laptops and tests. The same loop and the same result."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from davam import warm_start
from davam.api import TextModel
from davam.data.batches import Rows
from davam.data.labels import Labels, as_label
from davam.data.source import SPLITS, split_by_hash
from davam.data.tokenizer import EOS_ID, TextTokenizer, count_words
from davam.errors import DataError
from davam.families.base import Trainable
from davam.recipe import FileData, Recipe, load_recipe
from davam.train.loop import Hooks, train
from davam.train.optim import build_optimizer
from davam.train.stages import (
    build_job,
    check_enough,
    check_words,
    pretraining_module,
    stage_one_module,
    stage_two_module,
)
from davam.train.state import TrainState, training_record


@dataclass(frozen=True)
class _Corpus:
    """The rows that are used: their tokens without ends, their labels and their splits."""

    tokens: list[list[int]]
    labels: list[str]
    splits: list[str]
    known: Labels

    def rows(self, sequences: Sequence[Sequence[int]], split: str, terminator: int) -> Rows:
        """The split's rows of these sequences, one for each of the corpus."""
        places = [place for place, name in enumerate(self.splits) if name == split]
        numbers = self.known.numbers([self.labels[place] for place in places]) if self.known else None
        return Rows.from_lists(places, [[*sequences[place], terminator] for place in places], numbers)


def fit(texts: Sequence[str], recipe: Recipe | None = None, labels: Sequence[str] | None = None) -> TextModel:
    """A model trained on the texts, one sentence each; the `recommended` recipe unless another is given. With a label
    for every text, it is conditional on that.

    Rows are split by the hash of their text, as for a corpus in files without given splits, and the words are those of
    the training rows. Blank and too long
    texts are left out and counted on stderr. Raises DataError when too little is left.
    """
    recipe = load_recipe(["recommended"]) if recipe is None else recipe
    if labels is not None and len(labels) != len(texts):
        raise DataError(f"{len(labels)} labels for {len(texts)} texts: give one for each")
    read = zip(texts, _splits(texts, recipe), strict=True)
    tokenizer = fit_tokenizer([text for text, split in read if split == "train" and text.strip()], recipe)
    corpus = _read(texts, labels, tokenizer, recipe)
    train_rows, valid_rows = (corpus.rows(corpus.tokens, split, EOS_ID) for split in ("train", "valid"))
    check_enough(len(train_rows), len(valid_rows), recipe.model)
    check_words(tokenizer.vocab_size, recipe.model)

    model = TextModel(recipe.model, recipe.prior, tokenizer, recipe.data.max_tokens, corpus.known)
    pretrained = None
    if recipe.pretraining is not None:
        autoencoder = pretraining_module(recipe, tokenizer.vocab_size, len(corpus.known))
        model.training["pretraining"] = _train(autoencoder, train_rows, valid_rows, recipe, "pretraining")
        pretrained = autoencoder.state_dict()
    core = stage_one_module(recipe, tokenizer.vocab_size, len(corpus.known), pretrained)
    warm_start.begin(core, recipe)
    model.training["stage_one"] = _train(core, train_rows, valid_rows, recipe, "stage_one")
    model.core.load_state_dict(core.state_dict())

    if model.prior is not None:
        codes = model.encode_tokens([[*row, EOS_ID] for row in corpus.tokens])
        train_codes, valid_codes = (corpus.rows(codes, split, model.prior.end_code) for split in ("train", "valid"))
        prior = stage_two_module(recipe, len(corpus.known))
        warm_start.begin_prior(prior.prior, recipe)
        model.training["stage_two"] = _train(prior, train_codes, valid_codes, recipe, "stage_two")
        model.prior.load_state_dict(prior.prior.state_dict())
    return model


def _read(texts: Sequence[str], labels: Sequence[str] | None, tokenizer: TextTokenizer, recipe: Recipe) -> _Corpus:
    encoded = tokenizer.encode(list(texts))
    most = recipe.data.max_tokens
    used = [place for place, row in enumerate(encoded) if texts[place].strip() and 1 <= len(row) <= most]
    if len(used) < len(texts):
        print(f"left out {len(texts) - len(used)} blank or too long texts", file=sys.stderr)
    splits = _splits([texts[place] for place in used], recipe)
    given = [] if labels is None else [as_label(labels[place], f"labels[{place}]") for place in used]
    counts: dict[str, Counter[str]] = {name: Counter() for name in SPLITS}
    for label, split in zip(given, splits, strict=False):
        counts[split][label] += 1
    return _Corpus([encoded[place] for place in used], given, splits, Labels.counted(counts, "labels"))


def _splits(texts: Sequence[str], recipe: Recipe) -> list[str]:
    shares = recipe.data if isinstance(recipe.data, FileData) else FileData(train="")
    return [split_by_hash(text, shares.valid_share, shares.test_share) for text in texts]


def fit_tokenizer(texts: Sequence[str], recipe: Recipe) -> TextTokenizer:
    """The recipe's tokenizer, fitted on the texts or, for a warm start, that of the model."""
    settings = recipe.tokenizer
    if not texts:
        raise DataError("no text to train on: add text that is not blank")
    if recipe.warm_start is not None:
        return warm_start.tokenizer(recipe.warm_start)
    if settings.kind == "bpe":
        return TextTokenizer.fit_bpe(texts, settings.vocab_size or 8000)
    return TextTokenizer.fit_words(count_words(texts), settings.vocab_size, settings.min_count)


def _train(module: Trainable, train_rows: Rows, valid_rows: Rows, recipe: Recipe, stage: str) -> dict[str, Any]:
    def report(values: dict[str, float]) -> None:
        name = f"valid/{module.objective}"
        if name in values:
            print(
                f"{stage}  epoch {values['epoch']:.0f}/{values['epochs']}  {name} {values[name]:.2f}", file=sys.stderr
            )

    job = build_job(module, module, train_rows, valid_rows, recipe, stage)
    hooks = Hooks(report, lambda state, trained, optimizer: None)
    state = train(job, build_optimizer(module, job.config), TrainState(), hooks)
    module.eval()
    return training_record(state, module)
