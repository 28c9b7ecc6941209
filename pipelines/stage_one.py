"""Stage `stage_one`: the model learns to rebuild the text, Eq. (8), on data-parallel workers. For a family without
codes this is all of its training."""

import sys
from typing import Any

from davam import api, warm_start
from davam.data.artifacts import Attempt, Manifest, Store
from davam.data.batches import Rows
from davam.families.base import Trainable
from davam.recipe import Recipe
from davam.train.stages import check_words, stage_one_module
from pipelines.pretraining import PRETRAINING
from pipelines.stage import Built, Run, Stage, main
from pipelines.tokens import TOKENS
from pipelines.training import text_model, token_rows, trained


def needs(recipe: Recipe) -> tuple[Stage, ...]:
    """The text and, where the recipe has one, the autoencoder to begin with."""
    return (TOKENS,) if recipe.pretraining is None else (TOKENS, PRETRAINING)


def uses(recipe: Recipe) -> dict[str, Any]:
    """The model, its training and the seed."""
    used = {"model": recipe.model.model_dump(), "stage_one": recipe.stage_one.model_dump(), "seed": recipe.seed}
    return used if recipe.pretraining is None else used | {"reset_decoder": recipe.pretraining.reset_decoder}


def build(run: Run, inputs: dict[str, Manifest], attempt: Attempt) -> Built:
    """Trains by Ray Train; rank 0 writes the model folder."""
    check_words(inputs["tokens"].counts["words"], run.recipe.model)
    return trained("stage_one", run, inputs, attempt, inputs["tokens"], build_worker, text_model)


def build_worker(task: Any) -> tuple[Trainable, Rows, Rows]:
    """A worker's model before training and its rows."""
    rows = token_rows(task.execution.store, task.inputs["tokens"])
    pretrained = None
    if "pretraining" in task.inputs:
        uri = Store(task.execution.store).artifact_uri("pretraining", task.inputs["pretraining"].fingerprint)
        pretrained = api.load(uri).core.state_dict()
    module = stage_one_module(task.recipe, rows.vocab_size, rows.labels, pretrained)
    warm_start.begin(module, task.recipe)
    return module, rows.train, rows.valid


STAGE_ONE = Stage("stage_one", 2, needs, uses, build, warm_start.model_source)

if __name__ == "__main__":
    sys.exit(main(STAGE_ONE))
