"""`--dry-run`: everything is checked, a step of each kind of run is timed; nothing is started or written."""

import json
import time
from collections.abc import Iterator

from rich.table import Table

from ctxtune.ablation.budget import FEW_TRIALS, AblationForecast, CellTimes, enough, forecast, too_little
from ctxtune.ablation.earlier import earlier_tuning
from ctxtune.ablation.results import design_of
from ctxtune.ablation.runs import repeats_of, run_count, selection_blocks, selection_count
from ctxtune.config import Ablation, Cell, cells_of, changed_values, contrasts_of, reference_cell
from ctxtune.config.ablation import rotation
from ctxtune.config.budget import LimitSettings
from ctxtune.consoles import Console
from ctxtune.errors import ConfigError, CtxtuneError, DataError
from ctxtune.results.costs import Rate
from ctxtune.results.wording import earlier_sentences, tuning_sentences
from ctxtune.text import counted, duration
from ctxtune.tracking import check_store, redact
from ctxtune.tuning.backend.cluster import RunResources
from ctxtune.tuning.backend.connect import usable_storage
from ctxtune.tuning.plan import budget_told, cost_told
from ctxtune.tuning.spending import LIMITS
from ctxtune.tuning.timing import Assumed, FullRun, full_run, planned_resources


def cell_times(ablation: Ablation, assumed: Assumed | None = None) -> tuple[CellTimes, str]:
    """Load the data and time a step of every kind of run: cells that differ in more than numbers of the loss.

    Returns:
        What runs take, and where that comes from, in words.

    Raises:
        ConfigError, DataError: whatever would stop the ablation at its start.
    """
    timed: dict[str, FullRun] = {}
    seconds: dict[str, float] = {}
    for cell in cells_of(ablation):
        kind = _kind(cell)
        if kind not in timed:
            try:
                timed[kind] = full_run(ablation, cell.trial, assumed)
            except DataError:
                raise
            except CtxtuneError as error:
                raise ConfigError(f"arm {cell.name}: {error}") from None
        seconds[cell.name] = timed[kind].seconds
    return CellTimes(seconds), next(iter(timed.values())).told


def stage_lines(ablation: Ablation, times: CellTimes, resources: RunResources) -> Iterator[str]:
    """The stages with runs, hours, share and cost, and what to change where the tuning comes off badly."""
    expected = forecast(ablation, times, resources)
    for stage, each in expected.by_stage.items():
        share = each.work_hours / expected.work_hours if expected.work_hours else 0.0
        yield f"  {stage:<13}{_runs_told(ablation, expected, stage):<52}{duration(each.hours):>9}{share:>6.0%}"
    cost = Rate(resources.gpus, ablation.resources.price_per_gpu_hour).of(3600 * expected.work_hours)
    yield f"  {'in all':<65}{duration(expected.hours):>9}{cost_told(cost)}{budget_told(_budget(ablation))}"
    yield from _advice(ablation, times, resources, expected)


def _runs_told(ablation: Ablation, expected: AblationForecast, stage: str) -> str:
    runs = counted(expected.by_stage[stage].runs, "run")
    if stage == "seeds":
        return f"{runs}, {counted(ablation.seeds, 'seed')} of every cell"
    if stage == "selection":
        return f"{runs}, {selection_words(ablation, expected.trials)}"
    fewer = f" of {expected.asked}" if expected.trials < expected.asked else ""
    return f"{runs}, {expected.trials}{fewer} trials of every cell"


def selection_words(ablation: Ablation, trials: int) -> str:
    """What a selection after so many trials runs again."""
    select = ablation.tune_each.select if ablation.tune_each else None
    top = min(select.top, trials) if select else 0
    if select is None or top < 2:
        return "nothing to select from"
    folds = len(selection_blocks(ablation)) // select.seeds
    on = "" if folds == 1 else f" on {folds} folds"
    return f"the best {top} trials of every cell, {counted(select.seeds, 'seed')}{on}"


def _advice(ablation: Ablation, times: CellTimes, resources: RunResources, expected: AblationForecast) -> Iterator[str]:
    if ablation.tune_each is None or expected.trials >= min(expected.asked, max(FEW_TRIALS, expected.asked // 2)):
        return
    yield (f"warning: every cell gets {expected.trials} of its {expected.asked} trials. What would give it more:")
    for limit in LIMITS:
        if getattr(ablation.tune_each.budget, limit) is not None:
            hours = enough(ablation, times, resources, limit)
            yield f"  tune_each.budget.{limit}: {hours:g}    # all {expected.asked} trials"
    if len(ablation.arms()) > 2 or ablation.factors:
        yield "  fewer variants or levels: --set variants.NAME=null takes one out"


def _budget(ablation: Ablation) -> LimitSettings:
    return ablation.tune_each.budget if ablation.tune_each else LimitSettings()


def print_plan(
    console: Console,
    ablation: Ablation,
    address: str | None = None,
    storage: str | None = None,
    assumed: Assumed | None = None,
) -> None:
    """Check everything and print what the ablation would do.

    Raises:
        ConfigError, DataError, TrackingError: whatever would stop it at its start, or a budget that cannot hold it.
    """
    began = time.monotonic()
    earlier = earlier_tuning(ablation)
    place = usable_storage(storage)
    resources = planned_resources(ablation, address, ablation.max_concurrent, assumed)
    times, told = cell_times(ablation, assumed)
    check_store(ablation.tracking.uri, ablation.name)
    refused = too_little(ablation, times, resources)
    if refused:
        raise ConfigError(refused)
    cells = cells_of(ablation)
    console.print(_arms(ablation, cells))
    where = "the assumed machine" if assumed else address or "this machine"
    for line in (
        *_tuning_lines(ablation, len(cells)),
        *_run_lines(ablation, cells),
        *tuning_sentences(design_of(ablation)),
        *earlier_sentences(earlier),
        f"a run learns from {told}",
        f"a full-length run takes {duration(times.mean / 3600)}; {counted(resources.concurrent, 'run')} at a time on {where}",
        *stage_lines(ablation, times, resources),
        f"tracking: {redact(ablation.tracking.uri)} can be used"
        + (f"; {place} can be written from here" if place else ""),
        f"checked in {time.monotonic() - began:.1f} s; nothing was started" + (f" on {address}" if address else ""),
    ):
        console.print(line, style="yellow" if line.startswith("warning") else None, soft_wrap=True)


def _tuning_lines(ablation: Ablation, cells: int) -> Iterator[str]:
    """What the tuning of the cells runs; nothing where the file asks for none."""
    tune = ablation.tune_each
    if tune is None:
        return
    trials = counted(run_count(ablation, cells)[0], "tuning trial")
    yield f"{trials}: {counted(cells, 'cell')} x {tune.trials}{_repeated(ablation)}, {tune.sampler}"
    if tune.select is not None:
        selecting = counted(selection_count(ablation, cells), "tuning run")
        yield f"{selecting} more: {selection_words(ablation, tune.trials)}; the best mean is chosen"
    if turns := rotation(ablation):
        yield f"the repeats tune on folds {', '.join(map(str, turns))} in turn"
    if tune.splits > 1:
        yield f"the repeats have {tune.splits} splits of the train classes in turn (validation.seed and those after it)"


def _run_lines(ablation: Ablation, cells: list[Cell]) -> Iterator[str]:
    """The runs of the cells, what they are scored on, and what is compared."""
    scored_on = (
        "all train classes, the test classes scored once a run, entered in the ledger"
        if ablation.confirmatory
        else counted(len(ablation.validation.use), "validation fold")
    )
    runs = counted(run_count(ablation, len(cells))[1], "run")
    yield (
        f"{runs}: {counted(len(cells), 'cell')} x {counted(ablation.seeds, 'seed')}{_repeated(ablation)} on {scored_on}"
    )
    yield (
        f"{counted(len(contrasts_of(ablation, cells)), 'contrast')}, corrected together ({ablation.compare.correction}), by "
        f"{ablation.compare.scored_metric(confirmatory=ablation.confirmatory)}"
    )


def _repeated(ablation: Ablation) -> str:
    return f" x {counted(repeats_of(ablation), 'repeat')}" if repeats_of(ablation) > 1 else ""


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
