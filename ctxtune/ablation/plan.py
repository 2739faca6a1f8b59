"""`--dry-run`: everything is checked, a step of each kind of run is timed; nothing is started or written."""

import json
import time
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from ctxtune.ablation.results import design_of
from ctxtune.ablation.runs import repeats_of, run_count
from ctxtune.config import Ablation, Cell, cells_of, changed_values, contrasts_of, reference_cell
from ctxtune.data import load_dataset
from ctxtune.errors import ConfigError, CtxtuneError
from ctxtune.results.wording import tuning_sentences
from ctxtune.text import counted, duration
from ctxtune.tracking import check_store, redact
from ctxtune.training import fold_splits
from ctxtune.tuning.backend.connect import usable_storage
from ctxtune.tuning.timing import device_name, plan_device, planned_resources, time_epoch


@dataclass(frozen=True)
class AblationPlan:
    """What an ablation would do.

    Attributes:
        tuning_runs, scored_runs: how many runs.
        epochs: of all runs together.
        device_hours: of one device (GPU or CPU core), from a timed step, evaluation aside.
        gpu_hours: device hours times the share of a GPU that a run gets; None without a GPU.
        hours: wall time with as many runs at a time as fit.
        at_a_time: how many those are.
        device: what was timed on.
    """

    tuning_runs: int
    scored_runs: int
    epochs: int
    device_hours: float
    gpu_hours: float | None
    hours: float
    at_a_time: int
    device: str


def make_plan(ablation: Ablation, address: str | None = None) -> AblationPlan:
    """Load the data and time a step of every kind of run: cells that differ in more than numbers of the loss.

    Raises:
        ConfigError, DataError: whatever would stop the ablation at its start.
    """
    resources = planned_resources(ablation, address, ablation.max_concurrent)
    cells = cells_of(ablation)
    device = plan_device(ablation)
    each_tuning, each_scored = (count // len(cells) for count in run_count(ablation, len(cells)))
    timed: dict[str, float] = {}
    seconds, epochs = 0.0, 0
    for cell in cells:
        kind = _kind(cell)
        if kind not in timed:
            timed[kind] = _seconds_per_epoch(ablation, cell, device)
        of_cell = cell.trial.schedule.epochs
        folds = len(ablation.tune_each.folds or ablation.validation.use) if ablation.tune_each else 1
        cell_epochs = of_cell * (each_tuning * folds + each_scored)
        epochs += cell_epochs
        seconds += cell_epochs * timed[kind]
    tuning, scored = run_count(ablation, len(cells))
    return AblationPlan(
        tuning_runs=tuning,
        scored_runs=scored,
        epochs=epochs,
        device_hours=seconds / 3600,
        gpu_hours=seconds / 3600 * resources.gpus if resources.gpus else None,
        hours=seconds / 3600 / resources.concurrent,
        at_a_time=resources.concurrent,
        device=device_name(device),
    )


def print_plan(console: Console, ablation: Ablation, address: str | None = None, storage: str | None = None) -> None:
    """Check everything and print what the ablation would do."""
    began = time.monotonic()
    place = usable_storage(storage)
    plan = make_plan(ablation, address)
    check_store(ablation.tracking.uri, ablation.name)
    cells = cells_of(ablation)
    console.print(_arms(ablation, cells))
    tune, folds = ablation.tune_each, len(ablation.validation.use)
    repeated = f" x {counted(repeats_of(ablation), 'repeat')}" if repeats_of(ablation) > 1 else ""
    if tune is not None:
        trials = counted(plan.tuning_runs, "tuning trial")
        console.print(f"{trials}: {counted(len(cells), 'cell')} x {tune.trials}{repeated}, {tune.sampler}")
    scored_on = (
        "all train classes, the test classes scored once a run, entered in the ledger"
        if ablation.confirmatory
        else counted(folds, "validation fold")
    )
    gpu_hours = "" if plan.gpu_hours is None else f" ({plan.gpu_hours:.3g} GPU-hours)"
    for line in (
        f"{counted(plan.scored_runs, 'run')}: {counted(len(cells), 'cell')} x {counted(ablation.seeds, 'seed')}{repeated} on "
        f"{scored_on}",
        f"{counted(len(contrasts_of(ablation, cells)), 'contrast')}, corrected together ({ablation.compare.correction}), by "
        f"{ablation.compare.scored_metric(confirmatory=ablation.confirmatory)}",
        *tuning_sentences(design_of(ablation)),
        f"{counted(plan.epochs, 'epoch')} in all; timed on {plan.device}, evaluation aside: {duration(plan.device_hours)} of "
        f"one device{gpu_hours}; {counted(plan.at_a_time, 'run')} at a time on {address or 'this machine'}: "
        f"{duration(plan.hours)}",
        f"tracking: {redact(ablation.tracking.uri)} can be used"
        + (f"; {place} can be written from here" if place else ""),
        f"checked in {time.monotonic() - began:.1f} s; nothing was started" + (f" on {address}" if address else ""),
    ):
        console.print(line, soft_wrap=True)


def _arms(ablation: Ablation, cells: list[Cell]) -> Table:
    reference = reference_cell(ablation, cells)
    table = Table(title=f"{ablation.name}: {counted(len(cells), 'cell')} ({ablation.design})", title_justify="left")
    for column in ("cell", "changes in the trial"):
        table.add_column(column, overflow="fold")
    if ablation.tune_each:
        table.add_column("searches", overflow="fold")
    for cell in cells:
        changed = changed_values(ablation.trial, cell.settings)
        changes = ", ".join(f"{path} = {json.dumps(value)}" for path, value in changed.items()) or "nothing"
        row = [cell.name + ("  (reference)" if cell is reference else ""), changes]
        if ablation.tune_each:
            row.append(", ".join(ablation.tune_each.space_of(cell.arm)))
        table.add_row(*row)
    return table


def _kind(cell: Cell) -> str:
    """What the time of a step depends on."""
    tree = cell.trial.tree()
    kept = {block: tree[block] for block in ("model", "sampler", "image", "precision")}
    loss = {key: tree["loss"].get(key) for key in ("name", "step", "conjunction")}
    return json.dumps({**kept, "loss": loss, "dataset": tree["dataset"]["name"]}, sort_keys=True)


def _seconds_per_epoch(ablation: Ablation, cell: Cell, device: str) -> float:
    benchmark = load_dataset(cell.trial.dataset)
    parts = fold_splits(cell.trial, ablation.validation, ablation.validation.use[0], seed=0, benchmark=benchmark)
    try:
        return time_epoch(cell.trial, parts, device, ablation.resources).seconds
    except CtxtuneError as error:
        raise ConfigError(f"arm {cell.name}: {error}") from None
