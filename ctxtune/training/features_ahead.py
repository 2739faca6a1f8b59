"""The features that the runs of a configuration will train or be scored on, computed before any of them starts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from ctxtune.config.trial import TrialSettings
from ctxtune.data import Benchmark, Split, load_dataset
from ctxtune.data.features import Reporter
from ctxtune.data.images import reading_threads
from ctxtune.float32_products import allow_tf32
from ctxtune.training.inputs import FeatureInputs, Reading
from ctxtune.training.precision import resolve_precision
from ctxtune.training.process_group import ProcessGroup

Side = Literal["train", "test"]


def features_missing(trial: TrialSettings, side: Side, device: torch.device, cache_dir: Path | None = None) -> bool:
    """Whether features have to be computed for runs on a side of the data. False where the head does not train on them.

    Raises:
        ConfigError, DataError: the weights or the data cannot be had.
    """
    if not trial.trains_on_features:
        return False
    inputs = _inputs(trial, device, cache_dir, None)
    return any(inputs.missing(split, training=side == "train") for split in _splits(load_dataset(trial.dataset), side))


def make_features(
    trial: TrialSettings,
    side: Side,
    device: torch.device,
    *,
    cache_dir: Path | None = None,
    reporter: Reporter | None = None,
) -> None:
    """Compute the features of a side that are not there yet. The test side is for a confirmation that is due.

    Raises:
        ConfigError, DataError: the weights or the data cannot be had, or the disk is too small.
    """
    allow_tf32(trial.tf32)
    inputs = _inputs(trial, device, cache_dir, reporter)
    for split in _splits(load_dataset(trial.dataset), side):
        inputs.make(split, training=side == "train")


def _inputs(
    trial: TrialSettings, device: torch.device, cache_dir: Path | None, reporter: Reporter | None
) -> FeatureInputs:
    workers = reading_threads(None, trial.images, device)
    precision = resolve_precision(trial.precision, device)
    return FeatureInputs(trial, Reading(device, 0, cache_dir, workers, precision, ProcessGroup(), reporter))


def _splits(benchmark: Benchmark, side: Side) -> Sequence[Split]:
    if side == "train":
        return [benchmark.train]
    return [split for split in (benchmark.test, benchmark.query, benchmark.gallery) if split is not None]
