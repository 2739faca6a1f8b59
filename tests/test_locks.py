"""Locks on files: who has one, and what is said where a file system has none."""

import errno
import fcntl
import re
import subprocess
import sys
import warnings

import pytest

from ctxtune.config import load_search_space
from ctxtune.errors import CtxtuneError
from ctxtune.locks import lock, open_lock, try_lock
from ctxtune.tracking import Tracker
from ctxtune.tracking.delivery_process import exclusive
from ctxtune.tuning.record.results_folder import sweep_folder
from tests.helpers.processes import PATIENCE

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lock_is_another_processes_until_that_ends(tmp_path):
    path = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline().strip() == "held"
    with path.open("a") as file:
        assert not try_lock(file)
        holder.communicate("", timeout=PATIENCE)
        assert try_lock(file)


@pytest.mark.parametrize("name", ["lock", "spool/writer.lock", "spool/delivery.lock"])
def test_a_lock_that_is_no_file_is_named(tmp_path, repository, name):
    space = load_search_space(repository / "search_spaces/quickstart.yaml")
    in_the_way = tmp_path / space.name / name
    in_the_way.mkdir(parents=True)
    with pytest.raises(CtxtuneError, match=re.escape(str(in_the_way))):
        folder = sweep_folder(tmp_path, space, resume=False)
        Tracker(f"sqlite:///{tmp_path}/mlflow.db", "x", folder.spool)


@pytest.mark.parametrize("use", [open_lock, lambda path: exclusive(path).__enter__()])
def test_a_lock_that_cannot_be_opened_is_one_error(tmp_path, use):
    with pytest.raises(CtxtuneError, match=r"gone/lock: cannot be opened for a lock \(No such file"):
        use(tmp_path / "gone/lock")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_no_other_process(tmp_path, monkeypatch, repository, number):
    """The kernel's answer is put in its place here: no such file system can be mounted in a test."""

    def flock(file, how):
        raise OSError(number, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with (tmp_path / "lock").open("a") as file:
        with pytest.warns(UserWarning, match=r"lock: its file system has no locks \(No locks available\)"):
            assert try_lock(file)
        with pytest.warns(UserWarning, match="has no locks"):
            lock(file)
    space = load_search_space(repository / "search_spaces/quickstart.yaml")
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        sweep_folder(tmp_path, space, resume=False).close()
