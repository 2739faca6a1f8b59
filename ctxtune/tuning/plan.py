"""`--dry-run`: everything is checked and one step is trained; nothing is started or written."""

import os
import time
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table

from ctxtune.config import SweepConfig, TrialFile, TrialSettings
from ctxtune.config.search import ResourcesSettings
from ctxtune.data import load_dataset
from ctxtune.results.formatting import setting
from ctxtune.text import counted, duration
from ctxtune.tracking import check_store, redact
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
from ctxtune.tuning.backend.connect import usable_storage
from ctxtune.tuning.search.warm_start import check_warm_starts
from ctxtune.tuning.stages import fold_count, start_configuration


@dataclass(frozen=True)
class Plan:
    """What a sweep would do.

    Attributes:
        trials: at most; ``selection_runs`` and ``confirmation_runs`` follow.
        epochs_at_most: of all runs, if nothing were stopped early.
        seconds_per_epoch: measured on this machine: one batch, times the batches of an epoch, without evaluation.
    """

    trials: int
    selection_runs: int
    confirmation_runs: int
    epochs_at_most: int
    batches_per_epoch: int
    seconds_per_epoch: float
    fit_images: int
    fit_classes: int
    device: str

    @property
    def hours_at_most(self) -> float:
        """Hours of one device (GPU or CPU core), if nothing were stopped early."""
        return self.epochs_at_most * self.seconds_per_epoch / 3600


def make_plan(space: SweepConfig) -> Plan:
    """Load the data, build the model of the start configuration, and time a training step.

    Raises:
        ConfigError, DataError: whatever would stop the sweep at its start.
    """
    _, trial = start_configuration(space)
    benchmark = load_dataset(trial.dataset)
    parts = fold_splits(trial, space.validation, space.validation.use[0], seed=0, benchmark=benchmark)
    device = plan_device(space)
    timing = time_epoch(trial, parts, device, space.resources)
    folds = fold_count(space)
    selection = 0
    if space.select:
        selection = (
            (space.select.top + 1)
            * space.select.seeds
            * (folds if space.select.folds == "all" else len(space.select.folds))
        )
    confirmation = (1 + len(space.confirm.also)) * space.confirm.seeds if space.confirm else 0
    runs = space.search.trials * len(space.validation.use) + selection + confirmation
    return Plan(
        trials=space.search.trials,
        selection_runs=selection,
        confirmation_runs=confirmation,
        epochs_at_most=runs * trial.schedule.epochs,
        batches_per_epoch=timing.batches,
        seconds_per_epoch=timing.seconds,
        fit_images=len(parts.fit),
        fit_classes=len(parts.fit.classes()),
        device=device_name(device),
    )


@dataclass(frozen=True)
class EpochTime:
    """An epoch without evaluation: its batches, and seconds from one timed step."""

    batches: int
    seconds: float


def time_epoch(trial: TrialSettings, parts: RunSplits, device: str, resources: ResourcesSettings) -> EpochTime:
    """Build model and data of a configuration and time a training step, on a CPU with as many threads as a run gets.

    Raises:
        ConfigError, DataError, RunFailed: whatever would stop the run at its start.
    """
    threads, cores = torch.get_num_threads(), None
    if device == "cpu":
        cores = 1 if resources.cpus == "auto" else max(1, int(resources.cpus))
        torch.set_num_threads(cores)
    try:
        run = FoldTrainer(trial, parts, seed=0, device=device, cores=cores)
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


def print_plan(console: Console, space: SweepConfig, address: str | None = None, storage: str | None = None) -> None:
    """Check everything and print what the sweep would do."""
    began = time.monotonic()
    place = usable_storage(storage)
    resources = planned_resources(space, address, space.search.max_concurrent)
    check_warm_starts(space)
    plan = make_plan(space)
    check_store(space.tracking.uri, space.name)
    table = Table(title=f"{space.name}: the space", title_justify="left")
    for column in ("dimension", "range", "start"):
        table.add_column(column)
    start, _ = start_configuration(space)
    for path, dimension in space.search.space.items():
        kind, arguments = next(iter(dimension.model_dump().items()))
        condition = space.search.conditions.get(path)
        table.add_row(
            path, f"{kind} {arguments}" + (f" if {condition}" if condition else ""), setting(start.get(path, "-"))
        )
    console.print(table)
    scheduler = space.search.scheduler
    for line in (
        f"{plan.trials} trials of at most {space.search_epochs} epochs, {space.search.sampler.name} and "
        f"{scheduler.name} (grace {scheduler.grace_epochs} epochs, one in {scheduler.reduction_factor} goes on)",
        f"{plan.selection_runs} selection runs and {plan.confirmation_runs} confirmation runs follow",
        f"a trial learns from {plan.fit_images} images of {plan.fit_classes} classes, {plan.batches_per_epoch} batches "
        "an epoch",
        f"at most {plan.epochs_at_most} epochs; {plan.seconds_per_epoch:.2f} s an epoch on this machine ({plan.device}), "
        f"evaluation aside: at most {duration(plan.hours_at_most)} of one {'GPU' if resources.gpus else 'core'}",
        f"resources: a run gets {counted(resources.cpus, 'CPU core')} and {counted(resources.gpus, 'GPU')}; "
        f"{resources.concurrent} at a time on {address or 'this machine'}: at most "
        f"{duration(plan.hours_at_most / resources.concurrent)}",
        f"tracking: {redact(space.tracking.uri)} can be used"
        + (f"; {place} can be written from here" if place else ""),
        f"checked in {time.monotonic() - began:.1f} s; nothing was started" + (f" on {address}" if address else ""),
    ):
        console.print(line)


def planned_resources(file: TrialFile, address: str | None, max_concurrent: int | str) -> RunResources:
    """What one run would get here, or on a cluster, which is only asked.

    Raises:
        ConfigError: nothing there can hold a run; CtxtuneError: there is no cluster at the address.
    """
    address = cluster_address(address)
    if address is None:
        gpus = float(torch.cuda.device_count())
        here = NodeKind("this machine", float(len(os.sched_getaffinity(0))), gpus, 1)
        return resources_on([here], True, file.resources, max_concurrent)
    with running_ray(address):
        return run_resources(file.resources, max_concurrent)
