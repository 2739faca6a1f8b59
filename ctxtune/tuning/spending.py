"""What is spent of hours and GPU-hours, and what runs that are still to come would take of them."""

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ctxtune.config.budget import LimitSettings
from ctxtune.results import costs
from ctxtune.tuning.backend.cluster import RunResources
from ctxtune.tuning.record.journal import Journal
from ctxtune.tuning.record.recorder import Recorder
from ctxtune.tuning.setup_times import SetupTimes

CHECK_SECONDS = 1.0
"""Between two looks at the clock: Ray asks many times a second."""
RUNS_A_SECOND = 500
"""A look goes through all runs: of thousands it is taken less often, so that its share of the driver's time stays."""
NOTED_SHARE = 0.01
"""Of the hours, between two notes of how many are spent (but a minute at least): what a killed process forgets, at most."""
LIMITS = ("hours", "gpu_hours")
"""The limits of a budget, which are also the reasons of a search that one of them ended."""

Batch = Sequence[float]
"""The seconds of runs that may go on side by side; batches follow each other."""


@dataclass(frozen=True)
class Limit:
    """One of the limits of a budget: hours of wall time, or GPU-hours."""

    name: str
    total: float
    spent: float

    @property
    def left(self) -> float:
        """What is not spent."""
        return self.total - self.spent

    @property
    def unit(self) -> str:
        """In words."""
        return unit_of(self.name)


@dataclass(frozen=True)
class StageForecast:
    """What a stage is expected to take: its runs, hours of wall time, and hours of work of all runs together."""

    runs: int
    hours: float
    work_hours: float


def unit_of(limit: str) -> str:
    """A limit's unit in words."""
    return "h" if limit == "hours" else "GPU-hours"


class Limits(Protocol):
    """What is limited, and how far."""

    @property
    def hours(self) -> float | None:
        """Hours of wall time."""

    @property
    def gpu_hours(self) -> float | None:
        """GPU-hours."""


def raised(before: Limits, now: Limits) -> bool:
    """Whether a file allows more than before: a limit is higher or gone, none is lower or new."""
    pairs = [(now.hours, before.hours), (now.gpu_hours, before.gpu_hours)]
    return any(value != earlier for value, earlier in pairs) and all(
        value is None or (earlier is not None and value >= earlier) for value, earlier in pairs
    )


def revive(journal: Journal, stage: str) -> None:
    """Have the runs of a stage that a limit killed go on from their checkpoints."""
    for run in journal.stage(stage):
        if run.state == "killed" and run.reason in LIMITS:
            journal.resumed(run.key)


def makespan(seconds: Iterable[float], places: int) -> float:
    """How long runs take together where so many run at a time, each begun as soon as there is a place."""
    free = [0.0] * places
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)


def cost_of(limit: str, batches: Iterable[Batch], resources: RunResources) -> float:
    """What batches of runs take of a limit, in hours or GPU-hours."""
    if limit == "hours":
        return sum(makespan(batch, resources.concurrent) for batch in batches) / 3600
    return sum(sum(batch) for batch in batches) * resources.gpus / 3600


class Spending:
    """The hours and GPU-hours of one sweep or ablation, whatever processes it took.

    Args:
        clock: seconds, from any beginning.
    """

    def __init__(
        self, settings: LimitSettings, recorder: Recorder, resources: RunResources, clock: Callable[[], float]
    ) -> None:
        self._settings, self._recorder, self._resources, self._clock = settings, recorder, resources, clock
        journal = recorder.journal
        worked = sum(run.seconds for run in journal.runs.values()) / resources.concurrent / 3600
        self._hours_before = max(worked, journal.decisions.hours_spent)
        self._started = self._looked_at = self._noted_at = clock()
        self._looked_at -= CHECK_SECONDS
        self._setups = SetupTimes()

    @property
    def limited(self) -> bool:
        """Whether hours or GPU-hours are limited at all."""
        return self._settings.hours is not None or self._settings.gpu_hours is not None

    @property
    def limits(self) -> list[Limit]:
        """The limits that the file sets, with what is spent of each."""
        settings, found = self._settings, []
        if settings.hours is not None:
            found.append(Limit("hours", settings.hours, self.hours))
        if settings.gpu_hours is not None and self._resources.gpus:
            spent = costs.spent(self._recorder.journal.runs.values()).gpu_hours
            found.append(Limit("gpu_hours", settings.gpu_hours, spent))
        return found

    @property
    def hours(self) -> float:
        """Wall time so far, that of earlier processes as they noted it."""
        return self._hours_before + (self._clock() - self._started) / 3600

    @property
    def setup(self) -> float:
        """Seconds of a run that its reports do not tell of: its process, its data, its last scores."""
        return self._setups.seconds

    def keep_time(self) -> bool:
        """Look at the clock, once a second (of thousands of runs more seldom); whether it was time to."""
        now = self._clock()
        if now - self._looked_at < max(CHECK_SECONDS, len(self._recorder.journal.runs) / RUNS_A_SECOND):
            return False
        self._looked_at = now
        hours = self._settings.hours
        if hours is not None and now - self._noted_at >= max(60.0, NOTED_SHARE * 3600 * hours):
            self._noted_at = now
            self._recorder.decide("hours_spent", round(self.hours, 4))
        self.watch_setups()
        return True

    def watch_setups(self) -> None:
        """Take in what the runs that have ended since took beside their epochs."""
        self._setups.watch(self._recorder.journal.runs.values(), self._clock())

    def cost(self, limit: str, batches: Iterable[Batch]) -> float:
        """What batches of runs take of a limit."""
        return cost_of(limit, batches, self._resources)

    def fits(self, batches: Sequence[Batch]) -> bool:
        """Whether runs, one batch after another, fit in what is left of every limit."""
        return all(self.cost(limit.name, batches) <= limit.left for limit in self.limits)
