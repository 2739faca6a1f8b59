"""The median rule: a trial stops when its best is worse than what others had by then on average."""

import math
from bisect import bisect_left, insort
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

FEWEST = 3
"""Other trials that must have come as far."""


@dataclass
class _Curve:
    epochs: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    best: float = -math.inf


@dataclass
class _Moment:
    """An epoch at which trials report: the mean of each that came so far, also in ascending order."""

    means: dict[str, float] = field(default_factory=dict)
    ascending: list[float] = field(default_factory=list)


class MedianStopping:
    """The rule of Google's Vizier (Golovin et al. 2017, section 3.2.2).

    A trial stops if the best that it has reported is worse than the median of what the others that came as far had reported
    until then on average. Decides as Ray Tune's `MedianStoppingRule` does, which averages all reports of all trials anew
    for each report.

    Args:
        mode: whether high scores are good, or low ones.
        grace_epochs: before them no trial is stopped, and what is reported before them is in no average.
    """

    def __init__(self, *, mode: Literal["max", "min"], grace_epochs: int) -> None:
        self._sign = 1.0 if mode == "max" else -1.0
        self._grace = grace_epochs
        self._curves: dict[str, _Curve] = {}
        self._moments: dict[float, _Moment] = {}

    def stops(self, key: str, epoch: float, score: float) -> bool:
        """Whether a trial stops with this report; an epoch that it has reported before decides nothing."""
        curve = self._curves.setdefault(key, _Curve())
        if curve.epochs and epoch <= curve.epochs[-1]:
            return False
        value = self._sign * score
        curve.epochs.append(epoch)
        curve.values.append(value)
        curve.best = max(curve.best, value)  # what is not a number is never better
        for at, moment in self._moments.items():
            if at <= epoch and key not in moment.means:
                self._enter(moment, at, key, curve)
        if epoch < self._grace:
            return False
        if epoch not in self._moments:
            moment = self._moments[epoch] = _Moment()
            for other, earlier in self._curves.items():
                if earlier.epochs[-1] >= epoch:
                    self._enter(moment, epoch, other, earlier)
        median = _median_without(self._moments[epoch], key)
        return median is not None and curve.best < median

    def _enter(self, moment: _Moment, at: float, key: str, curve: _Curve) -> None:
        told = [value for epoch, value in zip(curve.epochs, curve.values, strict=True) if self._grace <= epoch <= at]
        mean = moment.means[key] = fmean(told) if told else math.nan
        if math.isfinite(mean):
            insort(moment.ascending, mean)


def _median_without(moment: _Moment, key: str) -> float | None:
    """The median of the others' means; None of too few."""
    ascending, own = moment.ascending, moment.means[key]
    place = bisect_left(ascending, own) if math.isfinite(own) else len(ascending)
    count = len(ascending) - math.isfinite(own)
    if count < FEWEST:
        return None
    low, high = (ascending[middle + (middle >= place)] for middle in ((count - 1) // 2, count // 2))
    return low if low == high else (low + high) / 2
