"""Searches for several objectives at once: the values of a trial, the Pareto front, and what the sampler is told."""

import contextlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ctxtune.config import SweepConfig
from ctxtune.config.paths import get_path
from ctxtune.tuning.record.journal import Journal, RunRecord


class _Sampler(Protocol):
    def report(self, key: str, epoch: int, score: float) -> None: ...

    def tell(self, key: str, state: str, score: float | Sequence[float] | None) -> None: ...


class SeveralObjectives:
    """Tells a sampler all the values of a trial, where the recorder knows the first one only."""

    def __init__(self, space: SweepConfig, journal: Journal, sampler: _Sampler) -> None:
        self._space, self._journal, self._sampler = space, journal, sampler

    def report(self, key: str, epoch: int, score: float) -> None:
        """A trial has a score on the way: with several objectives nothing is learned before the end."""

    def tell(self, key: str, state: str, score: float | None) -> None:
        """A trial came to its end."""
        self._sampler.tell(key, state, objective_values(self._space, self._journal.runs[key]))


def told_scores(space: SweepConfig, run: RunRecord) -> float | list[float] | None:
    """What a sampler is told of a trial: its last score, or all its values where there are several objectives."""
    objective = space.search.objective
    return objective_values(space, run) if objective.beside else run.last(objective.metric)


def objective_values(space: SweepConfig, run: RunRecord) -> list[float] | None:
    """The values of all objectives at a trial's last report; None where one is missing."""
    values: list[float] = []
    for objective in space.search.objective.all:
        value = run.last(objective.metric)
        if value is None and "/" not in objective.metric:
            with contextlib.suppress(KeyError, TypeError, ValueError):
                value = float(get_path(run.spec.trial.tree(), objective.metric))
        if value is None:
            return None
        values.append(value)
    return values


def pareto_front(space: SweepConfig, journal: Journal) -> list[RunRecord]:
    """The completed trials that no other one beats: at least as good in every objective, and better in one."""
    signs = np.array([1 if objective.mode == "max" else -1 for objective in space.search.objective.all])
    scored = [(values, run) for run in journal.completed("search") if (values := objective_values(space, run))]
    if not scored:
        return []
    matrix = signs * np.array([values for values, _ in scored])  # (trials, objectives)
    no_worse = (matrix[:, None] >= matrix[None]).all(2)
    better = (matrix[:, None] > matrix[None]).any(2)
    beaten = (no_worse & better).any(0)
    return [run for (_, run), lost in zip(scored, beaten, strict=True) if not lost]
