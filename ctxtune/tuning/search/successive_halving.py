"""Asynchronous successive halving (ASHA): which trial is not worth its next epochs."""

import math
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass
class _Rung:
    """The scores of the trials that have come so far, also in ascending order."""

    epoch: float
    entered: set[str] = field(default_factory=set)
    ascending: list[float] = field(default_factory=list)


class SuccessiveHalving:
    """The rungs of one bracket (Li et al. 2020, A System for Massively Parallel Hyperparameter Tuning, algorithm 2).

    A trial enters a rung with its first report at or beyond the rung's epoch, and stops there if it is below the best
    ``1 / reduction_factor`` of those before it. Decides as Ray Tune's `AsyncHyperBandScheduler` does, which sorts all
    scores of a rung for each that enters it: the square of the trials, where this keeps them sorted.

    Args:
        mode: whether high scores are good, or low ones.
        grace_epochs: epoch of the first rung.
        max_epochs: of a whole trial.
        reduction_factor: from rung to rung of epochs, and its inverse the share that goes on.
    """

    def __init__(
        self, *, mode: Literal["max", "min"], grace_epochs: int, max_epochs: int, reduction_factor: float
    ) -> None:
        rungs = int(math.log(max_epochs / grace_epochs) / math.log(reduction_factor) + 1)
        self._sign = 1.0 if mode == "max" else -1.0
        self._max_epochs = max_epochs
        self._quantile = (1 - 1 / reduction_factor) * 100 / 100  # in percent and back: rounded as numpy's percentiles
        self._rungs = [_Rung(grace_epochs * reduction_factor**number) for number in reversed(range(rungs))]

    def stops(self, key: str, epoch: float, score: float) -> bool:
        """Whether a trial stops with this report; a score that is not a number stops none and is compared with none."""
        if epoch >= self._max_epochs:
            return True
        value = self._sign * score
        rung = next((rung for rung in self._rungs if epoch >= rung.epoch and key not in rung.entered), None)
        if rung is None:
            return False
        poor = bool(rung.ascending) and value < quantile(rung.ascending, self._quantile)
        rung.entered.add(key)
        if not math.isnan(value):
            insort(rung.ascending, value)
        return poor


def quantile(ascending: Sequence[float], share: float) -> float:
    """Of sorted numbers, between two of them as `numpy.quantile` does by default, to the bit."""
    at = (len(ascending) - 1) * share
    before = math.floor(at)
    low, high, weight = ascending[before], ascending[min(before + 1, len(ascending) - 1)], at - before
    return low + (high - low) * weight if weight < 0.5 else high - (high - low) * (1 - weight)
