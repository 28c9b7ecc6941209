"""What a stage costs, fitted from stages that were built:

    wall_s = fixed_s + units * (serial_s_per_unit + worker_s_per_unit / workers)
    bytes  = fixed_bytes + rows written * bytes_per_row

`worker_s_per_unit` is what the workers themselves measured, so one build is enough for it. What is left of the wall
clock is start-up and, where builds of several sizes tell the two apart, work that is not shared.

Legend: R builds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from davam.config import Frozen
from davam.plan.work import Work

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Build:
    """A stage that was built: its work, the seconds that it took, those that all its workers together spent on the
    units themselves (nothing where the driver did all of it), and the bytes that it left."""

    work: Work
    wall_s: float
    busy_s: float | None
    bytes: int

    @property
    def compute_s(self) -> float:
        """Of the wall clock, what went into the units."""
        return self.wall_s if self.busy_s is None else self.busy_s / self.work.workers

    @property
    def overhead_s(self) -> float:
        """What did not: starting and ending processes, reading, writing, waiting."""
        return max(0.0, self.wall_s - self.compute_s)


class Cost(Frozen):
    """The coefficients of a stage, and the most units that they were measured with."""

    unit: str
    fixed_s: float = Field(ge=0)
    serial_s_per_unit: float = Field(ge=0)
    worker_s_per_unit: float = Field(ge=0)
    fixed_bytes: float = Field(ge=0)
    bytes_per_row: float = Field(ge=0)
    most_units: float = Field(gt=0)

    def wall_s(self, work: Work) -> float:
        """Seconds of the work."""
        return self.fixed_s + work.units * (self.serial_s_per_unit + self.worker_s_per_unit / work.workers)

    def bytes(self, work: Work) -> float:
        """Bytes that the work leaves."""
        return self.fixed_bytes + work.rows_written * self.bytes_per_row


def fitted(builds: Sequence[Build]) -> Cost:
    """The coefficients of one stage, from one build of it or more.

    Of one size alone, what workers did not measure counts as start-up; what the driver did, as its work.
    """
    units_R = np.array([build.work.units for build in builds])
    rows_R = np.array([build.work.rows_written for build in builds])
    bytes_R = np.array([float(build.bytes) for build in builds])
    busy_s = sum(build.busy_s or 0.0 for build in builds)
    by_driver = all(build.busy_s is None for build in builds)
    rest_R = np.array([build.wall_s if by_driver else build.overhead_s for build in builds])
    if len(np.unique(units_R)) > 1:
        fixed_s, serial_s = _line(units_R, rest_R)
    else:
        fixed_s, serial_s = (0.0, rest_R.sum() / units_R.sum()) if by_driver else (rest_R.mean(), 0.0)
    return Cost(
        unit=builds[0].work.unit,
        fixed_s=fixed_s,
        serial_s_per_unit=serial_s,
        worker_s_per_unit=busy_s / units_R.sum(),
        fixed_bytes=0.0 if rows_R.any() else bytes_R.mean(),
        bytes_per_row=bytes_R.sum() / rows_R.sum() if rows_R.any() else 0.0,
        most_units=units_R.max(),
    )


def _line(units_R: Values, seconds_R: Values) -> tuple[float, float]:
    """Seconds of no units and seconds a unit, by least squares; neither is below zero."""
    units, seconds = units_R.mean(), seconds_R.mean()
    slope = ((units_R - units) * (seconds_R - seconds)).sum() / ((units_R - units) ** 2).sum()
    if slope < 0:
        return float(seconds), 0.0
    if seconds < slope * units:
        return 0.0, float((units_R * seconds_R).sum() / (units_R**2).sum())
    return float(seconds - slope * units), float(slope)
