"""Stage `judge`: a language model of held-out real text that no generator has been trained on, for the fluency of what
they generate.

python pipelines/tokens.py --preset judge,tiny
python pipelines/judge.py --preset judge,tiny

It learns from the validation split: by the hash of their text, nine sentences in ten train it and one selects its
epoch. The test split stays for comparison. Its tokenizer is its own: words that it has not read twice are `<unk>`, a
symbol that it has learned. With the models' vocabulary it would price a word that they know and it has never seen by an
accident of its training.
"""

import sys
from typing import Any

from davam.api import TextModel
from davam.data.artifacts import Attempt, Manifest, Store
from davam.data.batches import Rows
from davam.data.source import split_by_hash
from davam.data.tokenizer import EOS_ID, TextTokenizer
from davam.errors import ConfigError, DataError
from davam.families import is_language_model
from davam.families.base import Trainable
from davam.fitting import fit_tokenizer
from davam.recipe import Recipe
from davam.train.stages import stage_one_module
from pipelines.data import split_rows
from pipelines.stage import Built, Run, Stage, main
from pipelines.tokens import TOKENS
from pipelines.training import trained

SELECTION_SHARE = 0.1
LEAST_ROWS = 50  # of the validation split
LEAST_COUNT = 2  # of a word that the judge knows


def uses(recipe: Recipe) -> dict[str, Any]:
    """The language model, its training, the seed and the tokenizer's settings."""
    kept = {name: getattr(recipe, name).model_dump() for name in ("model", "stage_one", "tokenizer")}
    return kept | {"seed": recipe.seed}


def build(run: Run, inputs: dict[str, Manifest], attempt: Attempt) -> Built:
    """Trains by Ray Train; rank 0 writes the model folder. Raises ConfigError for a model that cannot judge, DataError
    for too little text."""
    if not is_language_model(run.recipe.model):
        raise ConfigError(f"judge: model.kind={run.recipe.model.kind} has no exact likelihood; use --preset judge")
    rows = split_rows(inputs["tokens"], "valid")
    if rows < LEAST_ROWS:
        raise DataError(
            f"{rows} validation sentences are too few for a judge of them ({LEAST_ROWS} at least); add text, or give "
            "a language model with --judge"
        )
    return trained("stage_one", run, inputs, attempt, inputs["tokens"], build_worker, text_model, split="valid")


def build_worker(task: Any) -> tuple[Trainable, Rows, Rows]:
    """A worker's untrained language model, without labels, and its rows."""
    tokenizer, splits = tokenizer_and_texts(task)
    most = task.recipe.data.max_tokens
    train, selection = (_rows(tokenizer, splits[name], most) for name in ("train", "valid"))
    return stage_one_module(task.recipe, tokenizer.vocab_size), train, selection


def text_model(task: Any, module: Trainable) -> TextModel:
    """The trained judge as a model."""
    model = TextModel(task.recipe.model, None, tokenizer_and_texts(task)[0], task.recipe.data.max_tokens)
    model.core.load_state_dict(module.state_dict())
    return model


def tokenizer_and_texts(task: Any) -> tuple[TextTokenizer, dict[str, list[str]]]:
    """The judge's tokenizer, and the sentences that it learns from (`train`) and is selected by (`valid`)."""
    table = Store(task.execution.store).read_table(task.inputs["tokens"], "tokens/1", split="valid", columns=["text"])
    splits: dict[str, list[str]] = {"train": [], "valid": []}
    for text in sorted(table["text"].to_pylist()):
        # The prefix makes this hash another one than that by which a corpus without given splits was split.
        splits[split_by_hash(f"judge {text}", SELECTION_SHARE, 0.0)].append(text)
    given = task.recipe.tokenizer
    settings = given.model_copy(update={"min_count": max(LEAST_COUNT, given.min_count)})
    recipe = task.recipe.model_copy(update={"tokenizer": settings, "warm_start": None})
    return fit_tokenizer(splits["train"], recipe), splits


def _rows(tokenizer: TextTokenizer, texts: list[str], most: int) -> Rows:
    tokens = [[*row, EOS_ID] for row in tokenizer.encode(texts) if len(row) <= most]
    return Rows.from_lists(range(len(tokens)), tokens)


JUDGE = Stage("judge", 2, lambda recipe: (TOKENS,), uses, build)

if __name__ == "__main__":
    sys.exit(main(JUDGE))
