"""The journal of a sweep: what was asked, what was reported, how it ended. Ray may die at any moment; this stays.

One line of JSON an event, appended before anything depends on it, so that it survives the death of the process. What a
power cut must not take either (decisions, new runs, checkpoints, ends) is forced to disk, and with it all that stands
before; a report alone is not: if it is lost, the run is, too, back at the checkpoint before it. All that a resumed sweep knows
(the sampler's trials, the scheduler's rungs, each run's last checkpoint) is rebuilt by reading it from the start, so
there is no second state that could contradict it.
"""

import json
import os
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ctxtune.errors import CtxtuneError

_EVENTS = ("asked", "reported", "checkpointed", "ended", "decided")
_KEY = re.compile(r'"key":"([^"]+)"')
State = Literal["running", "completed", "pruned", "failed", "killed"]


class DiskFullError(CtxtuneError):
    """The journal cannot be written: nothing may go on that it would not know of."""


@dataclass
class RunRecord:
    """What the journal knows of one run.

    Attributes:
        reports: its evaluations; ``order``: where each stands among all events of the sweep.
        checkpoints: their addresses, the newest last; older ones may be gone.
        folders: those that hold checkpoints, one for each process that worked on the run.
    """

    key: str
    stage: str
    spec: dict[str, Any]
    state: State = "running"
    reason: str = ""
    reports: list[dict[str, float]] = field(default_factory=list)
    order: list[int] = field(default_factory=list)
    checkpoints: list[str] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)

    @property
    def epoch(self) -> int:
        """Epochs reported so far."""
        return int(self.reports[-1]["epoch"]) if self.reports else 0

    @property
    def checkpoint(self) -> str | None:
        """The newest checkpoint."""
        return self.checkpoints[-1] if self.checkpoints else None

    @property
    def seconds(self) -> float:
        """Wall seconds of work, as last reported."""
        return self.last("time/seconds") or 0.0

    def last(self, metric: str) -> float | None:
        """The last reported value of a metric."""
        return next((report[metric] for report in reversed(self.reports) if metric in report), None)


class Journal:
    """The journal of one sweep; its events are applied to ``runs`` as they are written.

    Args:
        path: the file; made if it is not there.

    Raises:
        CtxtuneError: the file is damaged in its middle, with the line and what would be lost (a torn last line, as kill
            -9 leaves it, is dropped).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: dict[str, RunRecord] = {}
        self.decisions: dict[str, Any] = {}
        self.events = self.ended_runs = 0
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = 0
        if path.exists():
            whole = self._replay(path)
        # Without a buffer: what a full disk refused must not be tried again behind our back, when the file is closed.
        self._file = path.open("ab", buffering=0)
        self._file.truncate(whole)

    def asked(self, key: str, stage: str, spec: dict[str, Any]) -> None:
        """A run was decided on; ``spec`` says all that is needed to start it again."""
        self._write({"event": "asked", "key": key, "stage": stage, "spec": spec})

    def reported(self, key: str, metrics: dict[str, float]) -> bool:
        """A run reported an evaluation; false where this epoch was known already (a repeated interval)."""
        if metrics["epoch"] <= self.runs[key].epoch:
            return False
        self._write({"event": "reported", "key": key, "metrics": metrics}, force=False)
        return True

    def checkpointed(self, key: str, path: str) -> None:
        """A checkpoint of a run is on the storage."""
        self._write({"event": "checkpointed", "key": key, "path": path})

    def ended(self, key: str, state: State, reason: str = "") -> None:
        """A run came to an end that resuming does not undo."""
        self._write({"event": "ended", "key": key, "state": state, "reason": reason})

    def decided(self, name: str, value: Any) -> None:
        """A decision between stages, such as the selected configuration: taken once, never again."""
        self._write({"event": "decided", "name": name, "value": value})

    def stage(self, stage: str) -> list[RunRecord]:
        """The runs of a stage, in the order in which they were asked for."""
        return [run for run in self.runs.values() if run.stage == stage]

    def completed(self, stage: str) -> list[RunRecord]:
        """The runs of a stage that came to their last epoch."""
        return [run for run in self.stage(stage) if run.state == "completed"]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, event: dict[str, Any], *, force: bool = True) -> None:
        line = json.dumps(event, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        with self._lock:
            start = os.fstat(self._file.fileno()).st_size
            try:
                rest = memoryview(line)
                while rest:
                    rest = rest[self._file.write(rest) :]
                if force:
                    os.fsync(self._file.fileno())
            except OSError as error:
                self._undo(start)
                raise DiskFullError(
                    f"{self.path}: cannot be written ({error.strerror}); make room, then go on with --resume"
                ) from None
            self._apply(event)

    def _undo(self, start: int) -> None:
        """Take back a half-written line, so that a later event does not stand behind it."""
        try:
            os.ftruncate(self._file.fileno(), start)
        except OSError:
            return

    def _replay(self, path: Path) -> int:
        """Apply the events of a file; the position behind the last whole one."""
        lines = path.read_bytes().split(b"\n")[:-1]
        position = 0
        for number, line in enumerate(lines, start=1):
            try:
                self._apply(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError):
                if number == len(lines):
                    break  # torn: written, not yet whole, when the power went
                raise CtxtuneError(self._damage(path, number, lines[number:])) from None
            position += len(line) + 1
        return position

    def _damage(self, path: Path, number: int, behind: list[bytes]) -> str:
        """What to say of a damaged line: what stands before it, and what of the lines behind it would be lost."""
        names = sorted({name for line in behind for name in _KEY.findall(line.decode(errors="replace"))})
        lost = f"{len(behind)} events behind it" + (f", of {', '.join(names[:5])}" if names else "")
        lost += f" and {len(names) - 5} more runs" if len(names) > 5 else ""
        return (
            f"{path}:{number}: damaged; the sweep cannot be resumed from here. {number - 1} events before this line are whole "
            f"({len(self.runs)} runs); lost would be this line and {lost}. What was tracked is safe in MLflow. Restore the "
            f"file from a copy; or keep the first {number - 1} lines only (head -n {number - 1}) and resume, which runs the "
            "rest again; or start again under another name (--name)"
        )

    def _apply(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind not in _EVENTS:
            raise ValueError(f"no such event: {kind}")
        self._take(kind, event)
        self.events += 1

    def _take(self, kind: str, event: dict[str, Any]) -> None:
        if kind == "decided":
            self.decisions[event["name"]] = event["value"]
            return
        if kind == "asked":
            self.runs[event["key"]] = RunRecord(event["key"], event["stage"], event["spec"])
            return
        run = self.runs[event["key"]]
        if kind == "reported":
            run.reports.append(event["metrics"])
            run.order.append(self.events)
        elif kind == "checkpointed":
            run.checkpoints.append(event["path"])
            run.folders.add(event["path"].rpartition("/")[0])
        elif kind == "ended":
            run.state, run.reason = event["state"], event["reason"]
            self.ended_runs += 1
