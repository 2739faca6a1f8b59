"""What is spent, what is left, and when the search has had its share (`search.budget`)."""

from collections.abc import Callable, Sequence
from functools import partial

from ctxtune.config import SweepConfig
from ctxtune.tuning import stages
from ctxtune.tuning.backend.cluster import RunResources
from ctxtune.tuning.estimates import (
    FEWEST_SEEDS,
    Estimate,
    least_budget,
    seconds_between_reports,
    seconds_of_arm,
    seconds_of_work,
    too_little,
)
from ctxtune.tuning.race import Round, longest_race, new_runs
from ctxtune.tuning.record.recorder import Recorder
from ctxtune.tuning.spending import Batch, Spending

SELECTION_SHARE = 1 / 3
"""Of what is left after the search: the least that selection gets before confirmation loses seeds to it."""


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
        self._config, self._recorder, self._resources = config, recorder, resources
        self._spending = Spending(config.search.budget, recorder, resources, clock)
        self._start, _ = stages.start_configuration(config)
        self._ended = -1
        self._measured, self._on_measured = False, on_measured

    @property
    def estimate(self) -> Estimate:
        """What runs take, from those seen so far."""
        runs = self._recorder.journal.runs.values()
        of_arm = partial(seconds_of_arm, self._config, runs, self._start)
        return Estimate(seconds_of_work(self._config, runs), self._spending.setup, of_arm)

    def check_search(self) -> None:
        """Ask the recorder to stop the search where a limit is met: patience at every end of a run, hours once a second."""
        self._check_patience()
        if self.keep_time():
            self._check_limits()
            if self._spending.limited and not self._measured:
                self._measure()

    def keep_time(self) -> bool:
        """Look at the clock, once a second; whether it was time to."""
        return self._spending.keep_time()

    def affordable_seeds(self, arms: Sequence[str]) -> int:
        """Seeds of the confirmation that fit in what is left: two at least, as many as the file asks for at most."""
        confirm = self._config.confirm
        asked = confirm.seeds if confirm else 0
        if not self._spending.limited or not asked:
            return asked
        estimate = self.estimate
        fitting = (
            seeds
            for seeds in range(asked, FEWEST_SEEDS, -1)
            if self._spending.fits(self._confirmation(estimate, seeds, arms))
        )
        return next(fitting, min(asked, FEWEST_SEEDS))

    def affordable_race(self, arms: Sequence[str]) -> tuple[Round, ...]:
        """The rounds of the selection that fit in what is left, a confirmation kept back; none: there is no selection.

        Who goes on and who is chosen is not known: those that take longest.
        """
        blocks = len(stages.blocks(self._config))
        if not arms:
            return ()
        if not self._spending.limited:
            return (Round(len(arms), blocks),)
        estimate = self.estimate
        longest = sorted(arms, key=lambda arm: -estimate.run(self._config, "selection", arm=arm))
        kept = self._confirmation(estimate, self._seeds_kept_back(estimate, longest), self._confirmed(longest))
        return longest_race(
            len(arms),
            blocks,
            lambda rounds: self._spending.fits([*self._selection(estimate, rounds, longest), *kept]),
        )

    def next_round_fits(self, arms: Sequence[str], runs: Sequence[str]) -> bool:
        """Whether further runs of selection and the smallest confirmation still fit.

        Args:
            arms: that the round has; ``runs``: the arm of each run.
        """
        estimate = self.estimate
        longest = sorted(arms, key=lambda arm: -estimate.run(self._config, "selection", arm=arm))
        kept = self._confirmation(estimate, FEWEST_SEEDS if self._config.confirm else 0, self._confirmed(longest))
        return self._spending.fits([[estimate.run(self._config, "selection", arm=arm) for arm in runs], *kept])

    def _selection(self, estimate: Estimate, rounds: Sequence[Round], arms: Sequence[str]) -> list[Batch]:
        """The rounds of a selection as batches; each has the first of the arms."""
        seconds = [estimate.run(self._config, "selection", arm=arm) for arm in arms]
        return [seconds[: each.arms] * (runs // each.arms) for each, runs in zip(rounds, new_runs(rounds), strict=True)]

    def _confirmation(self, estimate: Estimate, seeds: int, arms: Sequence[str]) -> list[Batch]:
        """A confirmation as a batch."""
        seconds = [estimate.run(self._config, "confirmation", arm=arm) for arm in arms]
        return [seconds * seeds] if seeds else []

    def needed(self, limit: str) -> float:
        """The least of a limit that holds the start, a handful of trials and a minimal confirmation."""
        return least_budget(self._config, self._resources, self.estimate, limit)

    def _measure(self) -> None:
        """As soon as a run tells how long an interval takes: say so, and end what the budget cannot hold."""
        seconds = seconds_between_reports(self._config, self._recorder.journal.stage("search"))
        if seconds is None:
            return
        self._measured = True
        for limit in self._spending.limits:
            told = too_little(self._config, self._resources, Estimate(seconds), limit.name)
            if told:
                self._recorder.request_stop("budget", told, resumable=True)
                return
        self._on_measured(seconds)

    def _seeds_kept_back(self, estimate: Estimate, arms: Sequence[str]) -> int:
        """Seeds that are kept back while selection is planned: all that fit beside the least that selection gets."""
        asked, confirmed = self._config.confirm.seeds if self._config.confirm else 0, self._confirmed(arms)
        everything = self._selection(estimate, [Round(len(arms), len(stages.blocks(self._config)))], arms)
        for seeds in range(asked, FEWEST_SEEDS, -1):
            batches = self._confirmation(estimate, seeds, confirmed)
            if all(
                self._spending.cost(each.name, batches)
                <= each.left - min(each.left * SELECTION_SHARE, self._spending.cost(each.name, everything))
                for each in self._spending.limits
            ):
                return seeds
        return min(asked, FEWEST_SEEDS)

    def _confirmed(self, arms: Sequence[str]) -> list[str]:
        """The arms of a confirmation where the first one is chosen."""
        return [*arms[:1], *self._config.confirm.also] if self._config.confirm else []

    def _wanted(self, limit: str) -> float:
        """What selection and confirmation take of a limit where nothing is left out; by the mean of all runs."""
        estimate, count = self.estimate, stages.arm_count(self._config)
        seeds = self._config.confirm.seeds if self._config.confirm else 0
        rounds = [Round(count, len(stages.blocks(self._config)))] if count else []
        selection = self._selection(estimate, rounds, [""] * count)
        return self._spending.cost(limit, [*selection, *self._confirmation(estimate, seeds, self._confirmed([""]))])

    def _least(self, limit: str) -> float:
        """What the smallest confirmation of the best trial so far takes of a limit."""
        best = stages.best_trial(self._config, self._recorder.journal)
        if best is None or not self._config.confirm:
            return 0.0
        arms = self._confirmed([best.key])
        return self._spending.cost(limit, self._confirmation(self.estimate, FEWEST_SEEDS, arms))

    def _check_limits(self) -> None:
        share = self._config.search.budget.search_share
        for limit in self._spending.limits:
            least, most = self._least(limit.name), (1 - share) * limit.total
            if limit.spent + max(least, most) < limit.total:
                continue  # whatever is wanted; to know that, all runs are looked at
            reserve = max(min(self._wanted(limit.name), most), least)
            if limit.spent + reserve >= limit.total:
                message = f"the search ends: {limit.spent:.2f} {limit.unit} spent, {reserve:.2f} kept for what follows"
                self._recorder.request_stop(limit.name, message, resumable=False)

    def _check_patience(self) -> None:
        patience, journal = self._config.search.budget.no_improvement_for, self._recorder.journal
        if patience is None or journal.ended_runs <= patience or journal.ended_runs == self._ended:
            return
        self._ended = journal.ended_runs
        best = stages.best_trial(self._config, journal)
        ended = [run.key for run in journal.stage("search") if run.state != "running"]
        if best and len(ended) - 1 - ended.index(best.key) >= patience:
            message = f"the search ends: no better trial in the last {patience}"
            self._recorder.request_stop("no_improvement", message, resumable=False)
