"""The settings of a recipe that are counted in epochs of one of its trainings: a budget that shortens or lengthens the
training takes them along."""

from typing import Any

from davam.recipe import Recipe

SCHEDULES = (
    "model.kl.warmup_epochs",
    "model.kl.cycle_epochs",
    "model.estimator.temperature.epochs",
    "model.entropy.epochs",
    "model.relaxation.epochs",
    "model.still_epochs",
    "model.continuous_epochs",
    "model.quantized_epochs",
    "model.beta_ramp_epochs",
    "stage_one.optimizer.first_decay_epoch",
    "pretraining.optimizer.first_decay_epoch",
    "stage_two.optimizer.first_decay_epoch",
)


def schedules(recipe: Recipe) -> dict[str, float]:
    """The epochs of each schedule that the recipe has, by its dotted key."""
    plain = recipe.plain()
    found = {key: _at(plain, key) for key in SCHEDULES}
    return {key: epochs for key, epochs in found.items() if epochs is not None}


def training_of(key: str) -> str:
    """The training in whose epochs the schedule is counted: a model's are those of stage one."""
    block = key.partition(".")[0]
    return "stage_one" if block == "model" else block


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values
