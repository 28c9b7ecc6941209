"""How a run is carried out. Light on purpose: every process of a cluster imports it, most of them without torch."""

import math

from pydantic import Field, model_validator

from davam.config import Frozen

BLOCK_ROWS = 2048  # rows that a process takes at a time, and the least that it is started for


def workers_for(rows: float, most: int, passes: int = 1) -> int:
    """How many of at most so many workers such work gets: rows, each of them so many times through a model. A process
    takes seconds to start, in which another one is done with a block."""
    return max(1, min(most, math.ceil(rows * passes / BLOCK_ROWS)))


class Execution(Frozen):
    """How a run is carried out; changing it never changes a fingerprint."""

    store: str = "davam_store"
    workers: int = Field(1, ge=1)
    least_workers: int | None = Field(None, ge=1, description="as few are enough, where machines come and go")
    gpu: bool = False
    cpus_per_worker: int = Field(1, ge=1)
    wait_for_nodes_s: float = Field(0.0, ge=0, description="how long a cluster may take to grow to the request")
    max_failures: int = Field(3, ge=0)
    checkpoint_every_s: float = Field(60.0, gt=0)
    force: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _fewest_and_most(self) -> "Execution":
        if self.least_workers is not None and self.least_workers > self.workers:
            raise ValueError(f"--workers {self.least_workers}:{self.workers}: give the fewest first")
        return self

    @property
    def at_least(self) -> "Execution":
        """The same with as few workers as are enough."""
        return self if self.least_workers is None else self.model_copy(update={"workers": self.least_workers})

    def for_rows(self, rows: int, passes: int = 1) -> "Execution":
        """The same with no more workers than such work gets."""
        workers = workers_for(rows, self.workers, passes)
        least = None if self.least_workers is None else min(self.least_workers, workers)
        return self.model_copy(update={"workers": workers, "least_workers": least})
