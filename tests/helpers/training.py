"""What the tests of training share: a trial that takes a second, and few classes to train it on."""

import contextlib
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from ctxtune.config import TrialSettings, with_values
from ctxtune.data import Split, ValidationSettings, load_dataset
from ctxtune.train import main
from ctxtune.training import FoldTrainer, fold_splits
from ctxtune.training.process_group import ProcessGroup
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


def few_classes(split: Split, classes: int) -> Split:
    return split.select(np.flatnonzero(np.isin(split.labels, np.unique(split.labels)[:classes])), split.name)


def small_splits(benchmark=None, fold: int = 0, seed: int = 0) -> RunSplits:
    benchmark = benchmark or load_dataset(TRIAL.dataset)
    splits = fold_splits(TRIAL, VALIDATION, fold, seed=seed, benchmark=benchmark)
    return RunSplits(few_classes(splits.fit, 40), few_classes(splits.query, 20), None, "validation")


def run_of(splits: RunSplits, trial: TrialSettings = TRIAL, seed: int = 1, device: str = "cpu") -> FoldTrainer:
    return FoldTrainer(trial, splits, seed=seed, device=device)


def trial_of(**changes: Any) -> TrialSettings:
    """The small trial with other values; `a__b` stands for the path a.b."""
    return with_values(TRIAL, {path.replace("__", "."): value for path, value in changes.items()})


def reports_of(run: FoldTrainer) -> list[dict[str, float]]:
    reports: list[dict[str, float]] = []
    Trainer([run]).run(lambda report: reports.append(report.metrics))
    return reports


def first_batch(run: FoldTrainer) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels of the first batch of the first epoch, on the run's device."""
    images, indices = next(iter(run._images.batches(run._sampler.epoch(0), 0)))
    return images, run._labels[indices].to(run.device)


def losses_of(run: FoldTrainer, steps: int = 6) -> list[float]:
    """The losses of so many steps on one batch.

    Steps that loss scaling leaves out do not count: whether the first ones overflow depends on how the processor adds
    numbers up, and they change nothing.
    """
    batch, losses = first_batch(run), []
    for _ in range(steps + 64):
        scale = run.scaler.get_scale()
        loss = float(run.step(*batch)["loss"])
        if run.scaler.get_scale() >= scale:
            losses.append(loss)
        if len(losses) == steps:
            return losses
    raise AssertionError(f"{len(losses)} of {steps + 64} steps were taken")


def weights(run: FoldTrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


TRAIN_FILE = {
    "name": "small",
    "trial": {
        **TREE,
        "dataset": {**TREE["dataset"], "withheld_classes": 0.9},
        "optimizer": {"lr": 3e-3, "ema": 0.9},
        "schedule": {"name": "cosine", "epochs": 6},
    },
}
"""A search space file of which `python -m ctxtune.train` takes the trial."""


def train_command(folder: Path, *arguments: str, tree: dict[str, Any] = TRAIN_FILE) -> list[str]:
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(tree))
    return [sys.executable, "-m", "ctxtune.train", str(file), "--threads", "1", *arguments]


def train_here(folder: Path, *arguments: str) -> tuple[int, str]:
    """The command in this process: status and output."""
    output, argv = io.StringIO(), sys.argv
    sys.argv = train_command(folder, "--results", str(folder / "results"), *arguments)[2:]
    try:
        with contextlib.redirect_stdout(output):
            return main(), output.getvalue()
    finally:
        sys.argv = argv


SGD = {"optimizer__name": "sgd", "optimizer__lr": 0.05}
TOGETHER = {
    "contextual": {"loss": {"name": "contextual"}, "optimizer__gradient_clip": 1.0},
    "proxies": {
        "loss": {"name": "proxy_anchor"},
        "schedule__head_warmup_epochs": 1,
        "optimizer__lr_multipliers__loss": 1.0,
    },
    "memory": {"loss": {"name": "multi_similarity", "memory": {"size": 64, "start_step": 2}}},
    "random": {"loss": {"name": "triplet", "miner": {"name": "distance_weighted"}}, "optimizer__micro_batch": 8},
    "pieces": {"loss": {"name": "contextual"}, "optimizer__micro_batch": 6, "optimizer__ema": 0.9},
}


def freeze_statistics(run: FoldTrainer) -> None:
    """As recipes that freeze batch norm have it; small_conv has no published statistics that settings could freeze."""
    train = run.model.train
    run.model.train = lambda mode=True: train(False)
    run.model.train()


def trained_together(world: ProcessGroup) -> dict[str, tuple[dict[str, torch.Tensor], float, float, float]]:
    """Weights, how far they moved at most, loss and score of each case, after four steps with frozen batch norm."""
    splits, result = small_splits(), {}
    for name, changes in TOGETHER.items():
        trial = trial_of(**SGD, evaluation__every=2, schedule__epochs=2, **changes)
        run = FoldTrainer(trial, splits, seed=1, world=world)
        freeze_statistics(run)
        named = dict([*run.model.named_parameters(), *run.loss.named_parameters("loss")])
        start = {key: value.detach().clone() for key, value in named.items()}
        metrics, scores = run.advance(), run.evaluate()
        trained = {key: value.detach() for key, value in named.items()}
        moved = max(float((value - start[key]).abs().max()) for key, value in trained.items())
        result[name] = trained, moved, metrics["train/loss"], scores["validation/map_at_r"]
    return result
