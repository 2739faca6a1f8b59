"""What runs cost: hours and, where they are known, GPU-hours and money."""

from collections.abc import Iterable
from dataclasses import dataclass

from ctxtune.results.runs import Run

GPU_HOURS = "cost/gpu_hours"
MONEY = "cost/money"


@dataclass(frozen=True)
class Rate:
    """What an hour of one run takes.

    Attributes:
        gpus: GPUs of one run, fractions allowed.
        price: of an hour of one GPU, in any currency; None where nobody has said.
    """

    gpus: float
    price: float | None = None

    def of(self, seconds: float) -> dict[str, float]:
        """So many seconds of a run as metrics; none where it has no GPU."""
        if not self.gpus:
            return {}
        hours = self.gpus * seconds / 3600
        return {GPU_HOURS: hours} | ({MONEY: hours * self.price} if self.price is not None else {})


@dataclass(frozen=True)
class Spent:
    """What several runs have cost, as they last reported; None where none of them has logged it."""

    gpu_hours: float | None = None
    money: float | None = None

    def __str__(self) -> str:
        money = "" if self.money is None else f" for {self.money:.2f}"
        return f"{self.gpu_hours or 0.0:.3g} GPU-hours{money}"


def spent(runs: Iterable[Run]) -> Spent:
    """What runs have cost so far, those that are under way up to their last report."""
    totals: dict[str, float] = {}
    for run in runs:
        for metric in (GPU_HOURS, MONEY):
            value = run.value(metric)
            if value is not None:
                totals[metric] = totals.get(metric, 0.0) + value
    return Spent(totals.get(GPU_HOURS), totals.get(MONEY))


def hours_of(runs: Iterable[Run]) -> float:
    """Wall hours of work of all runs together."""
    return sum(run.hours for run in runs)
