"""The course of an ablation over any executor: every cell's own tuning, then every cell over the same seeds."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial

from ctxtune.ablation.budget import CellTimes, TuningBudget, whole_rounds
from ctxtune.ablation.runs import (
    TUNING_ENDED,
    cell_specs,
    next_trial,
    repeats_of,
    run_count,
    selection_count,
    selection_specs,
    trials_held,
    tuned_configuration,
)
from ctxtune.ablation.searches import Searches
from ctxtune.config import Ablation, Cell, cells_of
from ctxtune.text import counted
from ctxtune.tuning.callbacks import Watcher, end_stage
from ctxtune.tuning.executor import Executor, StageRuns
from ctxtune.tuning.record.decisions import TuningEnd
from ctxtune.tuning.record.journal import Journal
from ctxtune.tuning.record.recorder import Recorder
from ctxtune.tuning.record.run_spec import RunSpec
from ctxtune.tuning.spending import LIMITS, raised, revive
from ctxtune.tuning.stages import next_of


def run_stages(
    ablation: Ablation,
    recorder: Recorder,
    executor: Executor,
    watcher: Watcher,
    *,
    on_measured: Callable[[CellTimes], object] = lambda times: None,
    on_tuned: Callable[[], object] = lambda: None,
) -> None:
    """Tune every cell and score it over the seeds, or go on where an earlier process was.

    Args:
        on_measured: told once, where there is a budget, what runs take.
        on_tuned: called when it is settled what every cell was tuned by, before a run of the seeds.

    Raises:
        SweepStopped: it was interrupted, its budget cannot hold it, the disk is full, or too many runs failed in a row.
    """
    budget = None
    if ablation.tune_each is not None:
        reopen_tuning(ablation, recorder.journal)
        cells = cells_of(ablation)
        budget = TuningBudget(ablation, cells, recorder, executor.resources, executor.now, on_measured)
    executor.run(_course(ablation, recorder, budget, watcher, on_tuned), recorder)


def _course(
    ablation: Ablation,
    recorder: Recorder,
    budget: TuningBudget | None,
    watcher: Watcher,
    on_tuned: Callable[[], object],
) -> Iterator[StageRuns]:
    """The tuning, then the seeds; what follows a `yield` happens when all runs of that stage have ended."""
    cells, journal = cells_of(ablation), recorder.journal
    if budget is not None:
        if not (journal.decisions.tuning_ended or journal.decisions.search_ended):
            yield from _tune(ablation, cells, recorder, budget, watcher)
        on_tuned()
        selected = selection_count(ablation, len(cells), trials_held(ablation, journal))
        yield from _stage("selection", selection_specs(ablation, cells, journal), selected, recorder, budget, watcher)
    for repeat in range(repeats_of(ablation)):
        for cell in cells:
            if tuned_configuration(ablation, cell, repeat, journal) is None:
                watcher.on_note(f"{cell.name}: no trial of its search came to the last epoch; it has no score")
    yield from _stage(
        "cell", cell_specs(ablation, cells, journal), run_count(ablation, len(cells))[1], recorder, budget, watcher
    )


def _stage(
    stage: str, runs: Iterator[RunSpec], count: int, recorder: Recorder, budget: TuningBudget | None, watcher: Watcher
) -> Iterator[StageRuns]:
    """A stage whose runs are all known when it begins, and keep their number whatever the budget."""
    specs = list(runs)
    if specs:
        watcher.on_stage(recorder, stage, count)
        yield StageRuns(stage, partial(next_of, specs, recorder), on_event=None if budget is None else budget.keep_time)
        end_stage(recorder)


def reopen_tuning(ablation: Ablation, journal: Journal) -> None:
    """Go on with a tuning that its budget ended, where the file now allows more and no run of the seeds has begun.

    Trials that the budget killed go on from their checkpoints.
    """
    if _reopens(ablation, journal):
        journal.decided(TUNING_ENDED, None)
        revive(journal, "cell_search")


def _reopens(ablation: Ablation, journal: Journal) -> bool:
    """Whether a tuning that has ended is to go on."""
    ended = journal.decisions.tuning_ended
    if ended is None or ended.reason not in LIMITS or journal.stage("selection") or journal.stage("cell"):
        return False
    return ablation.tune_each is not None and raised(ended, ablation.tune_each.budget)


def nothing_left(ablation: Ablation, journal: Journal) -> bool:
    """Whether all that is settled has run, and the file asks for no more."""
    tuned = ablation.tune_each is None or journal.decisions.tuning_ended or journal.decisions.search_ended
    if not tuned or _reopens(ablation, journal):
        return False
    cells = cells_of(ablation)
    left = itertools.chain(selection_specs(ablation, cells, journal), cell_specs(ablation, cells, journal))
    return next(left, None) is None


def _tune(
    ablation: Ablation,
    cells: list[Cell],
    recorder: Recorder,
    budget: TuningBudget,
    watcher: Watcher,
) -> Iterator[StageRuns]:
    tune, journal = ablation.tune_each, recorder.journal
    assert tune is not None
    searches = Searches(ablation, cells)
    searches.replay(journal.stage("cell_search"))
    recorder.sampler = searches
    watcher.on_stage(recorder, "cell_search", run_count(ablation, len(cells))[0])
    budget.check()  # a process that died when the budget was spent has left nothing to start
    next_run = partial(next_trial, ablation, recorder, searches, budget.admits)
    yield StageRuns("cell_search", next_run, on_event=budget.check)
    if recorder.stop and not recorder.stop.resumable:
        watcher.on_note(recorder.stop.message)
    end_stage(recorder)
    trials = whole_rounds(ablation, searches, journal.runs) if budget.ended_by else tune.trials
    journal.decided(
        TUNING_ENDED,
        TuningEnd(
            reason=budget.ended_by if trials < tune.trials else "",
            trials=trials,
            asked=tune.trials,
            hours=tune.budget.hours,
            gpu_hours=tune.budget.gpu_hours,
        ),
    )
    if trials < tune.trials:
        watcher.on_note(
            f"tuning: {trials} of {counted(tune.trials, 'trial')} of every cell fit in the budget; this is settled before a "
            "score of the seeds is known"
        )
