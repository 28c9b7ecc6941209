"""Which stage ends with the complete model: a family without codes has no prior, and so no second stage."""

from davam.data.artifacts import Manifest
from davam.recipe import Recipe
from pipelines.stage import Run, Stage
from pipelines.stage_one import STAGE_ONE
from pipelines.stage_two import STAGE_TWO


def model_stage(recipe: Recipe) -> Stage:
    """The stage whose output is the complete model."""
    return STAGE_TWO if recipe.has_codes else STAGE_ONE


def model_uri(run: Run, inputs: dict[str, Manifest]) -> str:
    """The URI of the complete model among a stage's inputs."""
    stage = model_stage(run.recipe).name
    return run.store.artifact_uri(stage, inputs[stage].fingerprint)
