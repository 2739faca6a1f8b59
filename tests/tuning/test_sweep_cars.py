"""The real Cars196 file, end to end, on a tiny tree in the official layouts."""

import subprocess
import sys
from pathlib import Path

import pytest

from ctxtune.tuning.record.journal import Journal
from tests.helpers import trees
from tests.tuning.test_sweep_end_to_end import environment

CLASSES = (*range(1, 17), *range(99, 111))
TINY = [
    "trial.model={backbone: small_conv, width: 8, embedding_dim: 16}",
    "trial.sampler.batch_size=16",
    "trial.image={train_crop: 32, test_resize: 36, test_crop: 32}",
    "trial.schedule={name: step, epochs: 2, step_epochs: 1, factor: 0.5}",
    "trial.evaluation.every=1",
    "search.scheduler.grace_epochs=1",
    "search.trials=4",
    "select={top: 1, folds: [1], seeds: 1}",
    "confirm.seeds=2",
]


def sweep(repository: Path, folder: Path, *arguments: str, overrides=TINY):
    sets = [part for override in overrides for part in ("--set", override)]
    file = str(repository / "search_spaces/cars.yaml")
    return subprocess.run(
        [sys.executable, "-m", "ctxtune.sweep", file, *sets, *arguments],
        cwd=folder, env=environment(repository), capture_output=True, text=True, timeout=280,
    )  # fmt: skip


def test_a_sweep_over_a_tree_in_the_official_layout(repository, tmp_path):
    trees.cars196(tmp_path / "data/cars196", "original", CLASSES, images=6)
    done = sweep(repository, tmp_path)
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
    trees.cars196(tmp_path / "elsewhere", layout, CLASSES, images=6)
    done = sweep(repository, tmp_path, "--dry-run", overrides=[*TINY, f"trial.dataset.root={tmp_path / 'elsewhere'}"])
    assert done.returncode == 0, done.stderr
    assert "loss.contextual_weight" in done.stdout
    assert not (tmp_path / "results").exists()


def test_without_the_images_one_message_says_what_to_do(repository, tmp_path):
    done = sweep(repository, tmp_path)
    assert done.returncode == 2
    for words in ("data/cars196", "cars_annos.mat", "stanford_cars", "car_data", "trial.dataset.root", "CTXTUNE_DATA"):
        assert words in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert not (tmp_path / "results").exists()
