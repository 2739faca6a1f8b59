"""What a budget buys in an ablation (`tune_each.budget`): the seeds keep their number, every cell has the trials that fit.

A round is one trial of every cell and repeat. All cells are tuned by the same number of whole rounds: what a cell has of a
round that others do not have does not count.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ctxtune.ablation.runs import folds_of, repeats_of, selection_count, tuning_folds
from ctxtune.ablation.searches import Searches
from ctxtune.config import Ablation, Cell
from ctxtune.text import counted, duration
from ctxtune.tuning.backend.cluster import RunResources
from ctxtune.tuning.estimates import fit_share
from ctxtune.tuning.record.journal import RunRecord
from ctxtune.tuning.record.recorder import Recorder
from ctxtune.tuning.spending import LIMITS, Batch, Limit, Spending, StageForecast, cost_of

FEWEST_TRIALS = 2
"""Of every cell: its own configuration, and another one."""
FEW_TRIALS = 5
"""A tuning of fewer trials than these is warned of."""
MARGIN = 1.05
"""A round that is expected to end within a twentieth of what is left for it is not begun."""


@dataclass(frozen=True)
class CellTimes:
    """What the runs of each cell take.

    Attributes:
        seconds: of a full-length run on one validation fold, by cell.
        setup: seconds of each run beside that.
    """

    seconds: Mapping[str, float]
    setup: float = 0.0

    @property
    def mean(self) -> float:
        """Seconds of a full-length run, mean over the cells."""
        return sum(self.seconds.values()) / len(self.seconds)

    def round(self, ablation: Ablation) -> list[float]:
        """Seconds of each trial of a round."""
        return [self.setup + _work(ablation, "cell_search") * each for each in self.seconds.values()] * repeats_of(
            ablation
        )

    def selection(self, ablation: Ablation, trials: int) -> list[float]:
        """Seconds of each run that selects, after so many trials of every cell."""
        return [self.setup + each for each in self.seconds.values()] * selection_count(ablation, 1, trials)

    def seeds(self, ablation: Ablation) -> list[float]:
        """Seconds of each run of the seeds."""
        runs = repeats_of(ablation) * ablation.seeds * len(folds_of(ablation))
        return [self.setup + _work(ablation, "cell") * each for each in self.seconds.values()] * runs

    def kept(self, ablation: Ablation, trials: int) -> list[Batch]:
        """What follows the tuning, whatever the budget: the selection after so many trials of every cell, and the seeds."""
        selection = self.selection(ablation, trials)
        return [*([selection] if selection else []), self.seeds(ablation)]


@dataclass(frozen=True)
class AblationForecast:
    """What an ablation is expected to do.

    Attributes:
        trials: of every cell and repeat, as many as the budget holds; ``asked``: of the file.
        by_stage: tuning and selection, where there is any, and seeds.
    """

    trials: int
    asked: int
    by_stage: dict[str, StageForecast]

    @property
    def hours(self) -> float:
        """Wall time in all."""
        return sum(stage.hours for stage in self.by_stage.values())

    @property
    def work_hours(self) -> float:
        """Hours of work of all runs."""
        return sum(stage.work_hours for stage in self.by_stage.values())


def forecast(ablation: Ablation, times: CellTimes, resources: RunResources) -> AblationForecast:
    """How many trials the budget holds beside the seeds, and what both stages take."""
    tune = ablation.tune_each
    asked = tune.trials if tune else 0
    fewest, most = 0, asked
    while fewest < most:  # the most that fit
        trials = (fewest + most + 1) // 2
        if all(_needed(ablation, times, resources, limit, trials) <= total for limit, total in _limits(ablation)):
            fewest = trials
        else:
            most = trials - 1
    stages = {"tuning": times.round(ablation) * fewest} if tune else {}
    if tune and tune.select:
        stages["selection"] = times.selection(ablation, fewest)
    stages["seeds"] = times.seeds(ablation)
    by_stage = {
        name: StageForecast(len(runs), cost_of("hours", [runs], resources), sum(runs) / 3600)
        for name, runs in stages.items()
    }
    return AblationForecast(fewest, asked, by_stage)


def too_little(ablation: Ablation, times: CellTimes, resources: RunResources) -> str | None:
    """What to say of a budget that cannot hold the seeds and the fewest trials; None: it can."""
    for limit, total in _limits(ablation):
        least = _needed(ablation, times, resources, limit, FEWEST_TRIALS)
        if total < least:
            return _refusal(ablation, times, limit, total, least)
    return None


def enough(ablation: Ablation, times: CellTimes, resources: RunResources, limit: str) -> float:
    """The least of a limit that holds all trials and seeds of the file."""
    return _rounded_up(
        _needed(ablation, times, resources, limit, ablation.tune_each.trials if ablation.tune_each else 0)
    )


def whole_rounds(ablation: Ablation, searches: Searches, runs: Mapping[str, RunRecord]) -> int:
    """How many rounds every cell has to their end; a space that came to its end has all of them."""
    assert ablation.tune_each is not None
    for number in range(ablation.tune_each.trials):
        for key, exhausted in searches.round(number):
            run = runs.get(key)
            if (run is None and not exhausted) or (run is not None and run.state in ("killed", "running")):
                return number
    return ablation.tune_each.trials


class TuningBudget:
    """Says which rounds of the tuning are begun, and ends it where time runs out all the same.

    Args:
        clock: seconds, from any beginning.
        on_measured: told, once, what runs take here, as soon as that is known.
    """

    def __init__(
        self,
        ablation: Ablation,
        cells: Sequence[Cell],
        recorder: Recorder,
        resources: RunResources,
        clock: Callable[[], float],
        on_measured: Callable[[CellTimes], object] = lambda times: None,
    ) -> None:
        assert ablation.tune_each is not None
        self._ablation, self._cells, self._recorder, self._resources = ablation, cells, recorder, resources
        self._spending = Spending(ablation.tune_each.budget, recorder, resources, clock)
        self._measured, self._on_measured = False, on_measured
        self.ended_by = ""
        """The limit that has ended the tuning; "" where none has."""

    @property
    def times(self) -> CellTimes | None:
        """What runs take, from those seen so far; a cell that has not run takes as long as the others on average."""
        work: dict[str, float] = {}
        seconds: dict[str, float] = {}
        for run in self._recorder.journal.runs.values():
            done = run.epoch / run.spec.trial.schedule.epochs
            if done and run.seconds:
                whole = _work(self._ablation, run.stage)
                work[run.spec.arm] = work.get(run.spec.arm, 0.0) + done * whole
                seconds[run.spec.arm] = seconds.get(run.spec.arm, 0.0) + run.seconds
        if not work:
            return None
        known = {cell: seconds[cell] / work[cell] for cell in work}
        mean = sum(known.values()) / len(known)
        return CellTimes({cell.name: known.get(cell.name, mean) for cell in self._cells}, self._spending.setup)

    def admits(self, number: int) -> bool:
        """Whether a round is to be begun: it is expected to end while the seeds still fit."""
        self._spending.watch_setups()
        times = self.times
        if self.ended_by:
            return False
        if number == 0 or times is None or not self._spending.limited:
            return True
        tuning = [*self._under_way(times), *times.round(self._ablation)]
        kept = times.kept(self._ablation, number + 1)
        for limit in self._spending.limits:
            reserve = self._spending.cost(limit.name, kept)
            if self._refused(limit, times, reserve):
                return False
            if MARGIN * self._spending.cost(limit.name, [tuning]) + reserve > limit.left:
                self.ended_by = limit.name
        return not self.ended_by

    def check(self) -> None:
        """Ask the recorder to stop the tuning where no more is left than the seeds take, and all where not even that is left;
        once a second.

        Only runs that have ended tell what each takes beside its epochs; where that is most of it, too small a budget is
        not seen before.
        """
        if not self._spending.keep_time() or not self._spending.limited:
            return
        if not self._measured:
            self._measure()
        times = self.times
        if times is None:
            return
        for limit in self._spending.limits:
            reserve = self._spending.cost(limit.name, times.kept(self._ablation, self._rounds_begun))
            if self._refused(limit, times, reserve):
                return
            if limit.spent + reserve >= limit.total:
                self.ended_by = limit.name
                kept = _kept(self._ablation)
                message = f"the tuning ends: {limit.spent:.2f} {limit.unit} spent, {reserve:.2f} kept for {kept}"
                self._recorder.request_stop(limit.name, message, resumable=False)

    def keep_time(self) -> None:
        """Note what is spent, once a second."""
        self._spending.keep_time()

    def _measure(self) -> None:
        """As soon as a run has two reports or its end: say what runs take, and end what the budget cannot hold."""
        runs = self._recorder.journal.stage("cell_search")
        if not any(len(run.reports) > 1 or run.state == "completed" for run in runs):
            return
        self._measured = True
        times = self.times
        if times is None:
            return
        told = too_little(self._ablation, replace(times, setup=0.0), self._resources)
        if told:
            self._recorder.request_stop("budget", told, resumable=True)
        else:
            self._on_measured(times)

    def _refused(self, limit: Limit, times: CellTimes, reserve: float) -> bool:
        """Whether all was ended, to be resumed with more: what is left cannot hold the seeds, and a tuning there is not yet."""
        completed = len(self._recorder.journal.completed("cell_search"))
        missing = FEWEST_TRIALS - completed // (len(self._cells) * repeats_of(self._ablation))
        if missing <= 0 or reserve <= MARGIN * limit.left:
            return False
        least = limit.spent + _needed(self._ablation, times, self._resources, limit.name, missing)
        told = _refusal(self._ablation, times, limit.name, limit.total, least)
        self._recorder.request_stop("budget", told, resumable=True)
        return True

    @property
    def _rounds_begun(self) -> int:
        return 1 + max((int(run.spec.tags["trial"]) for run in self._recorder.journal.stage("cell_search")), default=-1)

    def _under_way(self, times: CellTimes) -> Batch:
        """Seconds that the trials that are running still need."""
        work = _work(self._ablation, "cell_search")
        return [
            max(0.0, times.setup + work * times.seconds[run.spec.arm] - run.seconds)
            for run in self._recorder.journal.stage("cell_search")
            if run.state == "running"
        ]


def _work(ablation: Ablation, stage: str) -> float:
    """The work of a whole run of a stage, in full-length runs on one fold."""
    if stage == "cell_search":
        return len(tuning_folds(ablation))
    return 1 / fit_share(ablation) if stage == "cell" and ablation.confirmatory else 1.0


def _kept(ablation: Ablation) -> str:
    return "selection and seeds" if ablation.tune_each and ablation.tune_each.select else "the seeds"


def _limits(ablation: Ablation) -> list[tuple[str, float]]:
    budget = ablation.tune_each.budget if ablation.tune_each else None
    found = [(limit, getattr(budget, limit)) for limit in LIMITS] if budget else []
    return [(limit, total) for limit, total in found if total is not None]


def _refusal(ablation: Ablation, times: CellTimes, limit: str, total: float, least: float) -> str:
    """What to say of a limit that is too low."""
    runs = counted(sum(map(len, times.kept(ablation, FEWEST_TRIALS))), "run")
    beside = f" and {duration(times.setup / 3600)} to begin and end" if times.setup >= 1 else ""
    return (
        f"tune_each.budget.{limit}: {total:g} cannot hold {runs} of {_kept(ablation)}, which keep their number, and "
        f"{FEWEST_TRIALS} trials of every cell before: a full-length run takes {duration(times.mean / 3600)}{beside}. "
        f"{_rounded_up(least):g} would do"
    )


def _needed(ablation: Ablation, times: CellTimes, resources: RunResources, limit: str, trials: int) -> float:
    tuning, kept = times.round(ablation) * trials, times.kept(ablation, trials)
    return MARGIN * cost_of(limit, [tuning], resources) + cost_of(limit, kept, resources)


def _rounded_up(hours: float) -> float:
    """To two digits, upwards."""
    step = 10.0 ** (len(str(int(hours))) - 2) if hours >= 1 else 0.01
    return round(math.ceil(hours / step - 1e-9) * step, 2)
