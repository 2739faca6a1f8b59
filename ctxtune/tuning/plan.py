"""What a sweep is going to do, by stage, before it begins: `--dry-run`, and the first lines of a run."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from ctxtune.config import SweepConfig
from ctxtune.config.fidelity import SearchScheduleSettings, shortened
from ctxtune.data import load_dataset
from ctxtune.data.official_counts import OFFICIAL_COUNTS
from ctxtune.errors import ConfigError, CtxtuneError, DataError
from ctxtune.results.costs import Rate
from ctxtune.results.formatting import setting
from ctxtune.text import counted, duration
from ctxtune.tracking import check_store, redact
from ctxtune.training import fold_splits
from ctxtune.tuning.backend.cluster import RunResources
from ctxtune.tuning.backend.connect import usable_storage
from ctxtune.tuning.estimates import Estimate, fit_share, too_little, work_of
from ctxtune.tuning.record.decisions import SearchEnd
from ctxtune.tuning.search.warm_start import check_warm_starts
from ctxtune.tuning.simulation import Simulated, plain_score, simulated_sweep
from ctxtune.tuning.stages import LIMITS, start_configuration
from ctxtune.tuning.timing import Assumed, device_name, plan_device, planned_resources, time_epoch

FEW_TRIALS = 20
"""A search of fewer trials than these is warned of."""
EVALUATION_COST = 1 / 3
"""Of an image that is only embedded, against one that is learned from: forward without backward."""
DRAWS = 3
"""How many sweeps are simulated: how many trials pass ASHA's rungs depends on which come by first."""
STAGES = ("search", "selection", "confirmation")


@dataclass(frozen=True)
class StageForecast:
    """What a stage is expected to take: its runs, hours of wall time, and hours of work of all runs together."""

    runs: int
    hours: float
    work_hours: float


@dataclass(frozen=True)
class Forecast:
    """What a sweep is expected to do with its budget; from a simulated one, with ASHA's rungs as they are.

    Attributes:
        by_stage: every stage, also one that has no runs.
        finished: trials that run to their end; ``asked``: trials that the file asks for.
        seeds: of the confirmation; ``asked_seeds``: of the file.
        cut: whether the budget ends the search before all its trials are done.
    """

    by_stage: dict[str, StageForecast]
    finished: int
    asked: int
    seeds: int
    asked_seeds: int
    cut: bool

    @property
    def hours(self) -> float:
        """Wall time in all."""
        return sum(stage.hours for stage in self.by_stage.values())

    @property
    def work_hours(self) -> float:
        """Hours of work of all runs."""
        return sum(stage.work_hours for stage in self.by_stage.values())

    @property
    def trials(self) -> int:
        """Trials of the search."""
        return self.by_stage["search"].runs

    @property
    def search_share(self) -> float:
        """Of the work, what the search gets."""
        return self.by_stage["search"].work_hours / self.work_hours if self.work_hours else 0.0


def forecast(config: SweepConfig, resources: RunResources, full_run_seconds: float) -> Forecast | None:
    """Simulate the sweep with configurations suggested at random: the median of a few; None: no trial would come to its end.

    Args:
        full_run_seconds: of a full-length run on one fold.
    """
    sampler = config.search.sampler.model_copy(update={"name": "random"})
    search = config.search.model_copy(
        update={
            "budget": config.search.budget.model_copy(update={"no_improvement_for": None}),
            **({} if config.search.sampler.name == "grid" else {"sampler": sampler}),
        }
    )
    drawn = [
        _drawn(config.model_copy(update={"search": search}), resources, full_run_seconds, seed) for seed in range(DRAWS)
    ]
    found = sorted((each for each in drawn if each is not None), key=lambda each: each.by_stage["search"].work_hours)
    return found[len(found) // 2] if len(found) > DRAWS // 2 else None


def _drawn(config: SweepConfig, resources: RunResources, full_run_seconds: float, seed: int) -> Forecast | None:
    try:
        with simulated_sweep(config, resources, full_run_seconds, score=plain_score(seed)) as simulated:
            return _summed_up(config, simulated)
    except CtxtuneError:
        return None


def _summed_up(config: SweepConfig, simulated: Simulated) -> Forecast:
    journal, executor = simulated.journal, simulated.executor
    ended = journal.decisions.search_ended
    by_stage = {
        stage: StageForecast(
            len(journal.stage(stage)), executor.spans.get(stage, 0.0), executor.busy.get(stage, 0.0) / 3600
        )
        for stage in STAGES
    }
    return Forecast(
        by_stage,
        finished=len(journal.completed("search")),
        asked=config.search.trials,
        seeds=journal.decisions.confirmation.seeds if journal.decisions.confirmation else 0,
        asked_seeds=config.confirm.seeds if config.confirm else 0,
        cut=isinstance(ended, SearchEnd) and ended.reason in LIMITS,
    )


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


def full_run(config: SweepConfig, assumed: Assumed | None) -> FullRun:
    """Load the data and time a training step of the start configuration, or take the time that is assumed.

    Where the machine is assumed and the data are not here, either, the official size of the data set is taken.

    Raises:
        ConfigError, DataError, RunFailed: whatever would stop the sweep at its start.
    """
    _, trial = start_configuration(config)
    try:
        benchmark = load_dataset(trial.dataset)
    except DataError:
        if assumed is None or trial.dataset.name not in OFFICIAL_COUNTS:
            raise
        total = OFFICIAL_COUNTS[trial.dataset.name]["train"][1]
        fit = round(total * fit_share(config))
        batches = trial.sampler.batches_per_epoch or max(1, fit // trial.sampler.batch_size)
        images = _images(config, batches, total - fit)
        told = f"{fit:,} images, by the official size of a data set that is not here, {batches} batches an epoch"
        return FullRun(images, images / assumed.images_per_second, f"{told}; assumed: {assumed}")
    splits = fold_splits(trial, config.validation, config.validation.use[0], seed=0, benchmark=benchmark)
    device = plan_device(config)
    learned = f"{len(splits.fit):,} images of {len(splits.fit.classes()):,} classes"
    if trial.dataset.closed_set:
        learned += ", closed-set: scored are other images of the same classes"
    if assumed is not None:
        batches = trial.sampler.batches_per_epoch or max(1, len(splits.fit) // trial.sampler.batch_size)
        images = _images(config, batches, len(splits.query))
        return FullRun(
            images, images / assumed.images_per_second, f"{learned}, {batches} batches an epoch; assumed: {assumed}"
        )
    timing = time_epoch(trial, splits, device, config.resources)
    images = _images(config, timing.batches, len(splits.query))
    per_image = timing.seconds / (timing.batches * trial.sampler.batch_size)
    told = f"{learned}, {timing.batches} batches an epoch; {1 / per_image:,.0f} images/s, from a step on {device_name(device)}"
    return FullRun(images, images * per_image, told)


def _images(config: SweepConfig, batches: int, scored: int) -> float:
    _, trial = start_configuration(config)
    epochs, evaluations = trial.schedule.epochs, -(-trial.schedule.epochs // trial.evaluation.every)
    return epochs * batches * trial.sampler.batch_size + EVALUATION_COST * evaluations * scored


def check_holds(config: SweepConfig, resources: RunResources, run: FullRun) -> None:
    """Refuse a budget that cannot hold the start, a handful of trials and the smallest confirmation.

    Raises:
        ConfigError: with the number that would do.
    """
    for name in LIMITS:
        told = too_little(config, resources, Estimate(run.seconds), name)
        if told:
            raise ConfigError(told)


def plan_lines(config: SweepConfig, resources: RunResources, full_run_seconds: float) -> Iterator[str]:
    """The stages with runs, hours, share and cost, and what to change where the search comes off badly."""
    expected = forecast(config, resources, full_run_seconds)
    if expected is None:
        yield "no trial would come to its last epoch within this budget"
        return
    rate = Rate(resources.gpus, config.resources.price_per_gpu_hour)
    for stage, each in expected.by_stage.items():
        share = each.work_hours / expected.work_hours if expected.work_hours else 0.0
        yield f"  {stage:<13}{_runs_told(expected, stage):<52}{duration(each.hours):>9}{share:>6.0%}"
    cost = rate.of(3600 * expected.work_hours)
    told = ", ".join(f"{value:,.3g} {'GPU-hours' if 'gpu' in name else 'of money'}" for name, value in cost.items())
    limits = [f"{getattr(config.search.budget, name):g} {name.replace('gpu_hours', 'GPU-hours')}" for name in LIMITS
              if getattr(config.search.budget, name) is not None]  # fmt: skip
    yield (
        f"  {'in all':<65}{duration(expected.hours):>9}"
        + (f", {told}" if told else "")
        + (f", of a budget of {' and '.join(limits)}" if limits else "")
    )
    yield from _advice(config, resources, full_run_seconds, expected)


def _runs_told(expected: Forecast, stage: str) -> str:
    runs = expected.by_stage[stage].runs
    if stage == "search":
        whole = f" of {expected.asked}" if runs < expected.asked else ""
        return f"about {runs}{whole} trials, {expected.finished} of them to their end"
    if stage == "confirmation" and runs:
        fewer = f" of {expected.asked_seeds}" if expected.seeds < expected.asked_seeds else ""
        return f"{counted(runs, 'run')}, {expected.seeds}{fewer} seeds"
    return counted(runs, "run")


def _advice(config: SweepConfig, resources: RunResources, full_run_seconds: float, expected: Forecast) -> Iterator[str]:
    budget = config.search.budget
    thin = expected.cut and (expected.search_share < 0.5 or expected.trials < min(FEW_TRIALS, config.search.trials))
    if thin:
        yield (
            f"warning: the search gets {expected.search_share:.0%} of the work and about {expected.trials} of "
            f"{config.search.trials} trials. What would give it more:"
        )
        for lines, changed in _changes(config):
            better = forecast(changed, resources, full_run_seconds)
            if better is not None and better.trials > expected.trials:
                yield f"  {lines}    # about {better.trials} trials, {better.seeds} seeds"
    elif not expected.cut and budget.hours and expected.hours < 0.8 * budget.hours:
        spare = budget.hours - expected.hours
        more = int(config.search.trials * (1 + spare / max(expected.by_stage["search"].hours, 1e-9)))
        yield f"the budget holds more: search.trials: {_two_digits(more)} would use its other {duration(spare)}"


def _two_digits(number: int) -> int:
    step = 10 ** max(0, len(str(number)) - 2)
    return number // step * step


def _changes(config: SweepConfig) -> Iterator[tuple[str, SweepConfig]]:
    """Changes of the file that give the search more trials, as lines of YAML."""
    search = config.search
    for divisor in (2, 4):
        epochs = config.search_epochs // divisor
        if epochs < 4:
            continue
        every = shortened(config.trial, epochs=epochs).evaluation.every
        grace = max(every, round(search.scheduler.grace_epochs / divisor / every) * every)
        scheduler = search.scheduler.model_copy(update={"grace_epochs": grace})
        update = {"schedule": SearchScheduleSettings(epochs=epochs), "scheduler": scheduler}
        yield (
            f"search.schedule: {{epochs: {epochs}}}, search.scheduler.grace_epochs: {grace}",
            config.model_copy(update={"search": search.model_copy(update=update)}),
        )
    for name in LIMITS:
        total = getattr(search.budget, name)
        if total is not None:
            budget = search.budget.model_copy(update={name: 2 * total})
            changed = config.model_copy(update={"search": search.model_copy(update={"budget": budget})})
            yield f"search.budget.{name}: {2 * total:g}", changed


def print_plan(
    console: Console,
    config: SweepConfig,
    address: str | None = None,
    storage: str | None = None,
    assumed: Assumed | None = None,
) -> None:
    """Check everything and print what the sweep would do.

    Raises:
        ConfigError, DataError, TrackingError: whatever would stop it at its start, or a budget that cannot hold it.
    """
    began = time.monotonic()
    place = usable_storage(storage)
    resources = planned_resources(config, address, config.search.max_concurrent, assumed)
    check_warm_starts(config)
    run = full_run(config, assumed)
    check_store(config.tracking.uri, config.name)
    check_holds(config, resources, run)
    console.print(_space_table(config))
    scheduler = config.search.scheduler
    where = "the assumed machine" if assumed else address or "this machine"
    cheaper = work_of(config, "search") / len(config.validation.use)
    for line in (
        f"{config.search.trials} trials of at most {config.search_epochs} epochs, {config.search.sampler.name} and "
        f"{scheduler.name} (grace {scheduler.grace_epochs} epochs, one in {scheduler.reduction_factor} goes on)",
        f"a run learns from {run.told}",
        f"a full-length run takes {duration(run.seconds / 3600)}"
        + (f", a trial {duration(cheaper * run.seconds / 3600)} at most" if cheaper < 1 else "")
        + f"; a run gets {counted(resources.cpus, 'CPU core')} and {counted(resources.gpus, 'GPU')}; "
        f"{resources.concurrent} at a time on {where}",
        *plan_lines(config, resources, run.seconds),
        f"tracking: {redact(config.tracking.uri)} can be used"
        + (f"; {place} can be written from here" if place else ""),
        f"checked in {time.monotonic() - began:.1f} s; nothing was started" + (f" on {address}" if address else ""),
    ):
        console.print(line, style="yellow" if line.startswith("warning") else None, soft_wrap=True)


def _space_table(config: SweepConfig) -> Table:
    table = Table(title=f"{config.name}: the space", title_justify="left")
    for column in ("dimension", "range", "start"):
        table.add_column(column)
    start, _ = start_configuration(config)
    for path, dimension in config.search.space.items():
        kind, arguments = next(iter(dimension.model_dump().items()))
        condition = config.search.conditions.get(path)
        text = f"{kind} {arguments}" + (f" if {condition}" if condition else "")
        table.add_row(path, text, setting(start.get(path, "-")))
    return table
