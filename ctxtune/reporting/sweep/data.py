"""A sweep's trials, selections and confirmations from MLflow."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ctxtune.reporting.study import Study, read_design
from ctxtune.results.designs import SweepDesign
from ctxtune.results.ranking import sign, value_of
from ctxtune.results.runs import Run, by_arm, completed
from ctxtune.results.sweep import SweepResults
from ctxtune.tracking import MetricPoint, metric_histories


@dataclass(frozen=True)
class SearchedDimension:
    """One searched dimension: numbers on a linear or logarithmic scale between bounds, or a list of choices."""

    path: str
    kind: str
    low: float = 0.0
    high: float = 1.0
    choices: tuple[Any, ...] = ()

    @property
    def logarithmic(self) -> bool:
        """Whether it is searched on a logarithmic scale."""
        return self.kind in ("loguniform", "logint")

    @property
    def numeric(self) -> bool:
        """Whether its values lie on an axis: no choices, or choices that are numbers."""
        return not self.choices or all(
            isinstance(choice, int | float) and not isinstance(choice, bool) for choice in self.choices
        )


@dataclass(frozen=True)
class Trial:
    """One trial of the search, as figures and tables show it.

    Attributes:
        number: in the order in which trials began.
        values: the searched values that it had, by path.
        score: its last score; not a number without one.
        curve: all its scores by epoch.
        end_time: milliseconds since 1970; infinite while it runs.
    """

    run: Run
    number: int
    values: Mapping[str, Any]
    score: float
    curve: tuple[MetricPoint, ...]
    end_time: float

    @property
    def completed(self) -> bool:
        """Whether it ran to the end and has a score."""
        return self.run.state == "completed" and math.isfinite(self.score)


@dataclass(frozen=True)
class SweepData:
    """A sweep, finished or still running: what it found, and what figures need of MLflow besides."""

    study: Study
    design: SweepDesign

    @property
    def objective(self) -> str:
        """The metric that was searched for."""
        return self.design.objective.metric

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return sign(self.design.objective)

    @cached_property
    def results(self) -> SweepResults:
        """What the sweep found."""
        runs = tuple(self._with_epoch(run) for run in self.study.runs)
        return SweepResults(self.design, runs, self.study.ended)

    def _with_epoch(self, run: Run) -> Run:
        points = self._curves.get(run.key)
        return dataclasses.replace(run, epoch=points[-1].step) if points else run

    @cached_property
    def _curves(self) -> dict[str, tuple[MetricPoint, ...]]:
        """The scores of each trial by epoch."""
        names = {run.key: self.study.by_key[run.key].run_id for run in self.study.in_stage("search")}
        found = metric_histories(self.study.uri, list(names.values()), self.objective)
        return {key: tuple(p for p in found[run_id] if math.isfinite(p.value)) for key, run_id in names.items()}

    @cached_property
    def dimensions(self) -> tuple[SearchedDimension, ...]:
        """The searched dimensions that can vary, in the file's order."""
        found = [_dimension(path, next(iter(item.items()))) for path, item in self.design.search.space.items() if item]
        return tuple(dimension for dimension in found if len(dimension.choices) != 1)

    @cached_property
    def trials(self) -> tuple[Trial, ...]:
        """All trials in the order in which they began."""
        return tuple(self._trial(run, number) for number, run in enumerate(self.results.trials))

    def _trial(self, run: Run, number: int) -> Trial:
        paths = [dimension.path for dimension in self.dimensions if dimension.path in run.settings]
        curve = self._curves[run.key]
        score = value_of(run, self.design.objective)
        ended = self.study.by_key[run.key].end_time or math.inf
        values = {path: run.setting(path) for path in paths}
        return Trial(run, number, values, math.nan if score is None else score, curve, ended)

    @cached_property
    def by_key(self) -> dict[str, Trial]:
        """The trials by their run's key."""
        return {trial.run.key: trial for trial in self.trials}

    @cached_property
    def completed(self) -> tuple[Trial, ...]:
        """The trials that ran to the end, the best first."""
        return tuple(
            sorted((trial for trial in self.trials if trial.completed), key=lambda trial: -self.sign * trial.score)
        )

    @cached_property
    def start(self) -> Trial | None:
        """The trial that began at the unaltered start point."""
        found = self.results.start_trial
        return self.by_key[found.key] if found else None

    @cached_property
    def rungs(self) -> tuple[int, ...]:
        """Epochs at which trials may be stopped; none without a scheduler that has rungs."""
        scheduler, epochs = self.design.search.scheduler, self.design.search_epochs
        if scheduler.name != "asha" or scheduler.reduction_factor < 2:
            return ()
        grace = scheduler.grace_epochs + int(self.design.trial.get("schedule", {}).get("head_warmup_epochs", 0))
        found = []
        while grace < epochs:
            found.append(grace)
            grace *= scheduler.reduction_factor
        return tuple(found)

    def score_at(self, trial: Trial, epoch: int) -> float:
        """A trial's score after so many epochs; not a number where it has none."""
        return next((point.value for point in trial.curve if point.step == epoch), math.nan)

    @cached_property
    def selection(self) -> dict[str, list[float]]:
        """The objective in selection by arm, of the runs that are completed by now."""
        arms = by_arm(completed(self.study.in_stage("selection")))
        found = {arm: [value_of(run, self.design.objective) for run in runs] for arm, runs in arms.items()}
        scores = {arm: [value for value in values if value is not None] for arm, values in found.items()}
        return {arm: values for arm, values in scores.items() if values}


def read_sweep(study: Study) -> SweepData:
    """The sweep of a study whose parent run is one.

    Raises:
        TrackingError: its space is not there or not readable.
    """
    return SweepData(study, read_design(study, "space.yaml", SweepDesign))


def _dimension(path: str, item: tuple[str, Any]) -> SearchedDimension:
    kind, arguments = item
    if kind == "fixed":
        return SearchedDimension(path, kind, choices=(arguments,))
    if kind == "choice":
        return SearchedDimension(path, kind, choices=tuple(arguments))
    return SearchedDimension(path, kind, float(arguments[0]), float(arguments[1]))
