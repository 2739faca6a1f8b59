"""What the tests of training share: a trial that takes a second, and few classes to train it on."""

from typing import Any

import numpy as np
import torch

from ctxtune.config import TrialSettings, with_values
from ctxtune.data import Split, ValidationSettings, load_dataset
from ctxtune.training import FoldTrainer, fold_splits
from ctxtune.training.splits import RunSplits
from ctxtune.training.trainer import Trainer

TREE: dict[str, Any] = {
    "dataset": {"name": "glyphs", "image_size": 32},
    "model": {"backbone": "small_conv", "width": 8, "embedding_dim": 16, "layer_norm": True},
    "loss": {"name": "contextual"},
    "sampler": {"batch_size": 32, "batches_per_epoch": 4},
    "optimizer": {"lr": 3e-3},
    "schedule": {"name": "cosine", "epochs": 4},
    "image": {"train_crop": 32, "min_scale": 0.6, "flip": False, "test_resize": None, "test_crop": None},
    "evaluation": {"every": 2},
}
TRIAL = TrialSettings.model_validate(TREE)
VALIDATION = ValidationSettings()


def few_classes(part: Split, classes: int) -> Split:
    return part.select(np.flatnonzero(np.isin(part.labels, np.unique(part.labels)[:classes])), part.name)


def small_parts(benchmark=None, fold: int = 0, seed: int = 0) -> RunSplits:
    benchmark = benchmark or load_dataset(TRIAL.dataset)
    parts = fold_splits(TRIAL, VALIDATION, fold, seed=seed, benchmark=benchmark)
    return RunSplits(few_classes(parts.fit, 40), few_classes(parts.query, 20), None, "validation")


def run_of(parts: RunSplits, trial: TrialSettings = TRIAL, seed: int = 1, device: str = "cpu") -> FoldTrainer:
    return FoldTrainer(trial, parts, seed=seed, device=device)


def trial_of(**changes: Any) -> TrialSettings:
    """The small trial with other values; `a__b` stands for the path a.b."""
    return with_values(TRIAL, {path.replace("__", "."): value for path, value in changes.items()})


def reports_of(run: FoldTrainer) -> list[dict[str, float]]:
    reports: list[dict[str, float]] = []
    Trainer([run]).run(lambda report: reports.append(report.metrics))
    return reports


def weights(run: FoldTrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())
