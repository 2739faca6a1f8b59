"""How long runs will take, from the runs seen so far: stopped ones and those under way count as far as they came.

The unit of work is a full-length run on one validation fold. A trial is less where `search.schedule`, `images` or `crop`
make it cheaper, and more where it is scored on several folds; a run on all train classes is more, and one with a model for
each fold counts once for each of them.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ctxtune.config import SweepConfig, TrialFile
from ctxtune.results.runs import START, Stage
from ctxtune.text import duration
from ctxtune.tuning.backend.cluster import RunResources
from ctxtune.tuning.record.journal import RunRecord

HANDFUL = 5
"""The fewest trials, the start among them, that anybody would call a search."""
FEWEST_SEEDS = 2
"""Of a confirmation: for an interval."""


def fit_share(file: TrialFile) -> float:
    """The share of the train classes that a run on one fold learns from."""
    return 1 - file.validation.validation_share


def work_of(config: SweepConfig, stage: Stage | str) -> float:
    """The work of a whole run of a stage, in full-length runs on one fold."""
    if stage == "search":
        search, trial = config.search, config.trial
        crop = (search.crop or trial.image.train_crop) / trial.image.train_crop
        length = config.search_epochs / trial.schedule.epochs
        return length * (search.images or 1.0) * crop**2 * len(config.validation.use)
    if stage == "confirmation":
        return float(len(config.confirmed_folds)) or 1 / fit_share(config)
    return 1.0


def mean_share(config: SweepConfig) -> float:
    """The share of a trial's epochs that it runs on average, where the scheduler lets one in `reduction_factor` pass a rung."""
    scheduler, epochs = config.search.scheduler, config.search_epochs
    if scheduler.name == "none":
        return 1.0
    rung = float(min(scheduler.grace_epochs + config.search_trial(config.trial).schedule.head_warmup_epochs, epochs))
    trained, alive = rung, 1.0
    while rung < epochs:
        alive /= scheduler.reduction_factor
        following = min(rung * scheduler.reduction_factor, epochs)
        trained += alive * (following - rung)
        rung = following
    return trained / epochs


@dataclass(frozen=True)
class Estimate:
    """What runs take.

    Attributes:
        seconds: of a unit of work, as the runs report it; None as long as nothing is known.
        setup: seconds of each run beside that: its process, its data, its last scores.
        of_arm: ``seconds`` of a configuration that has run, None of another: where the space holds heads and whole networks,
            say, the mean of all says little of each.
    """

    seconds: float | None
    setup: float = 0.0
    of_arm: Callable[[str], float | None] = lambda arm: None

    def run(self, config: SweepConfig, stage: Stage | str, share: float = 1.0, *, arm: str = "") -> float:
        """Seconds of a run of a stage, or of a share of its epochs; infinite where nothing is known.

        Args:
            arm: the configuration; "" for any.
        """
        own = self.of_arm(arm) if arm else None
        seconds = self.seconds if own is None else own
        if seconds is None:
            return float("inf")
        return self.setup + share * work_of(config, stage) * seconds


def seconds_of_work(config: SweepConfig, runs: Iterable[RunRecord]) -> float | None:
    """Seconds of a unit of work: all runs together by the work that they have done.

    As soon as selection has reported, full-length runs alone are asked: how much cheaper a cheap trial is, is an assumption.
    """
    seen = [run for run in runs if run.epoch and run.seconds]
    full_length = [run for run in seen if run.stage != "search"]
    work = seconds = 0.0
    for run in full_length or seen:
        epochs = run.spec.trial.schedule.epochs
        work += work_of(config, run.stage) * run.epoch / epochs
        seconds += run.seconds
    return seconds / work if work else None


def seconds_of_arm(
    config: SweepConfig, runs: Iterable[RunRecord], start: Mapping[str, object], arm: str
) -> float | None:
    """Seconds of a unit of work of one configuration; None where it has not run.

    Args:
        start: the point of the start, which is the arm `START` as well as a trial.
    """
    its_runs = (run for run in runs if run.spec.arm == arm or (arm == START and run.spec.point == start))
    return seconds_of_work(config, its_runs)


def seconds_between_reports(config: SweepConfig, runs: Iterable[RunRecord]) -> float | None:
    """Seconds of a unit of work between the reports of a trial, without what its beginning took; None: none has two yet.

    A run with a single report says all that it can once it has ended.
    """
    for run in runs:
        epochs = run.spec.trial.schedule.epochs
        before = run.reports[0] if len(run.reports) > 1 else None
        done = run.epoch - (before.epoch if before else 0)
        if done and (before is not None or run.state == "completed"):
            began = before.metrics.get("time/seconds", 0.0) if before else 0.0
            return (run.seconds - began) / (work_of(config, run.stage) * done / epochs)
    return None


def _least_parts(config: SweepConfig, resources: RunResources, estimate: Estimate, limit: str) -> tuple[float, float]:
    """What the start with a handful of trials takes of a limit, and what the smallest confirmation does."""
    start, others = estimate.run(config, "search"), estimate.run(config, "search", mean_share(config))
    trials = min(HANDFUL, config.search.trials)
    runs = FEWEST_SEEDS * (1 + len(config.confirm.also)) if config.confirm else 0
    confirmation = estimate.run(config, "confirmation") if runs else 0.0
    if limit == "hours":
        places = resources.concurrent
        search = max(start, (start + (trials - 1) * others) / places)
        return search / 3600, math.ceil(runs / places) * confirmation / 3600
    gpu_hours = resources.gpus / 3600
    return (start + (trials - 1) * others) * gpu_hours, runs * confirmation * gpu_hours


def least_budget(config: SweepConfig, resources: RunResources, estimate: Estimate, limit: str) -> float:
    """The least of a limit that holds the start, a handful of trials and a minimal confirmation, by the shares of the file.

    Args:
        limit: hours or gpu_hours.
    """
    search, confirmation = _least_parts(config, resources, estimate, limit)
    share = config.search.budget.search_share
    return max(search / share, confirmation / (1 - share))


def too_little(config: SweepConfig, resources: RunResources, estimate: Estimate, limit: str) -> str | None:
    """What to say of a budget that cannot hold a sweep; None: it can."""
    total, least = getattr(config.search.budget, limit), least_budget(config, resources, estimate, limit)
    if total is None or total >= least or estimate.seconds is None:
        return None
    search, confirmation = _least_parts(config, resources, estimate, limit)
    confirmed = f" and {FEWEST_SEEDS} seeds of confirmation" if config.confirm else ""
    trials = min(HANDFUL, config.search.trials)
    told = (
        f"search.budget.{limit}: {total:g} cannot hold the start, {trials - 1} more trials{confirmed}: a full-length run takes "
        f"{duration(estimate.seconds / 3600)}. {_rounded_up(least):g} would do"
    )
    if search + confirmation < total:
        share = math.floor(100 * (1 - confirmation / total)) / 100
        told += f"; or search.budget.search_share: {share:g}, which leaves the search less"
    elif confirmation < total * (1 - config.search.budget.search_share):
        epochs = max(1, config.search_epochs // 4)
        told += f"; or cheaper trials: search.schedule: {{epochs: {epochs}}}"
    return told


def _rounded_up(hours: float) -> float:
    """To two digits, upwards."""
    step = 10.0 ** (len(str(int(hours))) - 2) if hours >= 1 else 0.01
    return round(-(-hours // step) * step, 2)
