"""A sweep's trials, selections and confirmations from MLflow."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from ctxtune.errors import TrackingError
from ctxtune.reporting.study import Study, read_file
from ctxtune.tracking import MetricPoint, TrackedRun, metric_histories

START = "start"


class _Plain(BaseModel):
    """Part of `space.yaml`; what a report has no use for is not read."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _Objective(_Plain):
    metric: str = "validation/map_at_r"
    mode: Literal["max", "min"] = "max"


class _Scheduler(_Plain):
    name: str = "none"
    grace_epochs: int = 1
    reduction_factor: int = 3


class _Sampler(_Plain):
    name: str = "tpe"


class _Search(_Plain):
    objective: _Objective = _Objective()
    beside: tuple[_Objective, ...] = ()
    space: dict[str, dict[str, Any]]
    conditions: dict[str, str] = {}
    sampler: _Sampler = _Sampler()
    scheduler: _Scheduler = _Scheduler()
    trials: int = 0

    @model_validator(mode="before")
    @classmethod
    def _several_objectives(cls, tree: Any) -> Any:
        if isinstance(tree, dict) and isinstance(tree.get("objective"), list) and tree["objective"]:
            return {**tree, "objective": tree["objective"][0], "beside": tree["objective"][1:]}
        return tree


class Space(_Plain):
    """What a report needs of a sweep's `space.yaml`."""

    name: str
    trial: dict[str, Any]
    search: _Search
    validation: dict[str, Any] = {}
    confirm: dict[str, Any] | None = None
    select: dict[str, Any] | None = None

    @property
    def epochs(self) -> int:
        """Epochs of a trial at full length."""
        return int(self.trial.get("schedule", {}).get("epochs", 0))

    @property
    def dataset(self) -> str:
        """The data set's name."""
        return str(self.trial.get("dataset", {}).get("name", ""))

    @property
    def recall_at(self) -> list[int]:
        """The K of Recall@K."""
        return list(self.trial.get("evaluation", {}).get("recall_at", []))


@dataclass(frozen=True)
class Dimension:
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
    """One trial of the search.

    Attributes:
        values: the searched values that it had, by path.
        score: its last score; not a number without one.
        epoch: after which that score was taken.
        curve: all its scores by epoch.
    """

    run: TrackedRun
    number: int
    values: Mapping[str, Any]
    score: float
    epoch: int
    curve: tuple[MetricPoint, ...]

    @property
    def completed(self) -> bool:
        """Whether it ran to the end and has a score."""
        return self.run.state == "completed" and math.isfinite(self.score)

    @property
    def hours(self) -> float:
        """Hours of its device."""
        seconds = self.run.metrics.get("time/seconds", 0.0)
        return seconds / 3600 if math.isfinite(seconds) else 0.0


@dataclass(frozen=True)
class SweepData:
    """A sweep, finished or still running."""

    study: Study
    space: Space

    @property
    def objective(self) -> str:
        """The metric that was searched for."""
        return self.space.search.objective.metric

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.space.search.objective.mode == "max" else -1

    @cached_property
    def dimensions(self) -> tuple[Dimension, ...]:
        """The searched dimensions that can vary, in the file's order."""
        found = [_dimension(path, next(iter(item.items()))) for path, item in self.space.search.space.items() if item]
        return tuple(dimension for dimension in found if len(dimension.choices) != 1)

    @cached_property
    def trials(self) -> tuple[Trial, ...]:
        """All trials in the order in which they began."""
        runs = self.study.of_kind("trial")
        curves = metric_histories(self.study.uri, [run.run_id for run in runs], self.objective)
        return tuple(self._trial(run, number, curves[run.run_id]) for number, run in enumerate(runs))

    def _trial(self, run: TrackedRun, number: int, points: list[MetricPoint]) -> Trial:
        values = {
            dimension.path: _value(run.params[dimension.path])
            for dimension in self.dimensions
            if dimension.path in run.params
        }
        kept = tuple(point for point in points if math.isfinite(point.value))
        last = kept[-1] if kept else None
        return Trial(run, number, values, last.value if last else math.nan, last.step if last else 0, kept)

    @cached_property
    def completed(self) -> tuple[Trial, ...]:
        """The trials that ran to the end, the best first."""
        return tuple(
            sorted((trial for trial in self.trials if trial.completed), key=lambda trial: -self.sign * trial.score)
        )

    @cached_property
    def start(self) -> Trial | None:
        """The trial that began at the unaltered start point: the first one."""
        return self.trials[0] if self.trials else None

    @cached_property
    def rungs(self) -> tuple[int, ...]:
        """Epochs at which trials may be stopped; none without a scheduler that has rungs."""
        scheduler, epochs = self.space.search.scheduler, self.space.epochs
        if scheduler.name != "asha" or scheduler.reduction_factor < 2:
            return ()
        grace = scheduler.grace_epochs + int(self.space.trial.get("schedule", {}).get("head_warmup_epochs", 0))
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
        """The objective in selection by arm, of completed runs."""
        return self._by_arm("selection", self.objective)

    @cached_property
    def confirmations(self) -> dict[str, dict[int, TrackedRun]]:
        """The completed confirmations by arm and seed; the chosen arm first."""
        arms: dict[str, dict[int, TrackedRun]] = {}
        for run in self.study.of_kind("confirmation"):
            if run.state == "completed":
                arms.setdefault(run.tags.get("arm", ""), {})[int(run.tags.get("seed_index") or 0)] = run
        return dict(sorted(arms.items(), key=lambda item: item[0] == START))

    @property
    def chosen(self) -> str | None:
        """The confirmed arm, as soon as one of its confirmations has begun."""
        arms = [run.tags.get("arm", "") for run in self.study.of_kind("confirmation")]
        return next((arm for arm in arms if arm != START), arms[0] if arms else None)

    @property
    def test_metric(self) -> str:
        """The objective's counterpart on the test classes."""
        return self.objective.replace("validation/", "test/")

    def _by_arm(self, kind: str, metric: str) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for run in self.study.of_kind(kind):
            value = run.metrics.get(metric, math.nan)
            if run.state == "completed" and math.isfinite(value):
                found.setdefault(run.tags.get("arm", ""), []).append(value)
        return found


def read_sweep(study: Study) -> SweepData:
    """The sweep of a study whose parent run is one.

    Raises:
        TrackingError: its space is not there or not readable.
    """
    try:
        return SweepData(study, Space.model_validate(read_file(study, "space.yaml")))
    except ValidationError as error:
        first = error.errors()[0]
        raise TrackingError(f"{study.name}: space.yaml, {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _dimension(path: str, item: tuple[str, Any]) -> Dimension:
    kind, arguments = item
    if kind == "fixed":
        return Dimension(path, kind, choices=(arguments,))
    if kind == "choice":
        return Dimension(path, kind, choices=tuple(arguments))
    return Dimension(path, kind, float(arguments[0]), float(arguments[1]))


def _value(text: str) -> Any:
    """A parameter as it was written; numbers first: YAML takes `1e-05` for a text and is slow over thousands of trials."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return yaml.safe_load(text)
