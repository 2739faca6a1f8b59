"""The journal of a sweep: what was asked, what was reported, how it ended. Ray may die at any moment; this stays.

One line an event (see `ctxtune.tuning.record.events`), appended before anything depends on it, so that it survives the
death of the process. What a power cut must not take either (decisions, new runs, checkpoints, ends) is forced to disk, and
with it all that stands before; a report alone is not: if it is lost, the run is, too, back at the checkpoint before it. All
that a resumed sweep knows (the sampler's trials, the scheduler's rungs, each run's last checkpoint) is rebuilt by reading it
from the start, so there is no second state that could contradict it.
"""

import os
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from io import FileIO
from pathlib import Path

from ctxtune.checked_lines import DamagedLine
from ctxtune.config.paths import get_path
from ctxtune.durable_files import NO_ROOM, sync_folder, write_durably
from ctxtune.errors import CtxtuneError
from ctxtune.results.runs import State
from ctxtune.text import counted
from ctxtune.tuning.record import events
from ctxtune.tuning.record.decisions import Decisions
from ctxtune.tuning.record.events import Event, ForeignLine
from ctxtune.tuning.record.run_spec import RunSpec, SharedBlocks
from ctxtune.tuning.record.trial_report import EPOCH, TrialReport

_KEY = re.compile(r'"key":"([^"]+)"')


class DiskFullError(CtxtuneError):
    """Journal or results cannot be written: what has begun stops, and can be resumed."""


def unwritable(path: Path, error: OSError, *, begun: bool = True) -> str:
    """What to say of a file that cannot be written; ``begun``: there is something to resume."""
    mend = "make room, then" if error.errno in NO_ROOM else "once that is put right,"
    then = "go on with --resume" if begun else "start again"
    return f"{path}: cannot be written ({error.strerror or error}); {mend} {then}"


@dataclass
class RunRecord:
    """What the journal knows of one run.

    Attributes:
        reports: its evaluations; ``order``: where each stands among all events of the sweep.
        checkpoints: their addresses, the newest last; older ones may be gone.
        folders: those that hold checkpoints, one for each process that worked on the run.
    """

    spec: RunSpec
    state: State = "running"
    reason: str = ""
    reports: list[TrialReport] = field(default_factory=list)
    order: list[int] = field(default_factory=list)
    checkpoints: list[str] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)

    @property
    def key(self) -> str:
        """Its name within the sweep."""
        return self.spec.key

    @property
    def stage(self) -> str:
        """The stage that it belongs to."""
        return self.spec.stage

    @property
    def epoch(self) -> int:
        """Epochs reported so far."""
        return self.reports[-1].epoch if self.reports else 0

    @property
    def checkpoint(self) -> str | None:
        """The newest checkpoint."""
        return self.checkpoints[-1] if self.checkpoints else None

    @property
    def seconds(self) -> float:
        """Wall seconds of work, as last reported."""
        return self.last("time/seconds") or 0.0

    def setting(self, path: str) -> object:
        """The value of its configuration at a path; None where there is none."""
        try:
            found: object = get_path(self.spec.trial.tree(), path)
        except (KeyError, TypeError):
            return None
        return found

    def last(self, metric: str) -> float | None:
        """The last reported value of a metric."""
        return next((report.metrics[metric] for report in reversed(self.reports) if metric in report.metrics), None)


class Journal:
    """The journal of one sweep; its events are applied to ``runs`` as they are written.

    Opening it only reads: the file is made, and a damaged end set aside, by `repair` or the first event that is written.

    Args:
        path: the file; it need not be there.

    Raises:
        CtxtuneError: the file is damaged in its middle, with the line and what would be lost; or it holds an event that
            this version does not know.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: dict[str, RunRecord] = {}
        self.decisions = Decisions()
        self.events = self.ended_runs = 0
        self.damage = ""
        """What is wrong with the end of the file, in words; empty where nothing is."""
        self._lock = threading.Lock()
        self._file: FileIO | None = None
        self._lines = self._whole = 0
        self._blocks = SharedBlocks()
        self._asked = Counter[str]()
        self._checked = False
        self._writer = ""
        self._replay(path.read_bytes() if path.exists() else b"")

    def asked(self, spec: RunSpec) -> None:
        """A run was decided on."""
        self._write(events.Asked(key=spec.key, stage=spec.stage, spec=spec))

    def reported(self, key: str, report: TrialReport) -> bool:
        """A run reported an evaluation; false where this epoch was known already (a repeated interval)."""
        if report.epoch <= self.runs[key].epoch:
            return False
        self._write(events.Reported(key=key, metrics={EPOCH: float(report.epoch), **report.metrics}), force=False)
        return True

    def checkpointed(self, key: str, path: str) -> None:
        """A checkpoint of a run is on the storage."""
        self._write(events.Checkpointed(key=key, path=path))

    def ended(self, key: str, state: State, reason: str = "") -> None:
        """A run came to an end that resuming does not undo."""
        self._write(events.Ended(key=key, state=state, reason=reason))

    def resumed(self, key: str) -> None:
        """A run that was killed in good order goes on, from its last checkpoint."""
        self._write(events.Resumed(key=key))

    def decided(self, name: str, value: object) -> None:
        """A decision between stages, such as the selected configuration; a later one of the name takes its place."""
        self._write(events.Decided(name=name, value=value))

    def stage(self, stage: str) -> list[RunRecord]:
        """The runs of a stage, in the order in which they were asked for."""
        return [run for run in self.runs.values() if run.stage == stage]

    def asked_in(self, stage: str) -> int:
        """How many runs of a stage were asked for."""
        return self._asked[stage]

    def completed(self, stage: str) -> list[RunRecord]:
        """The runs of a stage that came to their last epoch."""
        return [run for run in self.stage(stage) if run.state == "completed"]

    def repair(self) -> str:
        """Set a damaged end aside, in a file beside the journal; what was done, in words, or nothing.

        Raises:
            DiskFullError: the file cannot be written.
        """
        if not self.damage:
            return ""
        try:
            content = self.path.read_bytes()
            aside = next(
                path
                for number in range(1, len(content) + 2)
                if not (path := self.path.with_name(f"{self.path.name}.damaged-{number}")).exists()
            )
            write_durably(aside, [content[self._whole :]])
            with self.path.open("r+b") as file:
                file.truncate(self._whole)
                os.fsync(file.fileno())
        except OSError as error:
            raise DiskFullError(unwritable(self.path, error)) from None
        told = f"{self.path}: {self.damage}; it was set aside in {aside.name}, and what it told is done again"
        self.damage = ""
        return told

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _write(self, event: Event, *, force: bool = True) -> None:
        with self._lock:
            try:
                file = self._opened()
                start = self._size_in_place(file)
            except OSError as error:
                raise DiskFullError(unwritable(self.path, error)) from None
            first = [] if self._checked else [events.Format(version=events.FORMAT, ctxtune=_own_version())]
            lines = [events.encode(each, self._lines + number) for number, each in enumerate([*first, event], start=1)]
            try:
                rest = memoryview(b"".join(lines))
                while rest:
                    rest = rest[file.write(rest) :]
                if force:
                    os.fsync(file.fileno())
            except OSError as error:
                self._undo(file, start)
                raise DiskFullError(unwritable(self.path, error)) from None
            self._checked = True
            self._lines += len(lines)
            self._apply(event)

    def _opened(self) -> FileIO:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.repair()
            made = not self.path.exists()
            # Without a buffer: what a full disk refused must not be tried again behind our back, when the file is closed.
            self._file = self.path.open("ab", buffering=0)
            if made:
                sync_folder(self.path.parent)
        return self._file

    def _size_in_place(self, file: FileIO) -> int:
        """The file's size. Raises DiskFullError where what is open is not what lies in its place: it would be lost."""
        opened = os.fstat(file.fileno())
        try:
            if os.path.samestat(opened, self.path.stat()):
                return opened.st_size
        except FileNotFoundError:
            pass
        raise DiskFullError(
            f"{self.path}: is not there any more, or is another file: the folder was moved, deleted or replaced while this was "
            "at work; put it back in place of what Ray has written there since, then go on with --resume"
        )

    def _undo(self, file: FileIO, start: int) -> None:
        """Take back a half-written line, so that a later event does not stand behind it."""
        try:
            os.ftruncate(file.fileno(), start)
        except OSError:
            return

    def _replay(self, content: bytes) -> None:
        """Apply the events of a file up to its damaged end, if it has one."""
        *lines, torn = content.split(b"\n")
        for number, line in enumerate(lines, start=1):
            try:
                event = events.decode(line, number, checked=self._checked)
                if isinstance(event, events.Format):
                    self._checked, self._writer = True, event.ctxtune
                else:
                    self._apply(event)
            except ForeignLine as error:
                raise CtxtuneError(
                    f"{self.path}:{number}: {error}; this version of ctxtune does not know that: the sweep was begun or "
                    f"resumed by another{_of(self._writer)}. Go on with that version; nothing was changed"
                ) from None
            except (DamagedLine, KeyError) as error:
                behind = [*lines[number:], torn]
                if any(map(events.looks_whole, behind)):
                    raise CtxtuneError(self._damaged(number, error, lines[number:])) from None
                self.damage = f"line {number}, behind the last whole event, is damaged ({_why(error)})"
                return
            self._whole += len(line) + 1
            self._lines = number
        if torn:
            self.damage = "its last event was written in part only, as a killed process or a power cut leaves it"

    def _damaged(self, number: int, error: Exception, behind: list[bytes]) -> str:
        """What to say of a damaged line: what stands before it, and what of the lines behind it would be lost."""
        names = sorted({name for line in behind for name in _KEY.findall(line.decode(errors="replace"))})
        lost = f"{counted(len(behind), 'event')} behind it" + (f", of {', '.join(names[:5])}" if names else "")
        lost += f" and {len(names) - 5} more runs" if len(names) > 5 else ""
        return (
            f"{self.path}:{number}: damaged ({_why(error)}); the sweep cannot be resumed from here. "
            f"{counted(self.events, 'event')} before this line are whole ({counted(len(self.runs), 'run')}); lost would be "
            f"this line and {lost}. What was tracked is safe in MLflow. Restore the file from a copy; or start again under "
            f"another name (--name); or keep the first {number - 1} lines only (head -n {number - 1}), move the folder spool "
            "away and resume, which runs the rest again (MLflow keeps the values that it has of those runs)"
        )

    def _apply(self, event: Event) -> None:
        if isinstance(event, events.Decided):
            self.decisions.take(event.name, event.value)
        elif isinstance(event, events.Asked):
            self._blocks.share(event.spec)
            self._asked[event.spec.stage] += event.key not in self.runs
            self.runs[event.key] = RunRecord(event.spec)
        else:
            self._apply_to(self.runs[event.key], event)
        self.events += 1

    def _apply_to(
        self, run: RunRecord, event: events.Reported | events.Checkpointed | events.Ended | events.Resumed
    ) -> None:
        if isinstance(event, events.Reported):
            metrics = dict(event.metrics)
            run.reports.append(TrialReport(int(metrics.pop(EPOCH)), metrics))
            run.order.append(self.events)
        elif isinstance(event, events.Checkpointed):
            run.checkpoints.append(event.path)
            run.folders.add(event.path.rpartition("/")[0])
        elif isinstance(event, events.Resumed):
            run.state, run.reason = "running", ""
            self.ended_runs -= 1
        else:
            run.state, run.reason = event.state, event.reason
            self.ended_runs += 1


def _why(error: Exception) -> str:
    return f"an event of {error}, a run that nobody asked for" if isinstance(error, KeyError) else str(error)


def _of(writer: str) -> str:
    return f" ({writer})" if writer else ""


def _own_version() -> str:
    try:
        return version("ctxtune")
    except PackageNotFoundError:  # run from a checkout
        return ""
