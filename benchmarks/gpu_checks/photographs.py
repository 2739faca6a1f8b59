"""Pictures of a photograph's size, and runs that train on them; the pictures are written once for all sections."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import training as step_benchmark

from ctxtune.config import TrialSettings
from ctxtune.training import FoldTrainer
from gpu_checks.report import Scale


def photograph_folder(scale: Scale) -> Path:
    """The folder with `data`, made where it is missing, and `cache`."""
    folder, done = scale.folder, scale.folder / "written"
    if not done.exists():
        step_benchmark.write_jpegs(folder / "data", scale.pick(1024, 64), scale.pick(128, 16))
        done.touch()
    return folder


def arguments_for(scale: Scale, backbone: str = "resnet50", batch: int = 128, steps: int = 16) -> argparse.Namespace:
    """What `benchmarks/training.py` takes, with a small network and few pixels where everything is tiny."""
    return argparse.Namespace(
        backbone=scale.pick(backbone, "small_conv"),
        batch=scale.pick(batch, 16),
        steps=scale.pick(steps, 2),
        crop=scale.pick(224, 32),
    )


def photograph_runs(scale: Scale, arguments: argparse.Namespace, count: int, **changes: Any) -> list[FoldTrainer]:
    """Equal runs on the pictures."""
    return step_benchmark.build_runs(photograph_folder(scale), arguments, scale.device, count, **changes)


def photograph_run(scale: Scale, *, backbone: str = "resnet50", batch: int = 128, **changes: Any) -> FoldTrainer:
    """One run, ready for its first step."""
    (run,) = photograph_runs(scale, arguments_for(scale, backbone, batch), 1, **changes)
    run.step.prepare()
    return run


def head_trial(scale: Scale) -> TrialSettings:
    """A linear head on the frozen network's features of the pictures, seen as in tests."""
    arguments = arguments_for(scale, steps=200)
    tree = step_benchmark.build_trial(photograph_folder(scale) / "data", arguments).tree()
    tree["model"] |= {"train": "head"}
    tree["image"] = {name: tree["image"][name] for name in ("test_resize", "test_crop")}
    return TrialSettings.model_validate(tree)


def first_batch(run: FoldTrainer) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels of the run's first batch, on the device."""
    images, indices = next(iter(run._images.batches(run._sampler.epoch(0), 0)))
    return images.to(memory_format=torch.channels_last), run._labels[indices].to(run.device)
