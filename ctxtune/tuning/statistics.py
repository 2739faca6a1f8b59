"""Means with intervals, for the few numbers that a sweep prints itself."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its 95 % t-interval."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean and two-sided Student t-interval; of a single value the interval is not a number.

    >>> t_interval([1.0, 2.0, 3.0]).mean
    2.0
    """
    count, mean = len(values), float(np.mean(values))
    if count < 2:
        return Interval(mean, float("nan"), float("nan"), count)
    spread = float(stats.sem(values))
    half = spread * float(stats.t.ppf((1 + confidence) / 2, count - 1))
    return Interval(mean, mean - half, mean + half, count)
