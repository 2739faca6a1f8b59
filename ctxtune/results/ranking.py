"""Who is best: runs ranked by one objective, or the Pareto front of several."""

from collections.abc import Iterable, Sequence
from typing import Literal, Protocol, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from ctxtune.metric_names import on_split
from ctxtune.results.runs import Measured, State


class Aim(Protocol):
    """A metric, or the path of a number in the configuration, and whether more of it is better."""

    @property
    def metric(self) -> str:
        """The metric or path."""

    @property
    def mode(self) -> Literal["max", "min"]:
        """Whether more is better or less."""


class Rankable(Measured, Protocol):
    """A run that can be ranked: `Run`, or a run of the journal itself."""

    @property
    def state(self) -> State:
        """How it ended, if it did."""

    def setting(self, path: str) -> object:
        """The value of its configuration at a path; None where there is none."""


AnyRun = TypeVar("AnyRun", bound=Rankable)


class Objective(BaseModel):
    """What a sweep or an ablation is judged by, as its design says."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    metric: str = "validation/map_at_r"
    mode: Literal["max", "min"] = "max"

    @property
    def test_metric(self) -> str:
        """Its counterpart on the test classes."""
        return on_split(self.metric, "test")


def sign(objective: Aim) -> int:
    """1 where more is better, -1 where less is."""
    return 1 if objective.mode == "max" else -1


def value_of(run: Rankable, objective: Aim) -> float | None:
    """What a run reaches; None where it has no value."""
    value = run.last(objective.metric)
    if value is None and "/" not in objective.metric:
        setting = run.setting(objective.metric)
        if isinstance(setting, int | float) and not isinstance(setting, bool):
            return float(setting)
    return value


def values_of(run: Rankable, objectives: Sequence[Aim]) -> list[float] | None:
    """What a run reaches in all objectives; None where one is missing."""
    values = [value_of(run, objective) for objective in objectives]
    found = [value for value in values if value is not None]
    return found if len(found) == len(values) else None


def ranked(runs: Iterable[AnyRun], objectives: Sequence[Aim]) -> list[AnyRun]:
    """The completed runs with a score, the best first, of equals the earlier; of several objectives the Pareto front."""
    if len(objectives) > 1:
        runs = pareto_front(runs, objectives)
    first = objectives[0]
    done = [run for run in runs if run.state == "completed"]
    scored = [(score, run) for run in done if (score := value_of(run, first)) is not None]
    return [run for _, run in sorted(scored, key=lambda item: -sign(first) * item[0])]


def best(runs: Iterable[AnyRun], objectives: Sequence[Aim]) -> AnyRun | None:
    """The first of `ranked`."""
    return next(iter(ranked(runs, objectives)), None)


def pareto_front(runs: Iterable[AnyRun], objectives: Sequence[Aim]) -> list[AnyRun]:
    """The completed runs that no other one beats: at least as good in every objective, and better in one."""
    done = [run for run in runs if run.state == "completed"]
    scored = [(values, run) for run in done if (values := values_of(run, objectives)) is not None]
    if not scored:
        return []
    matrix = np.array([sign(objective) for objective in objectives]) * np.array([values for values, _ in scored])
    no_worse = (matrix[:, None] >= matrix[None]).all(2)
    better = (matrix[:, None] > matrix[None]).any(2)
    beaten = (no_worse & better).any(0)
    return [run for (_, run), lost in zip(scored, beaten, strict=True) if not lost]
