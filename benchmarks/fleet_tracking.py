"""MLflow for `fleet.py`: stores and servers of its own, and what a delivery has to do while the fleet reports."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from ctxtune.tracking import Tracker, replay
from ctxtune.tracking.spool import Spool

PARTS = 5
"""Trials, and the time in which a spool is filled, are looked at in so many parts: what grows shows in the last one."""
LOOK_SECONDS = 1.0
START_SECONDS = 120.0
DRAIN_SECONDS = 3600.0
Figures = dict[str, object]


@contextlib.contextmanager
def store(kind: str, folder: Path) -> Iterator[str | None]:
    """The address of an empty MLflow store: SQLite, a PostgreSQL of our own, an address as it stands, or none."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'mlflow.db'}"
    elif kind == "postgresql":
        missing = [name for name in ("initdb", "pg_ctl") if shutil.which(name) is None]
        if missing:
            raise SystemExit(f"--tracking postgresql: {', '.join(missing)} not found in PATH; take sqlite")
        if os.geteuid() == 0:
            raise SystemExit("--tracking postgresql: initdb refuses root; be another user, or give a server's address")
        cluster = folder / "postgresql"
        subprocess.run(["initdb", "-D", cluster, "-U", "fleet", "-A", "trust"], check=True, stdout=subprocess.DEVNULL)
        options = f"-k {folder} -c listen_addresses="
        start = ["pg_ctl", "-D", cluster, "-o", options, "-l", folder / "log", "-w", "start"]
        subprocess.run(start, check=True, stdout=subprocess.DEVNULL)
        try:
            yield f"postgresql+psycopg2://fleet@/postgres?host={folder}"
        finally:
            subprocess.run(["pg_ctl", "-D", cluster, "-m", "fast", "stop"], check=True, stdout=subprocess.DEVNULL)
    else:
        yield None if kind == "none" else kind


@contextlib.contextmanager
def server(database: str, folder: Path) -> Iterator[str]:
    """The address of MLflow's own server over a store, started as `docker/compose.yaml` does: with one worker."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", database, "--artifacts-destination", str(folder / "artifacts")]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    address = f"http://127.0.0.1:{port}"
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            _wait_for(address, process, folder / "server.log")
            yield address
        finally:
            process.terminate()
            process.wait()


def _wait_for(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"{address}/health"):
            return
        time.sleep(0.2)
    raise SystemExit(f"MLflow's server does not start:\n{log.read_text()[-2000:]}")


def processor_seconds() -> dict[str, float]:
    """What delivery and server (children of this process) and this machine's PostgreSQL have used so far.

    Sessions of the database that have ended are not counted.
    """
    used = dict.fromkeys(("delivery", "server", "database"), 0.0)
    ours = psutil.Process().children(recursive=True)
    for process in ours + [each for each in psutil.process_iter(["name"]) if each.info["name"] == "postgres"]:
        with contextlib.suppress(psutil.Error):
            command, times = " ".join(process.cmdline()), process.cpu_times()
            part = "delivery" if "ctxtune.tracking deliver" in command else "server"
            used["database" if process.name() == "postgres" else part] += times.user + times.system
    return used


@dataclass
class Watch:
    """Looks at a spool while it is filled and emptied."""

    folder: Path
    waiting: list[int] = field(default_factory=list)
    """Events not delivered yet, at each look."""
    _ended: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Look on within the block."""
        thread = threading.Thread(target=self._look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _look(self) -> None:
        spool = Spool(self.folder, create=False)
        while not self._ended.wait(LOOK_SECONDS):
            self.waiting.append(spool.pending())
        spool.close()

    def by_part(self) -> list[int]:
        """Events that waited, on average, in each part of the time."""
        return [round(float(np.mean(each))) for each in np.array_split(np.array(self.waiting), PARTS) if len(each)]


def beside(tracker: Tracker, search: Callable[[], Figures]) -> Figures:
    """The figures of a search, and of the delivery that goes on beside it."""
    watch, used, began = Watch(tracker.folder), processor_seconds(), time.perf_counter()
    with watch.looking():
        found = search()
    searched, left, counts = time.perf_counter() - began, tracker.pending, tracker.counts()
    if not tracker.flush(DRAIN_SECONDS):
        raise SystemExit(f"{tracker.pending} events are not delivered: {tracker.last_error}")
    took = time.perf_counter() - began
    trials, after = counts.runs - 1, processor_seconds()
    refused = tracker.counts().refused
    tracker.close()
    return found | {
        "fleet_real_s": round(searched, 1),
        "trials_a_real_second": round(trials / searched, 2),
        "events": counts.delivered + counts.pending,
        "events_waiting_by_part": watch.by_part(),
        "events_waiting_at_most": max(watch.waiting, default=0),
        "events_waiting_at_the_end": left,
        "events_refused": refused,
        "drained_after_the_end_s": round(took - searched, 1),
        "spool_mib": round(sum(each.stat().st_size for each in tracker.folder.glob("spool.db*")) / 2**20, 1),
        "processor_ms_a_trial": {name: round(1000 * (after[name] - used[name]) / trials, 1) for name in used},
    }


def drain(folder: Path, uri: str, trials: int, fleet_seconds: float) -> Figures:
    """Deliver a spool; how long that takes, beside how long the fleet took to fill it."""
    started = time.perf_counter()
    events = replay(folder / "spool", uri)
    took = time.perf_counter() - started
    return {
        "tracking_events": events,
        "tracking_s": round(took, 1),
        "tracking_ms_a_trial": round(1000 * took / trials, 1),
        "tracking_over_the_sweep": round(took / fleet_seconds, 2),
    }
