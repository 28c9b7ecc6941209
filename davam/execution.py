"""How a run is carried out. Light on purpose: every process of a cluster imports it, most of them without torch."""

from pydantic import Field, model_validator

from davam.config import Frozen


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
