"""Who is best: runs ranked by one objective, or the Pareto front of several."""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from ctxtune.results.runs import Run, completed


class Objective(BaseModel):
    """A metric, or the path of a number in the configuration, and whether more of it is better."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    metric: str = "validation/map_at_r"
    mode: Literal["max", "min"] = "max"

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.mode == "max" else -1

    @property
    def test_metric(self) -> str:
        """Its counterpart on the test classes."""
        return self.metric.replace("validation/", "test/")

    def of(self, run: Run) -> float | None:
        """The value of a run; None where it has none."""
        value = run.value(self.metric)
        if value is None and "/" not in self.metric:
            setting = run.setting(self.metric)
            if isinstance(setting, int | float) and not isinstance(setting, bool):
                return float(setting)
        return value


def objective_values(run: Run, objectives: Sequence[Objective]) -> tuple[float, ...] | None:
    """The values of all objectives; None where one is missing."""
    values = [objective.of(run) for objective in objectives]
    found = tuple(value for value in values if value is not None)
    return found if len(found) == len(values) else None


def ranked(runs: Iterable[Run], objective: Objective) -> list[Run]:
    """The completed runs that have a score, the best first; of equals the earlier one."""
    scored = [(score, run) for run in completed(runs) if (score := objective.of(run)) is not None]
    return [run for _, run in sorted(scored, key=lambda item: -objective.sign * item[0])]


def best(runs: Iterable[Run], objective: Objective) -> Run | None:
    """The best completed run; of equals the earlier one."""
    return next(iter(ranked(runs, objective)), None)


def pareto_front(runs: Iterable[Run], objectives: Sequence[Objective]) -> list[Run]:
    """The completed runs that no other one beats (as good in every objective, better in one), the best by the first first."""
    scored = [(values, run) for run in completed(runs) if (values := objective_values(run, objectives)) is not None]
    if not scored:
        return []
    signs = np.array([objective.sign for objective in objectives])
    matrix = signs * np.array([values for values, _ in scored])  # (runs, objectives)
    no_worse = (matrix[:, None] >= matrix[None]).all(2)
    better = (matrix[:, None] > matrix[None]).any(2)
    beaten = (no_worse & better).any(0)
    front = [run for (_, run), lost in zip(scored, beaten, strict=True) if not lost]
    return ranked(front, objectives[0])
