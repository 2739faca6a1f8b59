"""A mean over seeds, and how far it can be trusted."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
RESAMPLES = 9999
FEWEST_FOR_BOOTSTRAP = 5
"""Of three values a bootstrap is their range, about: it holds the true mean in some 73 of 100 cases where it says 95."""


@dataclass(frozen=True)
class Interval:
    """A mean with a two-sided interval, 95 % unless said otherwise."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Description:
    """Values of one arm: their mean, standard deviation (n - 1 in the denominator), and two intervals of the mean."""

    mean: float
    deviation: float
    interval: Interval
    bootstrap: Interval
    count: int


def t_interval(values: Sequence[float] | Floats, confidence: float = 0.95) -> Interval:
    """Mean and two-sided Student t-interval; of a single value the interval is not a number.

    >>> t_interval([1.0, 2.0, 3.0]).mean
    2.0
    """
    count, mean = len(values), float(np.mean(values))
    if count < 2:
        return Interval(mean, float("nan"), float("nan"), count)
    half = float(stats.sem(values)) * float(stats.t.ppf((1 + confidence) / 2, count - 1))
    return Interval(mean, mean - half, mean + half, count)


def bootstrap_interval(
    values: Sequence[float] | Floats, confidence: float = 0.95, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Mean and bias-corrected, accelerated bootstrap interval (Efron 1987; scipy.stats.bootstrap).

    With few values it is too narrow: of five normal ones it holds the true mean in some 85 of 100 cases, not 95. Not a
    number of fewer (`FEWEST_FOR_BOOTSTRAP`), or where the correction is not defined; of equal values a point.
    """
    array = np.asarray(values, dtype=float)
    count, mean = len(array), float(array.mean())
    if count < FEWEST_FOR_BOOTSTRAP:
        return Interval(mean, float("nan"), float("nan"), count)
    if np.ptp(array) <= 1e-12 * np.abs(array).max():  # the same up to rounding: there is nothing to resample
        return Interval(mean, mean, mean, count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found: Any = stats.bootstrap(
            (array,), np.mean, confidence_level=confidence, n_resamples=resamples, rng=np.random.default_rng(seed)
        ).confidence_interval
    return Interval(mean, float(found.low), float(found.high), count)


def describe(values: Sequence[float] | Floats) -> Description:
    """Mean, standard deviation and intervals of at least one value."""
    array = np.asarray(values, dtype=float)
    deviation = float(array.std(ddof=1)) if len(array) > 1 else float("nan")
    return Description(float(array.mean()), deviation, t_interval(array), bootstrap_interval(array), len(array))
