"""What TPE learns from in a long search: its cost for each suggestion grows with the trials that it is shown."""

import heapq
import sys
from collections.abc import Container, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

MOST_ENDED, MOST_RUNNING = 1000, 250
"""Trials that a suggestion is made from: up to here all, beyond it the best and the latest."""
BEST = 50
"""Of the ended trials the best stay, however old. TPE's model of good points is made of 25."""
_SPLIT = "_split_trials"
"""Optuna's function in the module of its sampler."""
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
Coordinates = dict[tuple[str, BaseDistribution], dict[int, float]]
"""Where the ended trials of a study lie in each dimension, in Optuna's internal representation, by their numbers."""


class BoundedHistory:
    """A study as a sampler sees it for one suggestion; everything but its trials is the study's own.

    With several objectives all trials are shown: which of them are best depends on all the others.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._shown: dict[frozenset[TrialState] | None, list[FrozenTrial]] = {}
        self.splits: dict[tuple[int, ...], Any] = {}
        """The shown trials as Optuna has split them into good and other ones."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        wanted = frozenset(state for state in TrialState if state in states) if states is not None else None
        if wanted not in self._shown:
            shown = self._get_trials() if wanted is not None else shown_trials(self._study)
            self._shown[wanted] = [trial for trial in shown if wanted is None or trial.state in wanted]
        return list(self._shown[wanted])


class BoundedTPE(optuna.samplers.TPESampler):
    """TPE that learns from a bounded part of a study; ``coordinates`` serve all suggestions of the study."""

    _history: optuna.Study | None = None

    def __init__(self, coordinates: Coordinates | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._coordinates: Coordinates = {} if coordinates is None else coordinates

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As TPE does; called first, for each trial."""
        self._history = cast(optuna.Study, BoundedHistory(study))
        return super().infer_relative_search_space(self._history, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As TPE does."""
        return super().sample_relative(self._history or study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As TPE does."""
        with _splitting_once(self._history):
            return super().sample_independent(self._history or study, trial, param_name, param_distribution)

    def _get_internal_repr(
        self, trials: list[FrozenTrial], search_space: dict[str, BaseDistribution], study: optuna.Study
    ) -> dict[str, np.ndarray]:
        """As TPE does, which asks every trial anew for each dimension of each suggestion: a tenth of its time."""
        if len(search_space) != 1:  # of several, only trials with all of them count
            return super()._get_internal_repr(trials, search_space, study)
        ((name, distribution),) = search_space.items()
        known = self._coordinates.setdefault((name, distribution), {})
        values = []
        for trial in trials:
            value = known.get(trial.number)
            if value is None and name in trial.params:
                value = distribution.to_internal_repr(trial.params[name])
                if trial.state in _ENDED:  # of a running one it may yet change
                    known[trial.number] = value
            if value is not None:
                values.append(value)
        return {name: np.asarray(values)}


@contextmanager
def _splitting_once(history: Any) -> Iterator[None]:
    """Let Optuna rank the trials once for a suggestion: it does so anew for each dimension, which takes a third of its time.

    Where this Optuna ranks in another way, that stays as it is.
    """
    module = sys.modules[optuna.samplers.TPESampler.__module__]
    split = getattr(module, _SPLIT, None)
    if split is None or not isinstance(history, BoundedHistory):
        yield
        return

    def split_once(study: Any, trials: list[FrozenTrial], *rest: int) -> Any:
        known = (len(trials), *rest)
        if known not in history.splits:
            history.splits[known] = split(study, trials, *rest)
        return history.splits[known]

    setattr(module, _SPLIT, split_once)
    try:
        yield
    finally:
        setattr(module, _SPLIT, split)


def shown_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that a suggestion is made from, in the order of the study."""
    trials = study.get_trials(deepcopy=False)
    if len(study.directions) > 1:
        return trials
    ended = [trial for trial in trials if trial.state in _ENDED]
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    if len(ended) > MOST_ENDED:
        rising = study.direction == StudyDirection.MAXIMIZE
        best = heapq.nsmallest(BEST, ended, key=lambda trial: _rank(trial, rising))
        kept = {trial.number: trial for trial in (*best, *ended[BEST - MOST_ENDED :])}
        ended = [kept[number] for number in sorted(kept)]
    return sorted([*ended, *running[-MOST_RUNNING:]], key=lambda trial: trial.number)


def _rank(trial: FrozenTrial, rising: bool) -> tuple[float, ...]:
    """As TPE ranks: whole trials before stopped ones, of those the longest first, then by score."""
    if trial.state == TrialState.COMPLETE:
        return 0.0, 0.0, -trial.values[0] if rising else trial.values[0]
    if not trial.intermediate_values:
        return 2.0, 0.0, 0.0
    step = max(trial.intermediate_values)
    score = trial.intermediate_values[step]
    return 1.0, -float(step), -score if rising else score
