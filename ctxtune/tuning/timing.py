"""What a machine gives to runs, and how fast it trains: measured, asked of a cluster, or assumed."""

from dataclasses import dataclass

import torch

from ctxtune.config import TrialFile, TrialSettings
from ctxtune.config.sweep import ResourcesSettings
from ctxtune.data.threads import processors
from ctxtune.errors import ConfigError
from ctxtune.text import counted
from ctxtune.training import FoldTrainer
from ctxtune.training.splits import RunSplits
from ctxtune.tuning.backend.cluster import (
    NodeKind,
    RunResources,
    cluster_address,
    resources_on,
    run_resources,
    running_ray,
)

CORES_OF_A_GPU = 8.0
"""CPU cores that are assumed beside each assumed GPU."""


@dataclass(frozen=True)
class Assumed:
    """A machine that is not at hand: what one run trains there in a second, and how many GPUs it has."""

    images_per_second: float
    gpus: int = 1

    def __str__(self) -> str:
        return f"{self.images_per_second:g} images/s a run and {counted(self.gpus, 'GPU')}"


def read_assumed(text: str) -> Assumed:
    """An assumption as written on the command line: ``images_per_second=400,gpus=1``.

    Raises:
        ConfigError: an entry is unknown, missing or no such number.
    """
    entries = dict(part.partition("=")[::2] for part in text.split(",") if part.strip())
    wrong = entries.keys() - {"images_per_second", "gpus"}
    if wrong or "images_per_second" not in entries:
        raise ConfigError(f"--assume {text}: expected images_per_second=NUMBER and, if you like, ,gpus=NUMBER")
    try:
        rate, gpus = float(entries["images_per_second"]), int(entries.get("gpus", "1"))
    except ValueError:
        raise ConfigError(f"--assume {text}: images_per_second takes a number, gpus a whole number") from None
    if not 0 < rate < float("inf") or gpus < 0:
        raise ConfigError(f"--assume {text}: images_per_second must be above 0, gpus 0 or more")
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
