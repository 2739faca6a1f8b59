"""The real Cars196 file, end to end, on a tiny tree in the official layouts."""

from pathlib import Path

import pytest

from ctxtune.tuning.record.journal import Journal
from tests.helpers import trees
from tests.helpers.sweeps import CARS_CLASSES, SMALL_CARS, run_sweep, sweep_here, without_times
from tests.helpers.tracking import new_store

AUDIT = """
import os, sys


def note(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and "car_ims" in arguments[0]:
        with_descriptor = os.open(os.environ["CTXTUNE_TEST_AUDIT"], os.O_APPEND | os.O_CREAT | os.O_WRONLY)
        os.write(with_descriptor, (os.path.basename(arguments[0]) + chr(10)).encode())
        os.close(with_descriptor)


sys.addaudithook(note)
"""


def cars_with_test_part(folder: Path, *, readable: bool) -> set[str]:
    """A tiny Cars196 tree in ``folder``; the names of the test classes' images."""
    from scipy.io import loadmat

    root = folder / "data/cars196"
    trees.cars196(root, "original", CARS_CLASSES, images=6)
    rows = loadmat(root / "cars_annos.mat", squeeze_me=True)["annotations"]
    paths = [root / str(row["relative_im_path"]) for row in rows if int(row["class"]) > 98]
    for path in paths:
        if not readable:
            path.write_bytes(b"not an image")
    return {path.name for path in paths}


def audited(repository: Path, folder: Path, *overrides: str) -> tuple[Journal, set[str], str]:
    """Run a tiny sweep; its journal, the images that any of its processes (driver, workers) opened, and what it printed."""
    new_store(folder)
    (folder / "site").mkdir()
    (folder / "site/sitecustomize.py").write_text(AUDIT)
    sets = [
        *SMALL_CARS,
        "search.max_concurrent=1",
        "search.trials=2",
        "search.scheduler.name=none",
        "select.top=2",
        *overrides,
    ]
    variables = {
        "PYTHONPATH": f"{folder / 'site'}:{repository}",
        "CTXTUNE_TEST_AUDIT": str(folder / "opened"),
        "CTXTUNE_CACHE": str(folder / "cache"),
    }
    done = run_sweep(repository, folder, file="cars.yaml", overrides=sets, variables=variables)
    assert done.returncode == 0, done.stderr
    return (
        Journal(folder / "results/cars-contextual/journal.jsonl"),
        set((folder / "opened").read_text().split()),
        done.stdout,
    )


@pytest.mark.slow
@pytest.mark.ray
def test_a_sweep_over_a_tree_in_the_official_layout_reads_no_test_class_before_confirmation(repository, tmp_path):
    """Test images that are no images at all: search and selection do not notice, nor does any process open one."""
    test_images = cars_with_test_part(tmp_path, readable=False)
    journal, opened, printed = audited(repository, tmp_path, "confirm=null")
    assert {run.state for run in journal.runs.values()} <= {"completed", "pruned"}
    assert journal.stage("selection") and not journal.stage("confirmation")
    assert opened and not opened & test_images
    assert "Chosen configuration" in printed
    assert len(journal.stage("search")) == 2
    # The published recipe is the first trial, unaltered.
    assert journal.stage("search")[0].spec.point == pytest.approx(
        {
            "loss.contextual_weight": 0.8,
            "loss.k": 4,
            "loss.epsilon": 0.05,
            "loss.positive_margin": 0.75,
            "loss.negative_margin": 0.6,
            "optimizer.lr": 8e-5,
        }
    )


@pytest.mark.slow
@pytest.mark.ray
def test_trials_are_the_same_whether_the_test_part_can_be_read_or_not(repository, tmp_path):
    scores = {}
    for name, readable in (("readable", True), ("garbage", False)):
        folder = tmp_path / name
        test_images = cars_with_test_part(folder, readable=readable)
        # The audit is no empty one: a confirmation opens test images.
        journal, opened, _ = audited(repository, folder, *([] if readable else ["confirm=null"]))
        assert bool(opened & test_images) == readable
        scores[name] = [
            (run.key, run.state, run.spec.point, [without_times(report) for report in run.reports])
            for run in journal.runs.values()
            if run.stage != "confirmation"
        ]
    assert len(scores["readable"]) >= 4  # three trials and what was selected from
    assert scores["readable"] == scores["garbage"]


@pytest.mark.parametrize("layout", ["torchvision", "folders"])
def test_the_other_layouts_pass_a_dry_run(repository, tmp_path, layout):
    trees.cars196(tmp_path / "elsewhere", layout, CARS_CLASSES, images=6)
    overrides = [*SMALL_CARS, f"trial.dataset.root={tmp_path / 'elsewhere'}"]
    done = sweep_here(repository, tmp_path, "--dry-run", file="cars.yaml", overrides=overrides)
    assert done.returncode == 0, done.stderr
    assert "loss.contextual_weight" in done.stdout
    assert not (tmp_path / "results").exists()


def test_without_the_images_one_message_says_what_to_do(repository, tmp_path):
    done = sweep_here(repository, tmp_path, file="cars.yaml", overrides=SMALL_CARS)
    assert done.returncode == 2
    for words in ("data/cars196", "cars_annos.mat", "stanford_cars", "car_data", "trial.dataset.root", "CTXTUNE_DATA"):
        assert words in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert not (tmp_path / "results").exists()
