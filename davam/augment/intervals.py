"""Intervals of a mean over few seeds, by Student's t."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
    half = t_quantile(count - 1) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half)


def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """The t with P(|T| < t) = level, for whole degrees of freedom, by bisection."""
    low, high = 0.0, 1.0
    while within(high, freedom) < level:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle, freedom) < level else (low, middle)
    return high


def within(t: float, freedom: int) -> float:
    """P(|T| < t) of Student's distribution, the finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    odd, cosine = freedom % 2, math.cos(angle)
    term = cosine if odd else 1.0
    total = 0.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    return (angle + math.sin(angle) * total) * 2 / math.pi if odd else math.sin(angle) * total
