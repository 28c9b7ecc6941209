"""Which stage ends with the complete model: a family without codes has no prior, and so no second stage. And the model
that a user names."""

from davam.api import model_digest
from davam.data.artifacts import Manifest
from davam.errors import ConfigError
from davam.recipe import Recipe
from pipelines.stage import Run, Stage, pointed_to
from pipelines.stage_one import STAGE_ONE
from pipelines.stage_two import STAGE_TWO


def model_stage(recipe: Recipe) -> Stage:
    """The stage whose output is the complete model."""
    return STAGE_TWO if recipe.has_codes else STAGE_ONE


def model_uri(run: Run, inputs: dict[str, Manifest]) -> str:
    """The URI of the complete model among a stage's inputs."""
    stage = model_stage(run.recipe).name
    return run.store.artifact_uri(stage, inputs[stage].fingerprint)


def open_model(uri: str, expected_sha256: str | None) -> tuple[str, str]:
    """The model's own URI, which of a channel is that of the run that it points to now, and the model's digest.

    Raises ConfigError when the digest is not the expected one.
    """
    uri = pointed_to(uri)
    digest = model_digest(uri)
    if expected_sha256 is not None and not digest.startswith(expected_sha256):
        raise ConfigError(f"--model {uri} has the digest {digest}, not {expected_sha256}; it is another model")
    return uri, digest
