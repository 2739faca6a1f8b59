"""What a sweep is going to do, by stage, before it begins: `--dry-run`, and the first lines of a run."""

import contextlib
import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError
from rich.table import Table

from ctxtune.config import SweepConfig, TrialSettings, resolve_trial
from ctxtune.config.budget import LimitSettings
from ctxtune.config.fidelity import SearchScheduleSettings, shortened
from ctxtune.config.paths import get_path
from ctxtune.config.search import MOST_TRIALS, SchedulerSettings
from ctxtune.consoles import Console
from ctxtune.data import build_sampler, load_dataset
from ctxtune.errors import ConfigError, CtxtuneError, DataError
from ctxtune.results.costs import GPU_HOURS, Rate
from ctxtune.results.formatting import setting
from ctxtune.text import counted, duration
from ctxtune.tracking import check_store, redact
from ctxtune.training import fold_splits
from ctxtune.tuning.backend.cluster import RunResources
from ctxtune.tuning.backend.connect import usable_storage
from ctxtune.tuning.estimates import Estimate, too_little, work_of
from ctxtune.tuning.record.decisions import SearchEnd
from ctxtune.tuning.record.run_spec import RunSpec
from ctxtune.tuning.search.warm_start import check_warm_starts
from ctxtune.tuning.simulation import FullRunSeconds, Simulated, plain_score, simulated_sweep
from ctxtune.tuning.spending import LIMITS, StageForecast
from ctxtune.tuning.stages import start_configuration
from ctxtune.tuning.timing import Assumed, FullRun, full_run, planned_resources

FEW_TRIALS = 20
"""A search of fewer trials than these is warned of."""
DRAWS, ENOUGH_FOR_ONE = 3, 300
"""How many sweeps are simulated: how many trials pass ASHA's rungs depends on which come by first, less so of many trials."""
MOST_REPORTS = 10_000
"""Of a sweep that is simulated: they take some twenty seconds."""
STAGES = ("search", "selection", "confirmation")
_DECIDE_TIMES = ("model.", "sampler.", "image.")
"""Dimensions whose choices decide what a run takes."""
MOST_KINDS = 8
"""Of runs that are timed: where the space has more, the start stands for all."""


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


class TooManyReports(Exception):
    """A sweep is too large to be simulated."""


def forecast(config: SweepConfig, resources: RunResources, full_run_seconds: FullRunSeconds) -> Forecast | None:
    """Simulate the sweep with configurations suggested at random: the median of a few; None: no trial would come to its end.

    Args:
        full_run_seconds: of a full-length run on one fold, by its configuration.

    Raises:
        TooManyReports.
    """
    sampler = config.search.sampler.model_copy(update={"name": "random"})
    search = config.search.model_copy(
        update={
            "budget": config.search.budget.model_copy(update={"no_improvement_for": None}),
            **({} if config.search.sampler.name == "grid" else {"sampler": sampler}),
        }
    )
    if config.search.trials > MOST_REPORTS and not config.search.budget.hours and not config.search.budget.gpu_hours:
        raise TooManyReports
    draws = DRAWS if config.search.trials <= ENOUGH_FOR_ONE else 1
    drawn = [
        _drawn(config.model_copy(update={"search": search}), resources, full_run_seconds, seed) for seed in range(draws)
    ]
    found = sorted((each for each in drawn if each is not None), key=lambda each: each.by_stage["search"].work_hours)
    return found[len(found) // 2] if len(found) > draws // 2 else None


def _drawn(
    config: SweepConfig, resources: RunResources, full_run_seconds: FullRunSeconds, seed: int
) -> Forecast | None:
    score, reports = plain_score(seed), itertools.count(1)

    def counted_score(spec: RunSpec, share: float) -> float:
        if next(reports) > MOST_REPORTS:
            raise TooManyReports
        return score(spec, share)

    try:
        with simulated_sweep(config, resources, full_run_seconds, score=counted_score) as simulated:
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
class FullRuns:
    """Full-length runs of a config whose configurations do not all take the same time, and of any other.

    Attributes:
        paths: of the dimensions that decide what a run takes, such as ``model.train``.
        by_values: by the values at these paths; the start's first.
    """

    paths: tuple[str, ...]
    by_values: dict[str, FullRun]

    @property
    def start(self) -> FullRun:
        """Of the start configuration."""
        return next(iter(self.by_values.values()))

    @property
    def mean_seconds(self) -> float:
        """Over the kinds of runs."""
        return sum(run.seconds for run in self.by_values.values()) / len(self.by_values)

    def seconds(self, trial: TrialSettings) -> float:
        """Of a configuration."""
        return self.by_values.get(_values_at(self.paths, trial), self.start).seconds

    def lines(self) -> Iterator[str]:
        """What each kind of run takes."""
        for values, run in self.by_values.items():
            kind = f" with {values}" if len(self.by_values) > 1 else ""
            yield f"a full-length run{kind} takes {duration(run.seconds / 3600)}"


def full_runs(config: SweepConfig, assumed: Assumed | None) -> FullRuns:
    """Time the start configuration and, where a choice of the config decides what runs take, every choice of it.

    Raises:
        ConfigError, DataError, RunFailed: whatever would stop a run at its start.
    """
    point, start = start_configuration(config)
    choices = {
        path: dimension.choices for path, dimension in config.search.space.items()
        if path.startswith(_DECIDE_TIMES) and dimension.kind == "choice"
    }  # fmt: skip
    trials = [start]
    if math.prod(map(len, choices.values())) <= MOST_KINDS:
        for combination in itertools.product(*choices.values()):
            with contextlib.suppress(ConfigError, ValidationError):  # values that no run has together
                trials.append(resolve_trial(config, {**point, **dict(zip(choices, combination, strict=True))}))
    by_values: dict[str, FullRun] = {}
    for trial in trials:
        values = _values_at(tuple(choices), trial)
        if values not in by_values:
            by_values[values] = full_run(config, trial, assumed)
    return FullRuns(tuple(choices), by_values)


def _values_at(paths: Sequence[str], trial: TrialSettings) -> str:
    tree = trial.tree()
    return ", ".join(f"{path}: {setting(get_path(tree, path))}" for path in paths)


def check_holds(config: SweepConfig, resources: RunResources, seconds: float) -> None:
    """Refuse a budget that cannot hold the start, a handful of trials and the smallest confirmation.

    Raises:
        ConfigError: with the number that would do.
    """
    for name in LIMITS:
        told = too_little(config, resources, Estimate(seconds), name)
        if told:
            raise ConfigError(told)


def plan_lines(config: SweepConfig, resources: RunResources, full_run_seconds: FullRunSeconds) -> Iterator[str]:
    """The stages with runs, hours, share and cost, and what to change where the search comes off badly."""
    try:
        expected = forecast(config, resources, full_run_seconds)
    except TooManyReports:
        seconds = config.search.trials * full_run_seconds(config.trial) * work_of(config, "search")
        yield (
            f"the sweep makes too many reports to be simulated (over {MOST_REPORTS:,}): without early stopping the search "
            f"takes {duration(seconds / 3600 / resources.concurrent)}{budget_told(config.search.budget)}"
        )
        return
    if expected is None:
        yield "no trial would come to its last epoch within this budget"
        return
    for stage, each in expected.by_stage.items():
        share = each.work_hours / expected.work_hours if expected.work_hours else 0.0
        yield f"  {stage:<13}{_runs_told(expected, stage):<52}{duration(each.hours):>9}{share:>6.0%}"
    cost = Rate(resources.gpus, config.resources.price_per_gpu_hour).of(3600 * expected.work_hours)
    yield f"  {'in all':<65}{duration(expected.hours):>9}{cost_told(cost)}{budget_told(config.search.budget)}"
    yield from _advice(config, resources, full_run_seconds, expected)


def _scheduler_told(scheduler: SchedulerSettings) -> str:
    if scheduler.name == "none":
        return "no early stopping"
    return f"{scheduler.name} (grace {scheduler.grace_epochs} epochs, one in {scheduler.reduction_factor} goes on)"


def cost_told(cost: Mapping[str, float]) -> str:
    """GPU-hours and money of a plan, where there are any."""
    return "".join(f", {value:,.3g} {'GPU-hours' if name == GPU_HOURS else 'of money'}" for name, value in cost.items())


def budget_told(budget: LimitSettings) -> str:
    """The limits that a plan keeps."""
    limits = [
        f"{total:g} {limit.replace('gpu_hours', 'GPU-hours')}" for limit in LIMITS if (total := getattr(budget, limit))
    ]
    return f", of a budget of {' and '.join(limits)}" if limits else ""


def _runs_told(expected: Forecast, stage: str) -> str:
    runs = expected.by_stage[stage].runs
    if stage == "search":
        whole = f" of {expected.asked}" if runs < expected.asked else ""
        return f"about {runs}{whole} trials, {expected.finished} of them to their end"
    if stage == "confirmation" and runs:
        fewer = f" of {expected.asked_seeds}" if expected.seeds < expected.asked_seeds else ""
        return f"{counted(runs, 'run')}, {expected.seeds}{fewer} seeds"
    return counted(runs, "run")


def _advice(
    config: SweepConfig, resources: RunResources, full_run_seconds: FullRunSeconds, expected: Forecast
) -> Iterator[str]:
    budget = config.search.budget
    thin = expected.cut and (expected.search_share < 0.5 or expected.trials < min(FEW_TRIALS, config.search.trials))
    if thin:
        yield (
            f"warning: the search gets {expected.search_share:.0%} of the work and about {expected.trials} of "
            f"{config.search.trials} trials. What would give it more:"
        )
        for lines, changed in _changes(config):
            try:
                better = forecast(changed, resources, full_run_seconds)
            except TooManyReports:
                continue
            if better is not None and better.trials > expected.trials:
                yield f"  {lines}    # about {better.trials} trials, {better.seeds} seeds"
    elif not expected.cut and budget.hours and expected.hours < 0.8 * budget.hours:
        spare = budget.hours - expected.hours
        more = min(MOST_TRIALS, int(config.search.trials * (1 + spare / max(expected.by_stage["search"].hours, 1e-9))))
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
    runs = full_runs(config, assumed)
    check_store(config.tracking.uri, config.name)
    check_holds(config, resources, runs.mean_seconds)
    _check_cheaper(config)
    console.print(_space_table(config))
    where = "the assumed machine" if assumed else address or "this machine"
    cheaper = work_of(config, "search") / len(config.validation.use)
    for line in (
        f"{config.search.trials} trials of at most {config.search_epochs} epochs, {config.search.sampler.name} and "
        f"{_scheduler_told(config.search.scheduler)}",
        f"a run learns from {runs.start.told}",
        *runs.lines(),
        *([f"a trial takes {cheaper:.0%} of that at most"] if cheaper < 1 else []),
        f"a run gets {counted(resources.cpus, 'CPU core')} and {counted(resources.gpus, 'GPU')}; {resources.concurrent} at a "
        f"time on {where}",
        *plan_lines(config, resources, runs.seconds),
        f"tracking: {redact(config.tracking.uri)} can be used"
        + (f"; {place} can be written from here" if place else ""),
        f"checked in {time.monotonic() - began:.1f} s; nothing was started" + (f" on {address}" if address else ""),
    ):
        console.print(line, style="yellow" if line.startswith("warning") else None, soft_wrap=True)


def _check_cheaper(config: SweepConfig) -> None:
    """Where trials learn from fewer images: that the sampler finds its classes among them.

    Raises:
        ConfigError: it does not.
    """
    if config.search.images is None:
        return
    trial = config.search_trial(start_configuration(config)[1])
    try:
        benchmark = load_dataset(trial.dataset)
    except DataError:
        return  # planned for elsewhere
    fit = fold_splits(trial, config.validation, config.validation.use[0], seed=0, benchmark=benchmark).fit
    try:
        build_sampler(trial.sampler, fit.labels, fit.super_labels, 0)
    except ConfigError as error:
        raise ConfigError(f"search.images: {config.search.images:g} leaves the trials {error}") from None


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
