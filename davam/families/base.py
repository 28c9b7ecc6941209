"""The contract between a model and the training loop.

A model turns a batch into terms; the loop divides by the global batch, steps, and then lets the model update what
no gradient touches. A stage of any family is one `Trainable`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from davam.data.batches import Batch
from davam.nn.noise import RowNoise


@dataclass(frozen=True)
class Clock:
    """Where training is: the epoch, the step inside it, and the step since the beginning."""

    epoch: int
    step: int
    steps_per_epoch: int
    #: sums over the workers of this step
    all_reduce: Callable[[Tensor], Tensor] = field(default=lambda tensor: tensor)

    @property
    def epochs_done(self) -> float:
        """Epochs since the beginning, with their fraction."""
        return self.epoch + self.step / self.steps_per_epoch

    @property
    def global_step(self) -> int:
        """Steps since the beginning."""
        return self.epoch * self.steps_per_epoch + self.step


@dataclass(frozen=True)
class StepTerms:
    """What one batch gives: the weighted sum over rows of the objective, with a gradient; sums over the real rows
    of each measure (names carry the unit); and whatever the model's own update needs."""

    loss_sum: Tensor
    sums: dict[str, Tensor]
    aux: Any = field(default=None)


@dataclass(frozen=True)
class Workers:
    """The collectives a model may use. With one worker they return their input."""

    rank: int
    world: int
    all_reduce: Callable[[Tensor], Tensor]
    all_gather: Callable[[Tensor], list[Tensor]]
    broadcast: Callable[[Tensor], Tensor]


class Trainable(nn.Module, ABC):
    """One stage of one family. `forward` is the batch's terms, so that DDP can wrap it."""

    #: name of the measure in `StepTerms.sums` whose mean over rows selects the best epoch
    objective: str

    @abstractmethod
    def forward(self, batch: Batch, clock: Clock, noise: RowNoise | None) -> StepTerms:
        """The terms of a batch; without noise there is no dropout."""

    def num_codes(self, word_B: Tensor) -> Tensor:
        """How many latents rows of so many words have; one a word by default."""
        return word_B

    def selectable(self, epoch: int) -> bool:
        """Whether the weights after this epoch may be chosen as the result."""
        return True

    def rate_share(self, name: str) -> float:
        """The share of the optimizer's rate with which the parameter of this name learns."""
        return 1.0

    def tally(self, terms: StepTerms) -> Tensor:
        """Counts of one batch that add up over batches and workers, of any one shape; none by default."""
        return terms.loss_sum.new_zeros(0)

    def describe(self, tally: Tensor) -> dict[str, float]:
        """The measures of all batches' tallies together."""
        return {}

    def begin_epoch(
        self, epoch: int, batches: Callable[[], Iterable[Batch]], codes_per_step: float, seed: int, workers: Workers
    ) -> None:
        """Work before an epoch's first step; the batches are this worker's slices of that epoch."""

    def after_step(
        self, terms: StepTerms, batch: Batch, clock: Clock, picks: Callable[[int], Tensor], workers: Workers
    ) -> None:
        """Work after the optimizer's step. `picks(n)` names n positions of the global batch as (row index,
        position) pairs, the same on every worker."""
