"""What the tests of the tracking room share: MLflow stores, read without ctxtune."""

import atexit
import shutil
import sqlite3
import tempfile
import time
from functools import lru_cache
from pathlib import Path

from ctxtune.tracking import Tracker


@lru_cache(maxsize=1)
def _template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="ctxtune-tracking-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tracker = Tracker(f"sqlite:///{folder}/template.db", "template", folder / "spool")
    start = time.monotonic()
    tracker.check()  # says yes before the tables are there
    tracker.start_run("first", name="first", kind="sweep")
    assert time.monotonic() - start < 3
    assert tracker.close(timeout=60), tracker.last_error
    return folder / "template.db"


def new_store(folder: Path) -> str:
    """The URI of an MLflow store in `folder` whose tables exist already (making them takes seconds)."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(_template(), folder / "mlflow.db")
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
