"""Intervals of a mean over few seeds, by Student's t."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean, and the interval that holds the true one in 95 of 100 experiments; of one value it is unbounded."""

    mean: float
    low: float
    high: float

    @property
    def below_zero(self) -> bool:
        """Whether all of it is."""
        return self.high < 0

    @property
    def above_zero(self) -> bool:
        """Whether all of it is."""
        return self.low > 0


def interval(values: Sequence[float]) -> Interval:
    """The interval of the values' mean, mean ± t s / sqrt(n)."""
    count, mean = len(values), float(np.mean(values))
    if count < 2:
        return Interval(mean, -math.inf, math.inf)
    t = float(stdtrit(count - 1, (1 + LEVEL) / 2))
    half = t * float(np.std(values, ddof=1)) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half)
