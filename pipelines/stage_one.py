"""Stage `stage_one`: encoder, codebook and decoder learn to rebuild the text, Eq. (8), on data-parallel workers."""

import sys
from typing import Any

from davam.api import TextModel
from davam.data.artifacts import Attempt, Manifest
from davam.data.batches import Rows
from davam.families.base import Trainable
from davam.families.davam import Davam
from davam.recipe import Recipe
from davam.train.stages import stage_one_module
from pipelines.data import read_rows, read_tokenizer, require_rows, train_steps
from pipelines.stage import Built, Run, Stage, main
from pipelines.tokens import TOKENS


def uses(recipe: Recipe) -> dict[str, Any]:
    """The model, its training and the seed."""
    return {"model": recipe.model.model_dump(), "stage_one": recipe.stage_one.model_dump(), "seed": recipe.seed}


def build(run: Run, inputs: dict[str, Manifest], attempt: Attempt) -> Built:
    """Trains by Ray Train; rank 0 writes the model folder."""
    require_rows(run, inputs["tokens"])
    run.connect()
    from cluster.train import TrainTask, run_training

    task = TrainTask(
        "stage_one",
        f"stage_one-{attempt.fingerprint[:12]}",
        run.recipe,
        run.execution,
        inputs,
        attempt.uri,
        build_worker,
        export,
    )
    steps = train_steps(inputs["tokens"], run.recipe.stage_one)
    result = run_training(task, steps)
    return Built({"epochs": int(result["epochs"])}, {"valid_rec_nats": float(result["best_valid"])})


def build_worker(task: Any) -> tuple[Trainable, Rows, Rows]:
    """A worker's untrained model and its rows."""
    tokens = task.inputs["tokens"]
    vocab_size = read_tokenizer(task.execution.store, tokens).vocab_size
    rows = [read_rows(task.execution.store, tokens, split, None) for split in ("train", "valid")]
    return stage_one_module(task.recipe, vocab_size), rows[0], rows[1]


def export(task: Any, module: Trainable) -> TextModel:
    """The trained model without a prior."""
    assert isinstance(module, Davam)
    tokenizer = read_tokenizer(task.execution.store, task.inputs["tokens"])
    model = TextModel(task.recipe.model, None, tokenizer, task.recipe.data.max_tokens)
    model.core.load_state_dict(module.state_dict())
    return model


STAGE_ONE = Stage("stage_one", 2, (TOKENS,), uses, build)

if __name__ == "__main__":
    sys.exit(main(STAGE_ONE))
