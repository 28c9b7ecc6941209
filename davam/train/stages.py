"""The two stages as training jobs, for one process and for workers alike."""

from collections.abc import Callable

from davam.data.batches import Batch, Rows
from davam.errors import DataError
from davam.families import build_family
from davam.families.base import Clock, StepTerms, Trainable
from davam.families.davam import Davam
from davam.families.prior import PriorTraining
from davam.nn.priors import build_prior
from davam.recipe import Recipe
from davam.train.loop import Job


def stage_one_module(recipe: Recipe, vocab_size: int) -> Davam:
    """The untrained model, its weights drawn from the recipe's seed."""
    model = build_family(recipe.model, vocab_size, recipe.data.max_tokens)
    model.init_weights(recipe.seed)
    return model


def stage_two_module(recipe: Recipe) -> PriorTraining:
    """The untrained prior, its weights drawn from the recipe's seed."""
    module = PriorTraining(build_prior(recipe.prior, recipe.model.codebook_size))
    module.init_weights(recipe.seed)
    return module


def check_enough(train: Rows, valid: Rows, codebook_size: int) -> None:
    """Raises DataError for a corpus that cannot fill the codebook or leaves nothing to validate on."""
    if len(train) < codebook_size:
        raise DataError(
            f"{len(train)} training sentences for {codebook_size} codes: every code needs several; add "
            f"text, or set model.codebook_size={max(2, len(train) // 10)}"
        )
    if not len(valid):
        raise DataError("no validation sentences: give data.valid and data.test, or raise data.valid_share")


def build_job(
    module: Trainable,
    call: Callable[[Batch, Clock, object], StepTerms],
    train: Rows,
    valid: Rows,
    recipe: Recipe,
    stage: str,
) -> Job:
    """The job of that stage, `stage_one` or `stage_two`; also sets the output layer's arithmetic."""
    config = recipe.stage_one if stage == "stage_one" else recipe.stage_two
    if isinstance(module, Davam):
        module.output.set_precision(config.output_precision)
    return Job(module, call, train, valid, config, recipe.seed)


def place(module: Trainable, gpu: bool) -> None:
    """Moves the module to the worker's GPU, or leaves it on the CPU."""
    module.to("cuda" if gpu else "cpu")
