"""Stage `judge`: a language model of held-out real text that no generator has been trained on, for the fluency of what
they generate.

python pipelines/tokens.py --preset judge,tiny
python pipelines/judge.py --preset judge,tiny

It learns from the validation split: by the hash of their text, nine sentences in ten train it and one selects its
epoch. The test split stays for comparison.
"""

import sys
from typing import Any

import numpy as np

from davam.api import TextModel
from davam.data.artifacts import Attempt, Manifest, Store
from davam.data.batches import Rows
from davam.data.source import split_by_hash
from davam.errors import ConfigError, DataError
from davam.families import is_language_model
from davam.families.base import Trainable
from davam.recipe import Recipe
from davam.train.stages import stage_one_module
from pipelines.data import read_tokenizer, split_rows
from pipelines.stage import Built, Run, Stage, main
from pipelines.tokens import TOKENS
from pipelines.training import trained

SELECTION_SHARE = 0.1
LEAST_ROWS = 50  # of the validation split


def uses(recipe: Recipe) -> dict[str, Any]:
    """The language model, its training and the seed."""
    return {"model": recipe.model.model_dump(), "stage_one": recipe.stage_one.model_dump(), "seed": recipe.seed}


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
    store, tokens = task.execution.store, task.inputs["tokens"]
    table = Store(store).read_table(tokens, "tokens/1", split="valid", columns=["id", "tokens", "text"])
    # The prefix makes this hash another one than that by which a corpus without given splits was split.
    splits = [split_by_hash(f"judge {text}", SELECTION_SHARE, 0.0) for text in table["text"].to_pylist()]
    train, selection = (_rows(table.filter(np.array(splits) == split)) for split in ("train", "valid"))
    return stage_one_module(task.recipe, read_tokenizer(store, tokens).vocab_size), train, selection


def text_model(task: Any, module: Trainable) -> TextModel:
    """The trained judge as a model."""
    tokenizer = read_tokenizer(task.execution.store, task.inputs["tokens"])
    model = TextModel(task.recipe.model, None, tokenizer, task.recipe.data.max_tokens)
    model.core.load_state_dict(module.state_dict())
    return model


def _rows(table: Any) -> Rows:
    return Rows.from_lists(table["id"].to_pylist(), table["tokens"].to_pylist())


JUDGE = Stage("judge", 1, lambda recipe: (TOKENS,), uses, build)

if __name__ == "__main__":
    sys.exit(main(JUDGE))
