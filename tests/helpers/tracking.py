"""What the tests of the tracking room share: MLflow stores, read without ctxtune."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from ctxtune.tracking import Tracker
from tests.helpers.once import once
from tests.helpers.processes import PATIENCE


def _make_template(folder: Path) -> None:
    tracker = Tracker(f"sqlite:///{folder}/template.db", "template", folder / "spool")
    tracker.check()
    tracker.start_run("first", name="first", kind="sweep")
    assert tracker.close(timeout=PATIENCE), tracker.last_error


def new_store(folder: Path) -> str:
    """The URI of an MLflow store in `folder` whose tables exist already (making them takes seconds)."""
    folder.mkdir(parents=True, exist_ok=True)
    template, _ = once("template", _make_template)
    shutil.copy(template / "template.db", folder / "mlflow.db")
    return f"sqlite:///{folder}/mlflow.db"


def rows(uri: str, statement: str, *values: object) -> list[tuple]:
    """What plain SQL finds in an MLflow store."""
    with sqlite3.connect(uri.removeprefix("sqlite:///"), timeout=20) as database:
        return database.execute(statement, values).fetchall()


def metric_rows(uri: str) -> list[tuple[str, str, int]]:
    """Every stored metric value as (run key, metric, step), sorted; doubles stay doubles."""
    return rows(
        uri,
        "SELECT tags.value, metrics.key, metrics.step FROM metrics "
        "JOIN tags ON tags.run_uuid = metrics.run_uuid AND tags.key = 'ctxtune.key' ORDER BY 1, 2, 3",
    )


def expected_rows(keys: list[str], metrics: list[str], steps: range) -> list[tuple[str, str, int]]:
    """The rows of `metric_rows` if every metric of every run was stored once at every step."""
    return sorted((key, metric, step) for key in keys for metric in metrics for step in steps)


def start_server(store: str, port: int, artifacts: Path) -> subprocess.Popen:
    """A real `mlflow server` in a process group of its own, answering."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1", "--artifacts-destination", str(artifacts)]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
            return server
        except OSError:
            assert server.poll() is None, "the server ended at once"
            time.sleep(0.1)
    raise AssertionError("the server does not answer")


def kill_server(server: subprocess.Popen) -> None:
    """Kill the server and its workers, in the middle of whatever they do."""
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()
