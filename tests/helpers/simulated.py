"""Simulated sweeps and ablations for tests: minutes of a day in a second."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from ctxtune.ablation.budget import CellTimes
from ctxtune.ablation.pipeline import run_stages as run_ablation_stages
from ctxtune.config import Ablation, SweepConfig
from ctxtune.tuning.backend.cluster import RunResources
from ctxtune.tuning.callbacks import Watcher
from ctxtune.tuning.estimates import work_of
from ctxtune.tuning.pipeline import run_stages
from ctxtune.tuning.record.journal import Journal, RunRecord
from ctxtune.tuning.record.recorder import Recorder
from ctxtune.tuning.record.run_spec import RunSpec
from ctxtune.tuning.simulation import NoTracker, SimulatedExecutor, plain_score


class Killed(Exception):
    """The process of a simulated sweep dies."""


def drive(
    space: SweepConfig,
    journal_file: Path,
    *,
    hours: float,
    concurrent: int = 1,
    gpus: float = 1.0,
    die_after: int | None = None,
    die_at: str = "",
    notes: list[str] | None = None,
    score: Callable[..., float] | None = None,
    slow_after_start: float = 1.0,
    slower: Callable[[RunSpec], float] = lambda spec: 1.0,
    stall: float = 0.0,
    on_measured: Callable[[float], object] = lambda seconds: None,
    watch: Callable[[Recorder, RunRecord, float], object] = lambda recorder, run, clock: None,
) -> tuple[Journal, SimulatedExecutor]:
    """Run a sweep, or go on with one, whose full-length run on one fold takes so many ``hours``.

    Args:
        die_after: events, after which the process dies (`Killed`); ``die_at``: the stage whose first run kills it.
        slow_after_start: so many times as long take all trials but the first; ``slower``: the same of each run.
        stall: hours that the first trial does not report after its second evaluation.
        watch: told of every change, and of the seconds on the clock.
    """
    journal = Journal(journal_file)
    first = "trial-0000"

    def seconds(spec: RunSpec) -> float:
        slow = slow_after_start if spec.stage == "search" and spec.key != first else 1.0
        return 3600 * hours * work_of(space, spec.stage) * slow * slower(spec)

    executor = SimulatedExecutor(RunResources(1, gpus, concurrent), seconds, score or plain_score())
    reports = 0

    def count(recorder: Recorder, run: RunRecord) -> None:
        nonlocal reports
        reports += 1
        if (die_after is not None and reports > die_after) or run.stage == die_at:
            raise Killed
        if stall and run.key == first and len(run.reports) == 2:
            executor.clock += 3600 * stall
        watch(recorder, run, executor.clock)

    metric = space.search.objective.metric
    recorder = Recorder(journal, cast(Any, NoTracker()), metric=metric, sweep_id="s", scheduler="asha", on_change=count)
    watcher = Watcher(on_note=(notes if notes is not None else []).append)
    try:
        run_stages(space, recorder, executor, watcher, on_measured=on_measured)
    finally:
        journal.close()
    return journal, executor


def drive_ablation(
    ablation: Ablation,
    journal_file: Path,
    *,
    hours: Callable[[RunSpec], float],
    setup: float = 0.0,
    concurrent: int = 1,
    die_at: str = "",
    notes: list[str] | None = None,
    on_measured: Callable[[CellTimes], object] = lambda times: None,
) -> tuple[Journal, SimulatedExecutor]:
    """Run an ablation, or go on with one, whose runs take so many ``hours``.

    Args:
        setup: hours of each run before it begins to train.
        die_at: the stage whose first run kills the process (`Killed`).
    """
    journal = Journal(journal_file)
    executor = SimulatedExecutor(
        RunResources(1, 1.0, concurrent), lambda spec: 3600 * hours(spec), plain_score(), 3600 * setup
    )

    def die(recorder: Recorder, run: RunRecord) -> None:
        if run.stage == die_at:
            raise Killed

    recorder = Recorder(
        journal, cast(Any, NoTracker()), metric=ablation.compare.metric, sweep_id="a", on_change=die
    )  # fmt: skip
    watcher = Watcher(on_note=(notes if notes is not None else []).append)
    try:
        run_ablation_stages(ablation, recorder, executor, watcher, on_measured=on_measured)
    finally:
        journal.close()
    return journal, executor
