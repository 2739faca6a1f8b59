"""What goes wrong in trials, provoked for real: the sweep goes on and nothing is lost."""

import os
import signal
import subprocess
import time
from pathlib import Path

import trees
from test_sweep_cars import CLASSES
from test_sweep_cars import TINY as TINY_CARS
from test_sweep_cars import sweep as sweep_cars
from test_sweep_end_to_end import SMALL, command, environment, run

from ctxtune.tracking import read_runs
from ctxtune.tuning.journal import Journal

GRID = [
    *SMALL,
    "trial.evaluation.every=1",
    "search.constraints=[]",
    "search.sampler.name=grid",
    "search.scheduler.name=none",
    "search.max_concurrent=1",
    "select=null",
    "confirm=null",
]


def workers(mark: str) -> list[int]:
    """The processes of Ray that train, among those that a sweep with this mark in its environment has started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (
                    b"ray::ImplicitFunc" in (entry / "cmdline").read_bytes()
                    and mark.encode() in (entry / "environ").read_bytes()
                ):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_a_loss_that_is_not_finite_fails_its_trial_and_the_sweep_goes_on(repository, tmp_path):
    overrides = [*GRID, "search.space={optimizer.lr: {choice: [2.0e-3, 1.0e+30, 4.0e-3]}}"]
    done = run(repository, tmp_path, overrides=overrides)
    assert done.returncode == 0, done.stderr
    trials = Journal(tmp_path / "results/quickstart/journal.jsonl").stage("search")
    states = {trial.spec["point"]["optimizer.lr"]: trial for trial in trials}
    assert states[1e30].state == "failed"
    assert states[1e30].reason.startswith(("non_finite", "collapse"))
    assert states[4e-3].state == states[2e-3].state == "completed"
    tracked = {
        tracked.name: tracked for tracked in read_runs(f"sqlite:///{tmp_path / 'mlflow.db'}", "quickstart", "trial")
    }
    assert tracked[states[1e30].key].state == "failed"
    assert tracked[states[1e30].key].reason == states[1e30].reason


def test_a_trial_whose_process_is_killed_goes_on_from_its_checkpoint(repository, tmp_path):
    overrides = [
        *GRID,
        "trial.schedule.epochs=12",
        "trial.sampler.batches_per_epoch=8",
        "search.trials=1",
        "search.space={optimizer.lr: {choice: [2.0e-3]}}",
    ]
    mark = f"mark-{os.getpid()}-{time.monotonic_ns()}"
    process = subprocess.Popen(
        command(repository, tmp_path, "quickstart.yaml", overrides=overrides),
        cwd=tmp_path, env={**environment(repository), "CTXTUNE_TEST_MARK": mark},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    journal_file = tmp_path / "results/quickstart/journal.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if journal_file.exists() and journal_file.read_bytes().count(b"checkpointed") >= 2:
            break
        time.sleep(0.05)
    killed = workers(mark)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=200)
    assert killed
    assert process.returncode == 0, errors
    (trial,) = Journal(journal_file).stage("search")
    assert trial.state == "completed"
    assert [report["epoch"] for report in trial.reports] == list(range(1, 13))
    assert trial.reports[-1]["train/steps"] == 12 * 8


def test_the_test_classes_are_not_read_before_confirmation(repository, tmp_path):
    """Test images that are no images at all: search and selection do not notice."""
    root = tmp_path / "data/cars196"
    trees.cars196(root, "original", CLASSES, images=6)
    from scipy.io import loadmat

    for row in loadmat(root / "cars_annos.mat", squeeze_me=True)["annotations"]:
        if int(row["class"]) > 98:
            (root / str(row["relative_im_path"])).write_bytes(b"not an image")
    done = sweep_cars(repository, tmp_path, overrides=[*TINY_CARS, "confirm=null"])
    assert done.returncode == 0, done.stderr
    journal = Journal(tmp_path / "results/cars-contextual/journal.jsonl")
    assert {run.state for run in journal.runs.values()} <= {"completed", "pruned"}
    assert journal.stage("selection") and not journal.stage("confirmation")
