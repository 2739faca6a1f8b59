"""The sweep's recorder-keeping on the driver: every event of Ray's goes through here, to journal, sampler and tracking."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ctxtune.picture_strip import STRIP_FILE, picture_strip
from ctxtune.results.runs import KINDS, State
from ctxtune.retrieved_images import SHOWN_QUERIES_FILE, to_json
from ctxtune.tracking import SpoolFullError, Tracker, flatten, record_test_scoring
from ctxtune.tuning.record.journal import DiskFullError, Journal, RunRecord
from ctxtune.tuning.record.run_spec import RunSpec
from ctxtune.tuning.record.trial_report import MACHINE_FAILURES, TrialFailure, TrialReport

MOST_FAILURES_IN_A_ROW = 5
SEARCHES = ("search", "cell_search")
"""The stages whose runs a sampler learns from."""
CLASS_SCORES = "per_class_scores.json"
"""Artifact of an ablation's cells: {score: {class: [sum over its queries, number of queries]}}."""


class Learner(Protocol):
    """Who learns from the scores of a search: `Sampler`, or the samplers of many searches together."""

    def report(self, key: str, epoch: int, score: float) -> None:
        """A trial has a score on the way."""

    def tell(self, key: str, state: str, score: float | None) -> None:
        """A trial came to its end."""


@dataclass
class Stop:
    """Why the present stage was told to stop, if it was."""

    reason: str = ""
    message: str = ""
    resumable: bool = field(default=False)

    def __bool__(self) -> bool:
        return bool(self.reason)


class Recorder:
    """Journal, sampler and tracking of one sweep or ablation, kept in step.

    Args:
        metric: what a search improves.
        scheduler: who stops runs early, by name.
        sweep_id: names the sweep's runs in MLflow, whatever their experiment holds besides.
        on_change: called after every event, for a display.
    """

    def __init__(
        self,
        journal: Journal,
        tracker: Tracker,
        *,
        metric: str,
        sweep_id: str,
        scheduler: str = "none",
        sampler: Learner | None = None,
        on_change: Callable[["Recorder", RunRecord], None] | None = None,
    ) -> None:
        self.metric = metric
        self.scheduler = scheduler
        self.journal = journal
        self.tracker = tracker
        self.sweep_id = sweep_id
        self.sampler = sampler
        self._stop = Stop()
        self._under_way: set[str] = set()
        self._on_change = on_change
        self._failures = 0

    def may_start(self, key: str) -> bool:
        """Whether a run is still to be started: it is new, or an earlier process left it unfinished."""
        run = self.journal.runs.get(key)
        return run is None or (run.state == "running" and key not in self._under_way)

    @property
    def all_under_way(self) -> bool:
        """Whether every run that has not ended has been started: none that an earlier process left is still to be."""
        return len(self._under_way) == len(self.journal.runs) - self.journal.ended_runs

    def put_back(self) -> list[RunRecord]:
        """The runs that were started and neither ended nor stopped, each of which may then be started again."""
        left = [run for run in self.journal.runs.values() if run.state == "running" and run.key in self._under_way]
        self._under_way.difference_update(run.key for run in left)
        return left

    def start(self, spec: RunSpec) -> bool:
        """A run is handed to Ray: new in the journal, or taken up again; false where it cannot be written down."""
        known = spec.key in self.journal.runs
        if not known:
            self._guard(lambda: self.journal.asked(spec))
        if spec.key not in self.journal.runs:
            return False
        self._under_way.add(spec.key)
        self._guard(lambda: self._track_start(spec, again=known))
        self._changed(spec.key)
        return True

    def report(self, key: str, report: TrialReport | TrialFailure) -> None:
        """A run reported an evaluation, or that it failed. What comes after its end is ignored."""
        if self.journal.runs[key].state != "running":
            return
        if isinstance(report, TrialFailure):
            self._fail(key, report)
            return
        if report.epoch <= self.journal.runs[key].epoch:
            return  # an interval that was repeated after a process or machine died
        if not self._guard(lambda: self._track_report(key, report)):
            return
        if not self._guard(lambda: self.journal.reported(key, report)):
            return
        score = report.metrics.get(self.metric)
        if self.journal.runs[key].stage in SEARCHES and self.sampler and score is not None:
            self.sampler.report(key, report.epoch, score)
        self._changed(key)

    def checkpoint(self, key: str, path: str) -> None:
        """A checkpoint of a run lies on the storage."""
        self._guard(lambda: self.journal.checkpointed(key, path))

    def finish(self, key: str) -> None:
        """Ray is done with a run: it came to its last epoch, was stopped by the scheduler, or with the whole stage."""
        run = self.journal.runs[key]
        epochs = run.spec.trial.schedule.epochs
        if run.state != "running":
            return
        if run.epoch >= epochs:
            self.end(key, "completed")
        elif not self._stop:
            self.end(key, "pruned", f"stopped by {self.scheduler} after epoch {run.epoch}")
        elif not self._stop.resumable:
            self.end(key, "killed", self._stop.reason)

    def end(self, key: str, state: State, reason: str = "") -> None:
        """A run came to its end."""
        run = self.journal.runs[key]
        if run.state != "running":
            return
        # Tracking first: what the journal calls ended is never looked at again, what it does not is done once more.
        if not self._guard(lambda: self.tracker.end_run(self.tracked(key), state, reason)):
            return
        if not self._guard(lambda: self.journal.ended(key, state, reason)):
            return
        self._under_way.discard(key)
        if run.stage in SEARCHES and self.sampler:
            told = state if state != "killed" else "failed"
            self.sampler.tell(key, told, run.last(self.metric))
        self._count_failures(state, reason)
        self._changed(key)

    def decide(self, name: str, value: object) -> None:
        """Write down what is settled from now on."""
        self._guard(lambda: self.journal.decided(name, value))

    def tracked(self, key: str) -> str:
        """The key of a run in tracking: unique among all sweeps of the experiment."""
        return f"{self.sweep_id}/{key}"

    @property
    def stop(self) -> Stop:
        """Why the present stage is to stop; false where it is not."""
        return self._stop

    def request_stop(self, reason: str, message: str, *, resumable: bool) -> None:
        """Ask the present stage to stop. The first reason stays, but a stop of the whole sweep overrules one of the stage."""
        if not self._stop or (resumable and not self._stop.resumable):
            self._stop = Stop(reason, message, resumable)

    def clear_stop(self) -> None:
        """The stage has stopped: make ready for the next one."""
        self._stop = Stop()

    def _track_start(self, spec: RunSpec, *, again: bool) -> None:
        key = self.tracked(spec.key)
        self.tracker.start_run(
            key,
            name=spec.key,
            kind=KINDS[spec.stage],
            parent=self.sweep_id,
            params=flatten(spec.trial.tree()),
            tags={
                "arm": spec.arm,
                "folds": ",".join(map(str, spec.folds)),
                "seed": str(spec.seed),
                "seed_index": str(spec.seed_index),
                "config_hash": spec.trial.hash(),
                **spec.tags,
            },
        )
        if again:
            self.tracker.reopen_run(key)
        if spec.scores_test:
            record_test_scoring(self.tracker, key, spec.trial.dataset.name)

    def _fail(self, key: str, failure: TrialFailure) -> None:
        what = MACHINE_FAILURES.get(failure.reason)
        if what is None:
            self.end(key, "failed", f"{failure.reason}: {failure.message}")
        else:  # it goes on when the sweep is resumed
            self.request_stop(failure.reason, f"{what}: {key}: {failure.message}", resumable=True)

    def _count_failures(self, state: State, reason: str) -> None:
        self._failures = self._failures + 1 if state == "failed" else 0
        if self._failures >= MOST_FAILURES_IN_A_ROW:
            self.request_stop("failures", f"{self._failures} runs failed in a row; the last: {reason}", resumable=True)

    def _track_report(self, key: str, report: TrialReport) -> None:
        # Before the journal, for the same reason as in `end`; what tracking knows already it leaves out.
        if report.by_class is not None:
            self.tracker.log_text(self.tracked(key), json.dumps(report.by_class), CLASS_SCORES)
        if report.shown:
            self.tracker.log_text(self.tracked(key), to_json(report.shown), SHOWN_QUERIES_FILE)
            self.tracker.log_bytes(self.tracked(key), picture_strip(report.shown), STRIP_FILE)
        self.tracker.log_metrics(self.tracked(key), report.metrics, step=report.epoch)

    def _guard(self, write: Callable[[], object]) -> bool:
        """Whether it could be written: a full disk stops the sweep cleanly, not the process."""
        try:
            write()
        except (DiskFullError, SpoolFullError) as error:
            self.request_stop("disk_full", str(error), resumable=True)
            return False
        return True

    def _changed(self, key: str) -> None:
        if self._on_change and key in self.journal.runs:
            self._on_change(self, self.journal.runs[key])
