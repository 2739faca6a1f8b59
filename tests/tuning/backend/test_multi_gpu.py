"""A run on several GPUs under Ray: two processes that Ray Train starts, with GPUs that Ray only counts."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from ctxtune.errors import ConfigError
from ctxtune.training import load_checkpoint
from ctxtune.tuning.backend.cluster import process_count
from ctxtune.tuning.backend.multi_gpu import _of_the_run_itself
from ctxtune.tuning.record.journal import Journal

SWEEP = """
import os, signal, subprocess, sys
import psutil
from pathlib import Path
from ctxtune.config import load_search_space
from ctxtune.tuning.sweep import Watcher, run_sweep

SETS = [
    "name=together", "trial.model.width=8", "trial.model.embedding_dim=16", "trial.sampler.batch_size=32",
    "trial.sampler.batches_per_epoch=3", "trial.schedule.epochs=4", "trial.evaluation.every=1", "search.trials=1",
    "search.scheduler.name=none", "select=null", "confirm=null", "resources={gpus: 2, cpus: 1}",
    "trial.precision=float32", f"tracking.uri=sqlite:///{sys.argv[1]}/mlflow.db",
]
space = load_search_space(Path(sys.argv[2]) / "search_spaces/quickstart.yaml", SETS)
killed, heard = [], {}

def on_change(recorder, run):
    print(run.key, run.state, run.epoch, flush=True)
    if run.epoch == 1:
        for process in psutil.Process().children(recursive=True):
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    heard[process.pid, connection.laddr.port] = connection.laddr.ip
    if run.epoch == 2 and not killed:
        found = subprocess.run(["pgrep", "-f", "RayTrainWorker"], capture_output=True, text=True).stdout.split()
        mine = [int(pid) for pid in found if os.environ["CTXTUNE_TEST"] in Path(f"/proc/{pid}/environ").read_text()]
        killed.append(mine)
        os.kill(mine[-1], signal.SIGKILL)

run_sweep(space, root=Path(sys.argv[1]) / "results", watcher=Watcher(on_change=on_change))
print("killed one of", len(killed[0]))
assert len(heard) >= 4 and set(heard.values()) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, heard
"""


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_two_processes_train_one_run_and_one_of_them_is_killed(tmp_path, repository):
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1", "CTXTUNE_TEST": str(tmp_path)}
    environment["RAY_OVERRIDE_RESOURCES"] = '{"CPU": 2, "GPU": 2}'
    command = [sys.executable, "-c", SWEEP, str(tmp_path), str(repository)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "killed one of" in done.stdout
    (run,) = Journal(tmp_path / "results/together/journal.jsonl").runs.values()
    assert run.state == "completed"
    assert [report.epoch for report in run.reports] == [1, 2, 3, 4]
    state = load_checkpoint(Path(run.checkpoint) / "checkpoint.pt")
    assert state["reported"] == 4
    # Three steps an epoch of the whole batch of 32, whatever number of processes shares it.
    assert run.reports[-1].metrics["train/steps"] == 12


def test_a_full_disk_of_a_process_is_told_as_such(tmp_path):
    cause = RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")
    failures = {0: types.SimpleNamespace(_base_exc=cause)}
    reason, message = _of_the_run_itself(types.SimpleNamespace(worker_failures=failures))
    assert reason == "disk_full" and "cannot be written" in message


@pytest.mark.parametrize(("gpus", "count"), [(0.0, 1), (0.5, 1), (1.0, 1), (2.0, 2), (4.0, 4)])
def test_a_process_for_each_gpu(gpus, count):
    assert process_count(gpus) == count


def test_several_gpus_are_a_whole_number():
    with pytest.raises(ConfigError, match=r"resources\.gpus: 1\.5"):
        process_count(1.5)
