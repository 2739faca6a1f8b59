"""Results on a shared file system: locks as NFS has them, where `flock` is carried out by locks on ranges of bytes."""

import sys
import tempfile

import pytest

from ctxtune.tuning.record.journal import Journal
from tests.helpers.processes import PATIENCE
from tests.helpers.sweeps import TINY, run_sweep, start_sweep, wait_for_checkpoints

AS_NFS = """
import fcntl, os, struct

def flock(file, operation):
    # Of an open file, like flock; but an exclusive one is refused (EBADF) where the file is not open for writing.
    kind = fcntl.F_UNLCK if operation & fcntl.LOCK_UN else fcntl.F_WRLCK if operation & fcntl.LOCK_EX else fcntl.F_RDLCK
    command = fcntl.F_OFD_SETLK if operation & fcntl.LOCK_NB else fcntl.F_OFD_SETLKW
    fcntl.fcntl(file, command, struct.pack("hhqqi", kind, os.SEEK_SET, 0, 0, 0))

fcntl.flock = flock
"""
SEARCH = [
    *TINY, "trial.schedule.epochs=6", "trial.evaluation.every=1", "search.trials=2", "search.scheduler.name=none",
    "select=null", "confirm=null", "search.max_concurrent=1",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="locks of open files on ranges of bytes are Linux's")
def test_a_sweep_works_with_the_locks_of_nfs_and_is_refused_a_second_time(repository, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(AS_NFS)
    with tempfile.TemporaryDirectory(prefix="nfs", dir="/tmp") as temporary:  # other sweeps here use other locks
        variables = {"PYTHONPATH": f"{tmp_path}:{repository}", "TMPDIR": temporary, "RAY_TMPDIR": temporary}
        require_one_sweep_at_a_time(repository, tmp_path, variables)


def require_one_sweep_at_a_time(repository, tmp_path, variables):
    journal_file = tmp_path / "results/quickstart/journal.jsonl"
    process = start_sweep(repository, tmp_path, overrides=SEARCH, variables=variables)
    wait_for_checkpoints(journal_file, 1, process)
    second = run_sweep(repository, tmp_path, "--resume", overrides=SEARCH, variables=variables)
    assert second.returncode == 2 and "this sweep is running in another process" in second.stderr
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output + errors
    assert "no locks" not in output + errors + second.stderr
    assert {run.state for run in Journal(journal_file).runs.values()} == {"completed"}
