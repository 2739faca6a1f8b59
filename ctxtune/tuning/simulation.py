"""Sweeps without training: the real sampler, rungs, budget, selection and recorder over an executor with a simulated clock."""

import contextlib
import heapq
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from ctxtune.config import SweepConfig, TrialSettings
from ctxtune.metric_names import on_split
from ctxtune.results.costs import Rate
from ctxtune.tracking import Tracker
from ctxtune.tuning.backend.cluster import RunResources
from ctxtune.tuning.callbacks import Watcher
from ctxtune.tuning.estimates import work_of
from ctxtune.tuning.executor import StageRuns
from ctxtune.tuning.pipeline import run_stages
from ctxtune.tuning.record.journal import Journal
from ctxtune.tuning.record.recorder import Recorder
from ctxtune.tuning.record.run_spec import RunSpec
from ctxtune.tuning.record.trial_report import TrialReport
from ctxtune.tuning.search.scheduler import Scheduler

LONGEST_STEP = 60.0
"""Seconds between two looks of the budget at the simulated clock."""

FullRunSeconds = Callable[[TrialSettings], float]
"""What a full-length run of a configuration takes on one fold."""

Score = Callable[[RunSpec, float], float]
"""The objective of a run after a share of its epochs."""


class NoTracker:
    """Takes the place of MLflow: nothing is told, nothing fails."""

    pending, last_error = 0, None

    def __getattr__(self, name: str) -> object:
        return lambda *arguments, **options: None


@dataclass
class _Running:
    spec: RunSpec
    epoch: int
    epoch_seconds: float
    seconds: float = 0.0


@dataclass
class SimulatedExecutor:
    """Runs take as long as they are said to, on a clock that jumps from one report to the next.

    Attributes:
        resources: what one run gets, and how many run at a time.
        seconds: of a whole run, by its spec.
        score: of a run on its way.
        setup: seconds before a run begins to train.
    """

    resources: RunResources
    seconds: Callable[[RunSpec], float]
    score: Score
    setup: float = 0.0
    clock: float = 0.0
    busy: dict[str, float] = field(default_factory=dict)
    """Seconds of work by stage."""
    spans: dict[str, float] = field(default_factory=dict)
    """Hours of wall time by stage."""

    def now(self) -> float:
        """Simulated seconds."""
        return self.clock

    def run(self, stages: Iterator[StageRuns], recorder: Recorder) -> None:
        """Run stage after stage; see `ctxtune.tuning.executor.Executor`."""
        for each in stages:
            self._run(each, recorder)

    def _run(self, work: StageRuns, recorder: Recorder) -> None:
        began = self.clock
        running: dict[str, _Running] = {}
        events: list[tuple[float, int, str]] = []
        order = 0
        more = True
        while True:
            while more and not recorder.stop and len(running) < self.resources.concurrent:
                spec = work.next_run()
                more = spec is not None
                if spec is not None:
                    recorder.start(spec)
                    run = self._started(spec, recorder)
                    running[spec.key] = run
                    order += 1
                    heapq.heappush(events, (self.clock + self.setup + self._interval(run), order, spec.key))
            if not events:
                break
            at, _, key = heapq.heappop(events)
            self._advance(work, at, len(running), recorder)
            if recorder.stop:
                break
            if self._reports(running[key], recorder, work.scheduler):
                order += 1
                heapq.heappush(events, (self.clock + self._interval(running[key]), order, key))
            else:
                del running[key]
            if work.on_event:
                work.on_event()
        if not recorder.stop.resumable:
            for key in running:
                recorder.finish(key)
        self.spans[work.stage] = self.spans.get(work.stage, 0.0) + (self.clock - began) / 3600

    def _started(self, spec: RunSpec, recorder: Recorder) -> _Running:
        known = recorder.journal.runs[spec.key]
        epoch_seconds = self.seconds(spec) / spec.trial.schedule.epochs
        return _Running(spec, known.epoch, epoch_seconds, known.seconds)

    def _interval(self, run: _Running) -> float:
        return (self._next_epoch(run) - run.epoch) * run.epoch_seconds

    def _next_epoch(self, run: _Running) -> int:
        every = run.spec.trial.evaluation.every
        return min((run.epoch // every + 1) * every, run.spec.trial.schedule.epochs)

    def _advance(self, work: StageRuns, until: float, running: int, recorder: Recorder) -> None:
        while self.clock < until and not recorder.stop:
            step = min(LONGEST_STEP, until - self.clock)
            self.clock += step
            self.busy[work.stage] = self.busy.get(work.stage, 0.0) + step * running
            if work.on_event:
                work.on_event()

    def _reports(self, run: _Running, recorder: Recorder, scheduler: Scheduler | None) -> bool:
        """Report an evaluation; whether the run goes on."""
        spec, epochs = run.spec, run.spec.trial.schedule.epochs
        run.seconds += self._interval(run)
        run.epoch = self._next_epoch(run)
        name = on_split(recorder.metric, "test") if spec.scores_test else recorder.metric
        cost = Rate(self.resources.gpus, self.resources.price_per_gpu_hour).of(run.seconds + self.setup)
        report = TrialReport(
            run.epoch, {name: self.score(spec, run.epoch / epochs), "time/seconds": run.seconds, **cost}
        )
        recorder.report(spec.key, report)
        stopped = scheduler is not None and scheduler.stops(spec.key, spec.trial.loss.name, report.plain())
        if stopped or run.epoch >= epochs:
            recorder.finish(spec.key)
            return False
        return True


def plain_score(seed: int = 0) -> Score:
    """Scores of no search in particular: every configuration has a quality of its own, and shows it more the longer it runs.

    Short runs rank configurations as full-length ones do with a correlation of about 0.8.
    """

    def score(spec: RunSpec, share: float) -> float:
        own = np.random.default_rng([seed, *spec.arm.encode()])
        quality, character = own.normal(size=2)
        luck = np.random.default_rng([seed, *spec.key.encode()]).normal()
        value = 0.5 + 0.05 * quality + 0.05 * character * (1 - share) + 0.01 * luck
        return float(value * (1 - np.exp(-4 * share)))

    return score


@dataclass(frozen=True)
class Simulated:
    """A simulated sweep: its journal, and what each stage took."""

    journal: Journal
    executor: SimulatedExecutor
    notes: tuple[str, ...]


@contextlib.contextmanager
def simulated_sweep(
    config: SweepConfig,
    resources: RunResources,
    full_run_seconds: FullRunSeconds,
    *,
    score: Score | None = None,
    setup: float = 0.0,
    journal_file: Path | None = None,
) -> Iterator[Simulated]:
    """Run a sweep to its end on a simulated clock.

    Args:
        full_run_seconds: of a full-length run on one fold, by its configuration.
        score: of runs on their way; None: `plain_score`.
        journal_file: where its journal is kept, to go on with a sweep; None: nowhere.

    Raises:
        CtxtuneError: as a real sweep would.
    """
    notes: list[str] = []
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a journal is synced at every run
    with tempfile.TemporaryDirectory(prefix="ctxtune-", dir=memory) as folder:
        journal = Journal(journal_file or Path(folder) / "journal.jsonl")
        executor = SimulatedExecutor(
            resources,
            lambda spec: full_run_seconds(spec.trial) * work_of(config, spec.stage),
            score or plain_score(),
            setup,
        )
        recorder = Recorder(
            journal,
            cast(Tracker, NoTracker()),
            metric=config.search.objective.metric,
            sweep_id="simulated",
            scheduler=config.search.scheduler.name,
        )
        try:
            run_stages(config, recorder, executor, Watcher(on_note=notes.append))
            yield Simulated(journal, executor, tuple(notes))
        finally:
            journal.close()
