"""The writing side of tracking: calls that return at once, whatever the server does."""

import contextlib
import json
import re
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from ctxtune.durable_files import NO_ROOM
from ctxtune.errors import TrackingError
from ctxtune.locks import try_lock
from ctxtune.tracking.addresses import absolute_uri, has_secret, redact
from ctxtune.tracking.datasets import TrackedDataset
from ctxtune.tracking.delivery_process import DELIVERY_LOCK, WRITER_LOCK, spool_lock
from ctxtune.tracking.errors import SpoolFullError
from ctxtune.tracking.processes import process_environment, tracking_command
from ctxtune.tracking.spool import EXPERIMENT, FILES, Spool, SpoolCounts, now_ms
from ctxtune.tracking.values import clean_name, parameter_texts, tag_texts
from ctxtune.tracking.views import experiment_link, view_tags

CHECK_SECONDS = 45.0
# Importing MLflow takes 2 s on an idle core, many times that on a machine in full use.
START_SECONDS = 180.0
_STATUS = {"completed": "FINISHED", "pruned": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
_RESTART_SECONDS = 5.0


class Tracker:
    """Writes runs of one MLflow experiment through a spool on local disk.

    No method waits for the server or raises because of it: events are appended to `spool` (a folder, made where it is
    missing), and a process of its own delivers them, with retries, in the order in which they were logged. An existing
    spool is continued: what an earlier process left undelivered goes first. A spool has one owner at a time.

    `deliver=False` only spools, for machines that cannot reach the server; `replay` delivers later.

    Raises TrackingError for an impossible URI or spool, or one in use by another process; SpoolFullError from any
    writing method where the spool's disk is full.
    """

    def __init__(self, uri: str, experiment: str, spool: Path, *, deliver: bool = True) -> None:
        self._uri = absolute_uri(uri)
        self._experiment = experiment
        self._folder = Path(spool).absolute()
        self._spool = Spool(self._folder)
        spool_lock(self._folder / DELIVERY_LOCK).close()  # the delivery process could not say so
        self._lock_file = spool_lock(self._folder / WRITER_LOCK)
        if not try_lock(self._lock_file):
            self._spool.close()
            self._lock_file.close()
            raise TrackingError(
                f"The tracking spool {self._folder} is in use by another process: is the sweep running?"
            )
        self._owner = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._started_at = -_RESTART_SECONDS
        self._looked_at = 0.0
        self._latest_ms = 0
        self._deliver = deliver
        self._closed = False
        self._last_error: str | None = None
        self._experiment_id: str | None = None
        self._adopt_spool()
        self._watch()

    def _adopt_spool(self) -> None:
        stored = self._spool.state("uri")
        address = redact(self._uri)
        if stored not in (None, address) or self._spool.state("experiment") not in (None, self._experiment):
            self._spool.forget_run_ids()
            self._spool.set_state(experiment_id=None)
        self._spool.set_state(
            uri=address,
            secret="yes" if has_secret(self._uri) else None,
            experiment=self._experiment,
            owner=self._owner,
            checked=None,
        )

    # ------------------------------------------------------------------ the server

    def check(self) -> None:
        """Find out whether the server can be reached and the experiment be used; it is given 15 seconds to answer.

        The tables of a new SQLite store (5 s) are made afterwards, in the background. Does nothing where the tracker
        only spools. Raises TrackingError.
        """
        if not self._deliver:
            return
        asked: float | None = None
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            checked = json.loads(self._spool.state("checked") or "{}")
            if checked.get("owner") == self._owner:
                if checked["error"]:
                    raise TrackingError(checked["error"])
                return
            if asked is None and self._spool.state("asking") == self._owner:
                asked = time.monotonic()
                end = asked + CHECK_SECONDS
            if not self._watch():
                raise TrackingError(f"The tracking server {redact(self._uri)} cannot be checked: {self.last_error}")
            time.sleep(0.02)
        if asked is None:
            raise TrackingError(f"MLflow could not be started within {START_SECONDS:.0f} s on this machine")
        raise TrackingError(f"The tracking server {redact(self._uri)} gives no answer within {CHECK_SECONDS:.0f} s")

    @property
    def delivers(self) -> bool:
        """Whether events go to the server from here; otherwise they are only spooled."""
        return self._deliver

    @property
    def folder(self) -> Path:
        """The spool's folder."""
        return self._folder

    @property
    def pending(self) -> int:
        """The number of events not yet delivered."""
        return self._spool.pending()

    def counts(self) -> SpoolCounts:
        """How many events were delivered so far, are not yet, and were refused by the server."""
        return self._spool.counts()

    @property
    def last_error(self) -> str | None:
        """Why the latest delivery failed, None if it did not. Holds no secrets."""
        if self._closed:
            return self._last_error
        process = self._process
        if process is not None and process.poll() is not None:
            return f"the delivery process ended with status {process.returncode}"
        return self._spool.state("last_error")

    # ------------------------------------------------------------------ the experiment

    def describe(self, text: str) -> None:
        """Show a text (Markdown) above the experiment's runs in MLflow's UI."""
        self._ready()
        self._spool.add_event(EXPERIMENT, "tags", tag_texts({"mlflow.note.content": text}))

    def save_view(
        self, name: str, metric: str, dimensions: Sequence[str], *, mode: str = "max", kind: str = "trial"
    ) -> None:
        """Offer a saved view in MLflow's UI: the runs of one kind by `metric`, the best first.

        It has columns and parallel coordinates of the `dimensions` (parameter names such as `loss.k`) and `metric`.
        A view of the same name is replaced.
        """
        self._ready()
        dimensions = [clean_name(dimension) for dimension in dimensions]
        tags = view_tags(
            _view_key(name), name, metric, dimensions, ascending=mode == "min", kind=kind, time_ms=self._time()
        )
        self._spool.add_event(EXPERIMENT, "tags", tags)

    def ui_link(self, server: str, view: str | None = None) -> str | None:
        """The address of the experiment in MLflow's UI at `server` (http://127.0.0.1:5000), in a saved view if named.

        None as long as the experiment's number is unknown (the server was never reached).
        """
        number = self._experiment_id if self._closed else self._spool.state("experiment_id")
        if number is None:
            return None
        return experiment_link(server, number, None if view is None else _view_key(view))

    # ------------------------------------------------------------------ runs

    def start_run(
        self,
        key: str,
        *,
        name: str,
        kind: str,
        parent: str | None = None,
        params: Mapping[str, object] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Start the run with this key (unique in the experiment), or go on with it if it was started before.

        `kind`: sweep, ablation, trial, selection, confirmation or cell. `parent`: the key of its parent run.
        `params` may be nested (see `flatten`). MLflow never changes one: what a run that exists has otherwise now becomes a
        tag, ``resumed.NAME``. The state of a run that exists is left alone (see `reopen_run`).
        """
        if not key or not key.isprintable() or set(key) & set("'\"`\\"):
            raise ValueError(f"a run's key must be printable and without quotes, not {key!r}")
        self._ready()
        texts = {"params": parameter_texts(params or {}), "tags": tag_texts(tags or {})}
        info = {"name": name, "kind": kind, "parent": parent, "start_time": self._time(), **texts}
        if not self._spool.add_run(key, info):
            known = self._spool.run(self._number(key)).info["params"]
            changed = {name: text for name, text in texts["params"].items() if known.get(name, text) != text}
            self.set_tags(key, texts["tags"] | {f"resumed.{name}": text for name, text in changed.items()})
            self.log_params(key, {name: text for name, text in texts["params"].items() if name not in known})

    def knows(self, key: str) -> bool:
        """Whether the run with this key was started."""
        return self._spool.run_number(key) is not None

    def log_metrics(self, key: str, metrics: Mapping[str, float], step: int, timestamp_ms: int | None = None) -> None:
        """Log metrics of one step; what was logged for the same run, metric and step before is left out.

        `timestamp_ms`: milliseconds since 1970, None for now.
        """
        values = {clean_name(name): float(value) for name, value in metrics.items()}
        self._spool.add_metrics(self._number(key), values, int(step), timestamp_ms or self._time())

    def set_tags(self, key: str, tags: Mapping[str, str]) -> None:
        """Set tags; a later value replaces an earlier one."""
        if tags:
            self._spool.add_event(self._number(key), "tags", tag_texts(tags))

    def log_params(self, key: str, params: Mapping[str, object]) -> None:
        """Log parameters, nested or flat. MLflow never changes one: another value for the same name is set aside."""
        if params:
            self._spool.add_event(self._number(key), "params", parameter_texts(params))

    def log_dataset(self, key: str, dataset: TrackedDataset) -> None:
        """Say which data set a run has used: MLflow shows it beside the run, and finds runs by it."""
        self._spool.add_event(self._number(key), "dataset", asdict(dataset))

    def log_artifact(self, key: str, path: Path, folder: str = "") -> None:
        """Log a file, copied into the spool now: the caller may change or delete it at once."""
        number = self._number(key)
        if not Path(path).is_file():
            raise TrackingError(f"{path} is to be logged as an artifact but is not a file")
        stored = self._place(Path(path).name)
        with self._space_for(stored):
            shutil.copyfile(path, stored)
        self._add_file(number, stored, folder)

    def log_text(self, key: str, text: str, artifact_file: str) -> None:
        """Log text as an artifact, for example `config.yaml` or `tables/main.tex`."""
        self.log_bytes(key, text.encode("utf-8"), artifact_file)

    def log_bytes(self, key: str, content: bytes, artifact_file: str) -> None:
        """Log the content of a file as an artifact, for example `picture.jpg`."""
        number = self._number(key)
        folder, _, name = artifact_file.rpartition("/")
        stored = self._place(name)
        with self._space_for(stored):
            stored.write_bytes(content)
        self._add_file(number, stored, folder)

    def log_model(self, key: str, folder: Path, name: str) -> None:
        """Log a folder of `package_model` as a model of the run, copied into the spool now."""
        number = self._number(key)
        stored = self._place("model")
        with self._space_for(stored):
            shutil.copytree(folder, stored)
        self._add_file(number, stored, "", model=name)

    def end_run(self, key: str, state: str, reason: str = "") -> None:
        """End a run. `state`: completed, pruned, failed or killed; it and `reason` become tags."""
        if state not in _STATUS:
            raise ValueError(f"the state of an ended run is one of {', '.join(_STATUS)}, not {state!r}")
        number = self._number(key)
        self._spool.add_event(number, "tags", tag_texts({"state": state, "reason": reason}))
        self._spool.add_event(number, "status", {"status": _STATUS[state], "time": self._time()})

    def reopen_run(self, key: str) -> None:
        """Set a run RUNNING again, on resume."""
        number = self._number(key)
        self._spool.add_event(number, "tags", {"state": "running", "reason": ""})
        self._spool.add_event(number, "status", {"status": "RUNNING", "time": None})

    # ------------------------------------------------------------------ the end

    def flush(self, timeout: float) -> bool:
        """Wait, at most `timeout` seconds, until everything is delivered; False if it is not."""
        deadline = time.monotonic() + timeout
        self._ask_for_attempt()
        while self.pending:
            if self._deliver:
                self._watch()
            if not self._deliver or time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        return True

    def close(self, timeout: float = 60) -> bool:
        """Deliver what can be delivered within `timeout` seconds; False if something stays spooled (for `replay`)."""
        if self._closed:
            return True
        delivered = self.flush(timeout)
        self._last_error = self.last_error
        self._experiment_id = self._spool.state("experiment_id")
        self._closed = True
        if self._process is not None:
            _dismiss(self._process)
        self._spool.close()
        self._lock_file.close()
        return delivered

    # ------------------------------------------------------------------ inside

    def _number(self, key: str) -> int:
        self._ready()
        number = self._spool.run_number(key)
        if number is None:
            raise TrackingError(f"No run with the key {key!r} was started")
        return number

    def _ready(self) -> None:
        if self._closed:
            raise TrackingError("This tracker is closed")
        if time.monotonic() - self._looked_at > 1.0:
            self._watch()

    def _time(self) -> int:
        """Milliseconds since 1970, never twice the same: runs and points are listed in the order of their times."""
        with self._lock:
            self._latest_ms = max(now_ms(), self._latest_ms + 1)
            return self._latest_ms

    def _place(self, name: str) -> Path:
        return self._folder / FILES / uuid.uuid4().hex / name

    @contextlib.contextmanager
    def _space_for(self, stored: Path) -> Iterator[None]:
        try:
            stored.parent.mkdir()
            yield
        except OSError as error:
            shutil.rmtree(stored.parent, ignore_errors=True)
            full = error.errno in NO_ROOM
            state = "is full: free some space" if full else f"cannot be written ({error.strerror}): put that right"
            raise SpoolFullError(
                f"The disk that holds the tracking spool {self._folder} {state}, then resume"
            ) from None

    def _add_file(self, number: int, stored: Path, folder: str, **more: str) -> None:
        relative = stored.relative_to(self._folder / FILES).as_posix()
        self._spool.add_event(number, "file", {"stored": relative, "folder": folder, **more})

    def _ask_for_attempt(self) -> None:
        process = self._process
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                process.stdin.write("\n")
                process.stdin.flush()

    def _watch(self) -> bool:
        """Start the delivery process, again if it died; False if it is dead for now."""
        with self._lock:
            self._looked_at = time.monotonic()
            if self._process is not None and self._process.poll() is None:
                return True
            if not self._deliver or self._looked_at - self._started_at < _RESTART_SECONDS:
                return False
            self._started_at = self._looked_at
            self._process = self._start()
            return True

    def _start(self) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            tracking_command("deliver", str(self._folder)),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            env=process_environment(),
            start_new_session=True,
        )
        orders = {"uri": self._uri, "experiment": self._experiment, "owner": self._owner}
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # it died at once; `_watch` will see
            process.stdin.write(json.dumps(orders) + "\n")
            process.stdin.flush()
        return process


def _dismiss(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    for end in (process.terminate, process.kill):
        try:
            process.wait(timeout=3)
            return
        except subprocess.TimeoutExpired:
            end()
    process.wait()


def _view_key(name: str) -> str:
    return "ctxtune-" + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
