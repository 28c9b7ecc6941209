"""Stage `pretraining`: a VAE as an autoencoder, before stage one begins with its encoder."""

import sys
from typing import Any

from davam.data.artifacts import Attempt, Manifest
from davam.data.batches import Rows
from davam.errors import ConfigError
from davam.families.base import Trainable
from davam.recipe import Recipe
from davam.train.stages import pretraining_module
from pipelines.stage import Built, Run, Stage, main
from pipelines.tokens import TOKENS
from pipelines.training import text_model, token_rows, trained


def uses(recipe: Recipe) -> dict[str, Any]:
    """The model without the settings of its KL, the autoencoder's training and the seed."""
    training = None if recipe.pretraining is None else recipe.pretraining.model_dump(exclude={"reset_decoder"})
    model = recipe.model.model_dump(exclude={"kl", "free_bits"})
    return {"model": model, "pretraining": training, "seed": recipe.seed}


def build(run: Run, inputs: dict[str, Manifest], attempt: Attempt) -> Built:
    """Trains by Ray Train; rank 0 writes the model folder."""
    if run.recipe.pretraining is None:
        raise ConfigError("pretraining: this recipe has none; add a preset that sets it, such as pretraining_fbp")
    return trained("pretraining", run, inputs, attempt, inputs["tokens"], build_worker, text_model)


def build_worker(task: Any) -> tuple[Trainable, Rows, Rows]:
    """A worker's untrained autoencoder and its rows."""
    rows = token_rows(task.execution.store, task.inputs["tokens"])
    return pretraining_module(task.recipe, rows.vocab_size, rows.labels), rows.train, rows.valid


PRETRAINING = Stage("pretraining", 1, lambda recipe: (TOKENS,), uses, build)

if __name__ == "__main__":
    sys.exit(main(PRETRAINING))
