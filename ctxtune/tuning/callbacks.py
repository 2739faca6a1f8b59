"""What the drivers of sweeps and ablations share: how they stop, what they tell, what they fix once."""

import _thread
import contextlib
import dataclasses
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ctxtune.config import TrialFile
from ctxtune.signals import ending_signals
from ctxtune.tracking import SpoolFullError, Tracker, redact
from ctxtune.tuning.backend.cluster import RunResources
from ctxtune.tuning.backend.nodes import worker_precision
from ctxtune.tuning.backend.watch import watching_ray
from ctxtune.tuning.ending import Ending, SweepStopped
from ctxtune.tuning.record.journal import Journal, RunRecord
from ctxtune.tuning.record.recorder import Recorder
from ctxtune.tuning.record.results_folder import ResultsFolder

File = TypeVar("File", bound=TrialFile)
RAY_LOST = "ray_lost"
_MLFLOW_UI = "http://127.0.0.1:5000"
"""Where `mlflow ui` serves its pages if nothing else is said."""


@dataclasses.dataclass(frozen=True)
class Watcher:
    """What a display is told.

    Attributes:
        on_stage: a stage begins, with the number of its runs.
        on_change: a run was started, reported or ended.
        on_note: something worth a line.
        on_link: where MLflow's UI shows the trials, if it is started on this machine.
        on_alert: what must be said in any case, also where nothing else is shown.
        on_ending: all is closed.
        go_on: how to go on later, said where there is no time for anything else.
    """

    on_stage: Callable[[Recorder, str, int], None] = lambda recorder, stage, runs: None
    on_change: Callable[[Recorder, RunRecord], None] = lambda recorder, run: None
    on_note: Callable[[str], None] = lambda text: None
    on_link: Callable[[str], None] = lambda link: None
    on_alert: Callable[[str], None] = lambda text: None
    on_ending: Callable[[Ending], None] = lambda ending: None
    go_on: str = ""


def ui_server(tracking_uri: str) -> str:
    """Where the pages of MLflow are: the tracking server's own, or those of `mlflow ui` on this machine."""
    served = tracking_uri.startswith(("http://", "https://"))
    return redact(tracking_uri).rstrip("/") if served else _MLFLOW_UI


def tell_link(file: TrialFile, tracker: Tracker, view: str, watcher: Watcher) -> None:
    """Say where MLflow shows the runs, if that is known."""
    link = tracker.ui_link(ui_server(file.tracking.uri), view)
    if link:
        watcher.on_link(link)


def end_stage(recorder: Recorder) -> None:
    """Tell tracking what a stopped stage leaves undone, and leave; otherwise make ready for the next stage.

    Raises:
        SweepStopped: the stage was stopped and can be resumed.
    """
    if recorder.stop.resumable:
        with contextlib.suppress(SpoolFullError):  # on a full disk tracking learns of it when the sweep is resumed
            for run in recorder.journal.runs.values():
                if run.state == "running":
                    recorder.tracker.end_run(recorder.tracked(run.key), "killed", recorder.stop.reason)
            recorder.tracker.end_run(recorder.sweep_id, "killed", recorder.stop.reason)
        raise SweepStopped(recorder.stop.reason, recorder.stop.message)
    recorder.clear_stop()


def with_precision(file: File, journal: Journal, resources: RunResources | None) -> File:
    """``precision: auto`` made definite once, where the runs will be: all runs of a sweep have the same.

    Args:
        resources: of a run; None: there is none to come.
    """
    if file.trial.precision == "auto" and (resources or journal.decisions.precision):
        if journal.decisions.precision is None and resources is not None:
            journal.decided("precision", worker_precision(resources))
        trial = file.trial.model_copy(update={"precision": journal.decisions.precision})
        file = file.model_copy(update={"trial": trial})
    return file


def forget_unstarted(folder: ResultsFolder[Any], journal: Journal) -> None:
    """What was refused before its first decision is no sweep or ablation: the next try shall not be told to resume it."""
    if not journal.events:
        folder.file.unlink(missing_ok=True)


def identity(journal: Journal, kind: str) -> str:
    """What names the runs of this sweep or ablation in MLflow, whatever their experiment holds besides."""
    if not journal.decisions.sweep_id:
        journal.decided("sweep_id", f"{kind}-{uuid.uuid4().hex[:12]}")
    return journal.decisions.sweep_id


@contextlib.contextmanager
def interrupts(recorder: Recorder, watcher: Watcher = Watcher()) -> Iterator[None]:
    """What ends a sweep or an ablation from outside, while its stages run.

    Ctrl-C, SIGTERM and SIGHUP ask the stage to stop; a second one ends the process (the journal is safe either way). Where
    Ray is lost the stage is stopped and left at once: it may be waiting for an answer that never comes.

    Raises:
        SweepStopped: Ray was lost.
    """
    asked: list[int] = []

    def stop(number: int, frame: object) -> None:
        if asked or recorder.stop.reason == RAY_LOST:
            raise KeyboardInterrupt
        asked.append(number)
        name = signal.Signals(number).name
        recorder.request_stop("interrupted", f"interrupted by {name}", resumable=True)
        watcher.on_alert(
            f"{name}: stopping; everything is saved, the trials' processes are being ended (again: at once)"
        )

    def lost(what: str) -> None:
        recorder.request_stop(RAY_LOST, f"{what}; everything is saved", resumable=True)
        _thread.interrupt_main(signal.SIGTERM)

    def leave() -> None:
        watcher.on_alert(f"stopped: {recorder.stop.message}\n{watcher.go_on}")
        os._exit(1)

    before = {number: signal.signal(number, stop) for number in ending_signals()}
    try:
        with watching_ray(lost, leave):
            yield
    except KeyboardInterrupt:
        if recorder.stop.reason == RAY_LOST:
            end_stage(recorder)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
