"""An SQLite store is there whole or not at all, however its making ends."""

import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from ctxtune.errors import TrackingError
from ctxtune.tracking.connection import check_file_store
from tests.helpers.processes import PATIENCE

MAKE = """
import sys
from ctxtune.tracking.connection import connect
client = connect(f"sqlite:///{sys.argv[1]}", retries=0, timeout_seconds=5)
print(client.create_experiment(sys.argv[2]))
"""


KILLED_BEFORE_IT_IS_THERE = """
import os, signal, sys


def note(event, arguments):
    if event in ("os.rename", "os.link") and os.fspath(arguments[1]) == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGKILL)


sys.addaudithook(note)
"""


def make(path, name="one", before=""):
    return subprocess.Popen(
        [sys.executable, "-c", before + MAKE, str(path), name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_maker_that_is_killed_leaves_nothing_that_the_next_stumbles_over(tmp_path):
    path = tmp_path / "mlflow.db"
    first = make(path, before=KILLED_BEFORE_IT_IS_THERE)
    _, errors = first.communicate(timeout=PATIENCE)
    assert first.returncode == -signal.SIGKILL, errors
    assert list(tmp_path.glob(".mlflow.db-*/mlflow.db"))  # its tables were made
    assert not path.exists()
    path.touch()  # as somebody's `touch`, or a full disk, leaves it
    second = make(path)
    _, errors = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0, errors
    assert check_file_store(path)


@pytest.mark.slow
def test_two_that_make_it_at_once_have_one_store(tmp_path):
    path = tmp_path / "folder/mlflow.db"
    makers = [make(path, name) for name in ("one", "two")]
    for maker in makers:
        _, errors = maker.communicate(timeout=PATIENCE)
        assert maker.returncode == 0, errors
    with sqlite3.connect(path) as database:
        names = {name for (name,) in database.execute("SELECT name FROM experiments")}
    assert names == {"Default", "one", "two"}
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["mlflow.db"]


def test_one_that_something_else_left_half_made_is_named(tmp_path):
    path = tmp_path / "mlflow.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE experiments (experiment_id INTEGER)")
    assert not check_file_store(path)  # its maker may still be at it
    os.utime(path, (time.time() - 3600,) * 2)
    with pytest.raises(TrackingError, match=r"half made.*delete it"):
        check_file_store(path)
    with sqlite3.connect(path) as database:  # an old MLflow's: nobody is told to delete runs
        database.execute("CREATE TABLE runs (run_uuid TEXT)")
        database.execute("INSERT INTO runs VALUES ('kept')")
    os.utime(path, (time.time() - 3600,) * 2)
    assert not check_file_store(path)


def test_a_path_that_no_file_can_have_is_told_in_short(tmp_path):
    with pytest.raises(TrackingError, match="cannot be used: File name too long") as told:
        check_file_store(tmp_path / ("x" * 5000))
    assert len(str(told.value)) < 300
