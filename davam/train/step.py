"""One optimizer step on a global batch: what the loop and the lagging encoder's inner loop share."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from davam.data.batches import Batch, Indices, Rows, take_slice, to_device
from davam.errors import TrainingError
from davam.families.base import Clock, StepTerms, Trainable, Workers
from davam.nn.noise import RowNoise
from davam.recipe import TrainConfig
from davam.train.optim import set_rate


@dataclass(frozen=True)
class Job:
    """One stage's training: the module, the callable that runs it (DDP, or the module itself), its rows and rules."""

    module: Trainable
    call: Callable[[Batch, Clock, object], StepTerms]
    train: Rows
    valid: Rows
    config: TrainConfig
    seed: int

    @property
    def device(self) -> torch.device:
        """Where the module's weights are."""
        return next(self.module.parameters()).device

    def slices(self, source: Rows, plan: Iterable[Indices], group: Workers) -> Iterator[Batch]:
        """This worker's share of every batch of the plan."""
        for rows in plan:
            yield to_device(take_slice(source, rows, group.rank, group.world), self.device)


def all_parameters(name: str) -> bool:
    """Every parameter moves."""
    return True


def optimizer_step(
    job: Job,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    rows: Indices,
    clock: Clock,
    rate: float,
    noise: RowNoise,
    moves: Callable[[str], bool],
    group: Workers,
) -> StepTerms:
    """The terms of the global batch `rows`, of which `batch` is this worker's slice, after a step of the parameters
    that move; the gradient is clipped over all parameters together.

    Raises TrainingError when the gradient is not finite.
    """
    set_rate(optimizer, rate)
    optimizer.zero_grad(set_to_none=True)
    terms = job.call(batch, clock, noise)
    # DDP averages gradients over workers; the factor turns that into the mean over the global batch.
    (terms.loss_sum * (group.world / len(rows))).backward()
    norm = nn.utils.clip_grad_norm_(job.module.parameters(), job.config.clip_norm)
    if not math.isfinite(norm.item()):
        raise TrainingError(
            f"training diverged in epoch {clock.epoch + 1}, step {clock.step + 1}: the gradient norm is {norm.item()}; "
            f"rows {batch.ids[:5]}...; lower the optimizer's lr, or look at these rows"
        )
    for name, parameter in job.module.named_parameters():
        if not moves(name):
            parameter.grad = None
    optimizer.step()
    return terms
