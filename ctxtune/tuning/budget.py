"""What is spent, what is left, and when the search has had its share (`search.budget`)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from ctxtune.config import SweepConfig
from ctxtune.results import costs
from ctxtune.tuning import stages
from ctxtune.tuning.backend.cluster import RunResources
from ctxtune.tuning.estimates import (
    FEWEST_SEEDS,
    Estimate,
    least_budget,
    seconds_between_reports,
    seconds_of_work,
    too_little,
)
from ctxtune.tuning.race import Round, longest_race, new_runs
from ctxtune.tuning.record.recorder import Recorder

CHECK_SECONDS = 1.0
"""Between two looks at the clock: Ray asks many times a second."""
NOTED_SHARE = 0.01
"""Of the hours, between two notes of how many are spent (but a minute at least): what a killed process forgets, at most."""
SELECTION_SHARE = 1 / 3
"""Of what is left after the search: the least that selection gets before confirmation loses seeds to it."""

Batch = tuple[int, float]
"""So many runs that may go on side by side, of so many seconds each; batches follow each other."""


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


class Budget:
    """Hours, GPU-hours and patience of one sweep.

    The search ends when it has had ``search_share`` of the hours, or later where selection and confirmation, as the file
    asks for them, fit in what is left. They then fit themselves into the rest.

    Args:
        clock: seconds, from any beginning.
        on_measured: told, once, what a full-length run takes here, as soon as that is known.
    """

    def __init__(
        self,
        config: SweepConfig,
        recorder: Recorder,
        resources: RunResources,
        clock: Callable[[], float],
        on_measured: Callable[[float], object] = lambda seconds: None,
    ) -> None:
        self._config, self._recorder, self._resources, self._clock = config, recorder, resources, clock
        journal = recorder.journal
        worked = sum(run.seconds for run in journal.runs.values()) / resources.concurrent / 3600
        self._hours_before = max(worked, journal.decisions.hours_spent)
        self._started = self._looked_at = self._noted_at = clock()
        self._looked_at -= CHECK_SECONDS
        self._ended = -1
        self._measured, self._on_measured = False, on_measured
        self._seen: dict[str, tuple[float, float]] = {}
        self._setups: dict[str, float] = {}

    @property
    def limited(self) -> bool:
        """Whether hours or GPU-hours are limited at all."""
        budget = self._config.search.budget
        return budget.hours is not None or budget.gpu_hours is not None

    def limits(self) -> list[Limit]:
        """The limits that the file sets, with what is spent of each."""
        budget, found = self._config.search.budget, []
        if budget.hours is not None:
            found.append(Limit("hours", budget.hours, self.hours_spent))
        if budget.gpu_hours is not None and self._resources.gpus:
            found.append(
                Limit("gpu_hours", budget.gpu_hours, costs.spent(self._recorder.journal.runs.values()).gpu_hours)
            )
        return found

    @property
    def hours_spent(self) -> float:
        """Wall time of this sweep, that of earlier processes as they noted it."""
        return self._hours_before + (self._clock() - self._started) / 3600

    @property
    def estimate(self) -> Estimate:
        """What runs take, from those seen so far."""
        setup = median(self._setups.values()) if self._setups else 0.0
        return Estimate(seconds_of_work(self._config, self._recorder.journal.runs.values()), setup)

    def check_search(self) -> None:
        """Ask the recorder to stop the search where a limit is met: patience at every end of a run, hours once a second."""
        self._check_patience()
        if self.keep_time():
            self._check_limits()
            if self.limited and not self._measured:
                self._measure()

    def keep_time(self) -> bool:
        """Look at the clock, once a second; whether it was time to."""
        now = self._clock()
        if now - self._looked_at < CHECK_SECONDS:
            return False
        self._looked_at = now
        hours = self._config.search.budget.hours
        if hours is not None and now - self._noted_at >= max(60.0, NOTED_SHARE * 3600 * hours):
            self._noted_at = now
            self._recorder.decide("hours_spent", round(self.hours_spent, 4))
        self._watch_setups(now)
        return True

    def fits(self, batches: Sequence[Batch]) -> bool:
        """Whether runs, one batch after another, fit in what is left of every limit."""
        return all(self.cost(limit.name, batches) <= limit.left for limit in self.limits())

    def cost(self, limit: str, batches: Sequence[Batch]) -> float:
        """What batches of runs take of a limit."""
        places, gpus = self._resources.concurrent, self._resources.gpus
        if limit == "hours":
            return sum(math.ceil(runs / places) * seconds for runs, seconds in batches) / 3600
        return sum(runs * seconds * gpus for runs, seconds in batches) / 3600

    def affordable_seeds(self, arms: int) -> int:
        """Seeds of the confirmation that fit in what is left: two at least, as many as the file asks for at most."""
        confirm = self._config.confirm
        asked = confirm.seeds if confirm else 0
        if not self.limited or not asked:
            return asked
        fitting = (seeds for seeds in range(asked, FEWEST_SEEDS, -1) if self.fits(self.confirmation(seeds, arms)))
        return next(fitting, min(asked, FEWEST_SEEDS))

    def affordable_race(self, arms: int) -> tuple[Round, ...]:
        """The rounds of the selection that fit in what is left, a confirmation kept back; none: there is no selection."""
        blocks = len(stages.blocks(self._config))
        if not self.limited:
            return (Round(arms, blocks),)
        kept = self.confirmation(self._seeds_kept_back(), self._confirmed_arms())
        return longest_race(arms, blocks, lambda rounds: self.fits([*self.selection(rounds), *kept]))

    def next_round_fits(self, runs: int) -> bool:
        """Whether so many runs of selection and the smallest confirmation still fit."""
        kept = self.confirmation(FEWEST_SEEDS if self._config.confirm else 0, self._confirmed_arms())
        return self.fits([(runs, self.estimate.run(self._config, "selection")), *kept])

    def selection(self, rounds: Sequence[Round]) -> list[Batch]:
        """The rounds of a selection as batches."""
        seconds = self.estimate.run(self._config, "selection")
        return [(runs, seconds) for runs in new_runs(rounds)]

    def confirmation(self, seeds: int, arms: int) -> list[Batch]:
        """A confirmation as a batch."""
        return [(seeds * arms, self.estimate.run(self._config, "confirmation"))] if seeds else []

    def needed(self, limit: str) -> float:
        """The least of a limit that holds the start, a handful of trials and a minimal confirmation."""
        return least_budget(self._config, self._resources, self.estimate, limit)

    def _measure(self) -> None:
        """As soon as a run tells how long an interval takes: say so, and end what the budget cannot hold."""
        seconds = seconds_between_reports(self._config, self._recorder.journal.stage("search"))
        if seconds is None:
            return
        self._measured = True
        for limit in self.limits():
            told = too_little(self._config, self._resources, Estimate(seconds), limit.name)
            if told:
                self._recorder.request_stop("budget", told, resumable=True)
                return
        self._on_measured(seconds)

    def _seeds_kept_back(self) -> int:
        """Seeds that are kept back while selection is planned: all that fit beside the least that selection gets."""
        asked, arms = self._config.confirm.seeds if self._config.confirm else 0, self._confirmed_arms()
        everything = self.selection((Round(stages.arm_count(self._config), len(stages.blocks(self._config))),))
        for seeds in range(asked, FEWEST_SEEDS, -1):
            batches = self.confirmation(seeds, arms)
            if all(
                self.cost(each.name, batches)
                <= each.left - min(each.left * SELECTION_SHARE, self.cost(each.name, everything))
                for each in self.limits()
            ):
                return seeds
        return min(asked, FEWEST_SEEDS)

    def _confirmed_arms(self) -> int:
        return 1 + len(self._config.confirm.also) if self._config.confirm else 0

    def _wanted(self, limit: str) -> float:
        """What selection and confirmation take of a limit where nothing is left out."""
        rounds = (Round(stages.arm_count(self._config), len(stages.blocks(self._config))),)
        seeds = self._config.confirm.seeds if self._config.confirm else 0
        selection = self.selection(rounds) if self._config.select else []
        return self.cost(limit, [*selection, *self.confirmation(seeds, self._confirmed_arms())])

    def _check_limits(self) -> None:
        share = self._config.search.budget.search_share
        for limit in self.limits():
            reserve = min(self._wanted(limit.name), (1 - share) * limit.total)
            if limit.spent + reserve >= limit.total:
                unit = "h" if limit.name == "hours" else "GPU-hours"
                message = f"the search ends: {limit.spent:.2f} {unit} spent, {reserve:.2f} kept for what follows"
                self._recorder.request_stop(limit.name, message, resumable=False)

    def _check_patience(self) -> None:
        patience, journal = self._config.search.budget.no_improvement_for, self._recorder.journal
        if patience is None or journal.ended_runs == self._ended:
            return
        self._ended = journal.ended_runs
        best = stages.best_trial(self._config, journal)
        ended = [run.key for run in journal.stage("search") if run.state != "running"]
        if best and len(ended) - 1 - ended.index(best.key) >= patience:
            message = f"the search ends: no better trial in the last {patience}"
            self._recorder.request_stop("no_improvement", message, resumable=False)

    def _watch_setups(self, now: float) -> None:
        """Seconds of each run that its reports do not tell of: from when it was started here to when it ended."""
        for key, run in self._recorder.journal.runs.items():
            if run.state == "running":
                self._seen.setdefault(key, (now, run.seconds))
            elif key in self._seen:
                began, before = self._seen.pop(key)
                self._setups[key] = max(0.0, now - began - (run.seconds - before))
