"""What a machine gives to runs, and how fast it trains: measured, asked of a cluster, or assumed."""

from dataclasses import dataclass

import torch

from ctxtune.config import TrialFile, TrialSettings
from ctxtune.config.sweep import ResourcesSettings
from ctxtune.data import load_dataset
from ctxtune.data.official_counts import OFFICIAL_COUNTS
from ctxtune.data.threads import processors
from ctxtune.errors import ConfigError, DataError
from ctxtune.text import counted
from ctxtune.training import FoldTrainer, fold_splits
from ctxtune.training.splits import RunSplits
from ctxtune.tuning.backend.cluster import (
    NodeKind,
    RunResources,
    cluster_address,
    resources_on,
    run_resources,
    running_ray,
)
from ctxtune.tuning.estimates import fit_share

EVALUATION_COST = 1 / 3
"""Of an image that is only embedded, against one that is learned from: forward without backward."""
KEPT_FEATURES_PER_SECOND = 20_000.0
"""That a head is assumed to learn from, whatever its network would take: about half of what docs/gpu.md saw of one."""
LEAST_RATE = 0.1
"""Images a second that may be assumed: below, a trial is simulated for longer than anybody would wait."""
CORES_OF_A_GPU = 8.0
"""CPU cores that are assumed beside each assumed GPU."""


@dataclass(frozen=True)
class Assumed:
    """A machine that is not at hand: what one run of a network trains there in a second, and how many GPUs it has."""

    images_per_second: float
    gpus: int = 1

    def rate(self, trial: TrialSettings) -> float:
        """Images a second of a configuration: a head on kept features asks no network for them."""
        if trial.model.train == "head" and trial.image.views != "live":
            return max(self.images_per_second, KEPT_FEATURES_PER_SECOND)
        return self.images_per_second

    def __str__(self) -> str:
        return f"{self.images_per_second:g} images/s a run and {counted(self.gpus, 'GPU')}"


def read_assumed(text: str) -> Assumed:
    """An assumption as written on the command line: ``images_per_second=400,gpus=1``.

    Raises:
        ConfigError: an entry is unknown, missing or no such number.
    """
    parts = [part for part in text.split(",") if part.strip()]
    entries = dict(part.partition("=")[::2] for part in parts)
    wrong = entries.keys() - {"images_per_second", "gpus"}
    if wrong or "images_per_second" not in entries or len(entries) < len(parts):
        raise ConfigError(f"--assume {text}: expected images_per_second=NUMBER and, if you like, ,gpus=NUMBER")
    try:
        rate, gpus = float(entries["images_per_second"]), int(entries.get("gpus", "1"))
    except ValueError:
        raise ConfigError(f"--assume {text}: images_per_second takes a number, gpus a whole number") from None
    if not LEAST_RATE <= rate < float("inf") or gpus < 0:
        raise ConfigError(f"--assume {text}: images_per_second must be at least {LEAST_RATE:g}, gpus 0 or more")
    return Assumed(rate, gpus)


@dataclass(frozen=True)
class EpochTime:
    """An epoch without evaluation: its batches, and seconds from one timed step."""

    batches: int
    seconds: float


def time_epoch(trial: TrialSettings, splits: RunSplits, device: str, resources: ResourcesSettings) -> EpochTime:
    """Build model and data of a configuration and time a training step, on a CPU with as many threads as a run gets.

    Raises:
        ConfigError, DataError, RunFailed: whatever would stop the run at its start.
    """
    threads, cores = torch.get_num_threads(), None
    if device == "cpu":
        cores = 1 if resources.cpus == "auto" else max(1, int(resources.cpus))
        torch.set_num_threads(cores)
    try:
        run = FoldTrainer(trial, splits, seed=0, device=device, cores=cores)
        try:
            batches = run.batches_per_epoch
            return EpochTime(batches, run.time_step() * batches)
        finally:
            run.close()
    finally:
        torch.set_num_threads(threads)


def plan_device(file: TrialFile) -> str:
    """Where runs would be timed: a CUDA device where there is one and the file wants it."""
    return "cuda" if torch.cuda.is_available() and file.resources.gpus != 0 else "cpu"


def device_name(device: str) -> str:
    """What a device is called in a plan."""
    return torch.cuda.get_device_name() if device == "cuda" else "CPU"


def planned_resources(
    file: TrialFile, address: str | None, max_concurrent: int | str, assumed: Assumed | None = None
) -> RunResources:
    """What one run would get here, on a cluster, which is only asked, or on an assumed machine.

    Raises:
        ConfigError: nothing there can hold a run; CtxtuneError: there is no cluster at the address.
    """
    if assumed is not None:
        there = NodeKind("the assumed machine", CORES_OF_A_GPU * max(1, assumed.gpus), float(assumed.gpus), 1)
        return resources_on([there], True, file.resources, max_concurrent)
    address = cluster_address(address)
    if address is None:
        gpus = float(torch.cuda.device_count())
        here = NodeKind("this machine", float(processors()), gpus, 1)
        return resources_on([here], True, file.resources, max_concurrent)
    with running_ray(address):
        return run_resources(file.resources, max_concurrent)


@dataclass(frozen=True)
class FullRun:
    """A full-length run on one fold.

    Attributes:
        images: that it trains on, and embeds at evaluations, counted as training images.
        seconds: of the whole run.
        told: where both come from, in words.
    """

    images: float
    seconds: float
    told: str


def full_run(file: TrialFile, trial: TrialSettings, assumed: Assumed | None) -> FullRun:
    """Load the data and time a training step of a configuration of a file, or take the time that is assumed.

    Where the machine is assumed and the data are not here, either, the official size of the data set is taken.

    Raises:
        ConfigError, DataError, RunFailed: whatever would stop the run at its start.
    """
    try:
        benchmark = load_dataset(trial.dataset)
    except DataError:
        if assumed is None or trial.dataset.name not in OFFICIAL_COUNTS:
            raise
        total = OFFICIAL_COUNTS[trial.dataset.name]["train"][1]
        fit = round(total * fit_share(file))
        batches = trial.sampler.batches_per_epoch or max(1, fit // trial.sampler.batch_size)
        images = _images(trial, batches, total - fit)
        told = f"{fit:,} images, by the official size of a data set that is not here, {batches} batches an epoch"
        return FullRun(images, images / assumed.rate(trial), f"{told}; assumed: {assumed}")
    splits = fold_splits(trial, file.validation, file.validation.use[0], seed=0, benchmark=benchmark)
    device = plan_device(file)
    learned = f"{len(splits.fit):,} images of {len(splits.fit.classes()):,} classes"
    if trial.dataset.closed_set:
        learned += ", closed-set: scored are other images of the same classes"
    if assumed is not None:
        batches = trial.sampler.batches_per_epoch or max(1, len(splits.fit) // trial.sampler.batch_size)
        images = _images(trial, batches, len(splits.query))
        return FullRun(
            images, images / assumed.rate(trial), f"{learned}, {batches} batches an epoch; assumed: {assumed}"
        )
    timing = time_epoch(trial, splits, device, file.resources)
    images = _images(trial, timing.batches, len(splits.query))
    per_image = timing.seconds / (timing.batches * trial.sampler.batch_size)
    told = f"{learned}, {timing.batches} batches an epoch; {1 / per_image:,.0f} images/s, from a step on {device_name(device)}"
    return FullRun(images, images * per_image, told)


def _images(trial: TrialSettings, batches: int, scored: int) -> float:
    epochs, evaluations = trial.schedule.epochs, -(-trial.schedule.epochs // trial.evaluation.every)
    return epochs * batches * trial.sampler.batch_size + EVALUATION_COST * evaluations * scored
