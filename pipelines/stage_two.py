"""Stage `stage_two`: the prior learns the code sequences of the frozen model, Eq. (9). Its output is the model."""

import sys
from typing import Any

from davam import api, warm_start
from davam.data.artifacts import Attempt, Manifest, Store
from davam.data.batches import Rows
from davam.families.base import Trainable
from davam.families.prior import PriorTraining
from davam.recipe import Recipe
from davam.train.stages import stage_two_module
from pipelines.codes import CODES
from pipelines.data import read_rows, require_prior
from pipelines.stage import Built, Run, Stage, main
from pipelines.stage_one import STAGE_ONE
from pipelines.training import trained


def uses(recipe: Recipe) -> dict[str, Any]:
    """The prior, its training and the seed."""
    plain = recipe.plain()
    return {"prior": plain["prior"], "stage_two": plain["stage_two"], "seed": recipe.seed}


def build(run: Run, inputs: dict[str, Manifest], attempt: Attempt) -> Built:
    """Trains by Ray Train; rank 0 writes the complete model folder."""
    require_prior(run.recipe)
    return trained("stage_two", run, inputs, attempt, inputs["codes"], build_worker, export)


def build_worker(task: Any) -> tuple[Trainable, Rows, Rows]:
    """A worker's untrained prior and its rows of codes."""
    store, codes = task.execution.store, task.inputs["codes"]
    labels = stage_one_model(task).labels
    module = stage_two_module(task.recipe, len(labels))
    warm_start.begin_prior(module.prior, task.recipe)
    train, valid = (read_rows(store, codes, split, module.prior.end_code, labels) for split in ("train", "valid"))
    return module, train, valid


def export(task: Any, module: Trainable) -> api.TextModel:
    """The model of stage one with the trained prior."""
    assert isinstance(module, PriorTraining)
    core = stage_one_model(task)
    model = api.TextModel(task.recipe.model, task.recipe.prior, core.tokenizer, core.max_tokens, core.labels)
    assert model.prior is not None
    model.training = dict(core.training)
    model.core.load_state_dict(core.core.state_dict())
    model.prior.load_state_dict(module.prior.state_dict())
    return model


def stage_one_model(task: Any) -> api.TextModel:
    """The model whose codes are learned."""
    store = Store(task.execution.store)
    return api.load(store.artifact_uri("stage_one", task.inputs["stage_one"].fingerprint))


STAGE_TWO = Stage("stage_two", 1, lambda recipe: (CODES, STAGE_ONE), uses, build, warm_start.model_source)

if __name__ == "__main__":
    sys.exit(main(STAGE_TWO))
