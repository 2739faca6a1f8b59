"""A short training on real images that has to reach on the GPU what it reaches on the CPU."""

from __future__ import annotations

import time

import numpy as np
import torch

from ctxtune.config import TrialSettings, load_search_space, stage_seed
from ctxtune.data import Benchmark, ValidationSettings, load_dataset
from ctxtune.training import FoldTrainer, fold_splits
from gpu_checks.report import Report, Scale
from gpu_checks.suite import REPOSITORY

SCORE = "validation/map_at_r"
SLACK = 0.05
"""Single seeds differ by 0.03 (standard deviation of three on a CPU); the two devices share theirs."""


def omniglot(scale: Scale, report: Report) -> None:
    """`search_spaces/omniglot.yaml` with fewer epochs, the same seeds on both; glyphs where there is no Omniglot."""
    name, trial, benchmark, validation = _task(scale)
    seeds = scale.pick(2, 1)
    found: dict[str, list[float]] = {}
    devices = [scale.device, torch.device("cpu")] if scale.on_gpu else [scale.device]
    splits = fold_splits(trial, validation, 0, seed=0, benchmark=benchmark)
    for device in devices:
        started = time.perf_counter()
        for seed in range(seeds):
            run = FoldTrainer(
                trial, splits, seed=stage_seed("trial", seed), device=device, cache_dir=scale.folder / "cache"
            )
            floor = run.evaluate()[SCORE] if seed == 0 else None
            run.advance(until=trial.schedule.epochs)
            found.setdefault(device.type, []).append(run.evaluate()[SCORE])
            precision = run.precision
            run.close()
            if floor is not None:
                report.row(f"{name}, {trial.schedule.epochs} epochs", device="untrained", map_at_r=floor)
        report.row(
            f"{name}, {trial.schedule.epochs} epochs",
            device=device.type,
            precision=precision,
            map_at_r=float(np.mean(found[device.type])),
            each=" ".join(f"{value:.4f}" for value in found[device.type]),
            seconds=time.perf_counter() - started,
        )
    if scale.on_gpu:
        difference = float(np.mean(found["cuda"]) - np.mean(found["cpu"]))
        report.check(f"{name}: MAP@R on the GPU less that on the CPU", difference, least=-SLACK)


def _task(scale: Scale) -> tuple[str, TrialSettings, Benchmark, ValidationSettings]:
    file = "omniglot" if scale.data is not None else scale.pick("glyphs", "quickstart")
    config = load_search_space(
        REPOSITORY / "search_spaces" / f"{file}.yaml",
        [] if scale.data is None else [f"trial.dataset.root={scale.data}"],
    )
    tree = config.trial.tree()
    tree["schedule"]["epochs"] = scale.pick(12, 1)
    if scale.tiny:
        tree["sampler"] |= {"batch_size": 32, "batches_per_epoch": 3}
        tree["model"]["width"] = 8
    trial = TrialSettings.model_validate(tree)
    return file, trial, load_dataset(trial.dataset), config.validation
