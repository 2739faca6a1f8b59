"""What runs cost: hours and, where they are known, GPU-hours and money."""

from collections.abc import Iterable
from dataclasses import dataclass

from ctxtune.results.runs import Measured

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
    """What several runs have cost, as they last reported; ``money`` is None without a price."""

    gpu_hours: float
    money: float | None

    def __str__(self) -> str:
        money = "" if self.money is None else f" for {self.money:.2f}"
        return f"{self.gpu_hours:.3g} GPU-hours{money}"


def spent(runs: Iterable[Measured]) -> Spent:
    """What runs have cost so far, those that are under way up to their last report."""
    hours, money = 0.0, None
    for run in runs:
        hours += run.last(GPU_HOURS) or 0.0
        paid = run.last(MONEY)
        money = money if paid is None else (money or 0.0) + paid
    return Spent(hours, money)


def hours_of(runs: Iterable[Measured]) -> float:
    """Wall hours of work of all runs together."""
    return sum(run.last("time/seconds") or 0.0 for run in runs) / 3600
