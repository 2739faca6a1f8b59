"""Searches for several objectives at once: what the sampler is told."""

from collections.abc import Sequence
from typing import Protocol

from ctxtune.config import SweepConfig
from ctxtune.results.ranking import values_of
from ctxtune.tuning.record.journal import Journal, RunRecord


class _Told(Protocol):
    def report(self, key: str, epoch: int, score: float) -> None: ...

    def tell(self, key: str, state: str, score: float | Sequence[float] | None) -> None: ...


class SeveralObjectives:
    """Tells a sampler all the values of a trial, where the recorder knows the first one only."""

    def __init__(self, config: SweepConfig, journal: Journal, sampler: _Told) -> None:
        self._config, self._journal, self._sampler = config, journal, sampler

    def report(self, key: str, epoch: int, score: float) -> None:
        """A trial has a score on the way: with several objectives nothing is learned before the end."""

    def tell(self, key: str, state: str, score: float | None) -> None:
        """A trial came to its end."""
        self._sampler.tell(key, state, values_of(self._journal.runs[key], self._config.search.objective.all))


def told_scores(config: SweepConfig, run: RunRecord) -> float | list[float] | None:
    """What a sampler is told of a trial: its last score, or all its values where there are several objectives."""
    objective = config.search.objective
    return values_of(run, objective.all) if objective.beside else run.last(objective.metric)
