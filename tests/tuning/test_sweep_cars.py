"""The real Cars196 file, end to end, on a tiny tree in the official layouts."""

import pytest

from ctxtune.tuning.record.journal import Journal
from tests.helpers import trees
from tests.helpers.sweeps import CARS_CLASSES, SMALL_CARS, run_sweep


def test_a_sweep_over_a_tree_in_the_official_layout(repository, tmp_path):
    trees.cars196(tmp_path / "data/cars196", "original", CARS_CLASSES, images=6)
    done = run_sweep(repository, tmp_path, file="cars.yaml", overrides=SMALL_CARS)
    assert done.returncode == 0, done.stderr
    assert "recall_at_1" in done.stdout
    journal = Journal(tmp_path / "results/cars-contextual/journal.jsonl")
    first = journal.stage("search")[0].spec
    # The published recipe is the first trial, unaltered.
    assert first["point"] == pytest.approx(
        {
            "loss.contextual_weight": 0.8,
            "loss.k": 4,
            "loss.epsilon": 0.05,
            "loss.positive_margin": 0.75,
            "loss.negative_margin": 0.6,
            "optimizer.lr": 8e-5,
        }
    )
    assert len(journal.stage("search")) == 4


@pytest.mark.parametrize("layout", ["torchvision", "folders"])
def test_the_other_layouts_pass_a_dry_run(repository, tmp_path, layout):
    trees.cars196(tmp_path / "elsewhere", layout, CARS_CLASSES, images=6)
    overrides = [*SMALL_CARS, f"trial.dataset.root={tmp_path / 'elsewhere'}"]
    done = run_sweep(repository, tmp_path, "--dry-run", file="cars.yaml", overrides=overrides)
    assert done.returncode == 0, done.stderr
    assert "loss.contextual_weight" in done.stdout
    assert not (tmp_path / "results").exists()


def test_without_the_images_one_message_says_what_to_do(repository, tmp_path):
    done = run_sweep(repository, tmp_path, file="cars.yaml", overrides=SMALL_CARS)
    assert done.returncode == 2
    for words in ("data/cars196", "cars_annos.mat", "stanford_cars", "car_data", "trial.dataset.root", "CTXTUNE_DATA"):
        assert words in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert not (tmp_path / "results").exists()
