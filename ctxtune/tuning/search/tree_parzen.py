"""TPE, the tree-structured Parzen estimator: where the good trials are dense and the others are not."""

from bisect import insort
from functools import cached_property
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ctxtune.tuning.search.parzen_window import density_of

MOST_ENDED, MOST_RUNNING = 1000, 250
"""Trials that a suggestion is made from: up to here all, beyond it the best and the latest."""
BEST = 50
"""Of the ended trials the best stay, however old."""
MOST_GOOD = 25
"""Good is a tenth of the ended trials, and no more than these."""
CANDIDATES = 24
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


class TrialHistory:
    """The trials of a study with one objective, as TPE learns from them; kept up from suggestion to suggestion.

    Optuna's own sampler ranks all trials and asks each of them where it lies, for each dimension of each suggestion, which
    takes it longer than the densities do.
    """

    def __init__(self) -> None:
        self._known = 0
        self._open: list[int] = []
        self._ended: list[int] = []
        self._best: list[tuple[float, float, int]] = []
        self._running: list[int] = []
        self._placed: dict[int, int] = {}
        self._shown, self._good = np.empty(0, int), np.empty(0, bool)
        self._places: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        """How many trials have ended, completed or stopped."""
        return len(self._ended)

    def update(self, study: optuna.Study, suggested: int) -> None:
        """Take in what has changed; ``suggested``: the trial that a point is looked for."""
        trials = study.get_trials(deepcopy=False)
        looked_at = [*self._open, *range(self._known, len(trials))]
        self._known, self._open, self._running = len(trials), [], []
        for trial in map(trials.__getitem__, looked_at):
            if trial.state in _ENDED:
                self._place(trial)
                self._placed.pop(trial.number)
                insort(self._ended, trial.number)
                insort(self._best, _rank(trial, study.direction == StudyDirection.MAXIMIZE))
                del self._best[BEST:]
            elif not trial.state.is_finished():
                self._open.append(trial.number)
                if trial.state == TrialState.RUNNING and trial.number != suggested:
                    self._running.append(trial.number)
        del self._running[:-MOST_RUNNING]
        for number in self._running:
            self._place(trials[number])
        self._shown = np.array(sorted(self._shown_numbers()), int)
        ended = len(self._shown) - len(self._running)
        good = [number for *_, number in self._best[: min(-(-ended // 10), MOST_GOOD)]]
        self._good = np.isin(self._shown, good)

    def good_and_other(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Where the best tenth of the shown trials lies in a dimension, and where all others do, the oldest first.

        Those that are still running are among the others, so that parallel suggestions keep apart.
        """
        places = self._places.get(name, np.empty(0))
        return _known_places(places, self._shown[self._good]), _known_places(places, self._shown[~self._good])

    def _shown_numbers(self) -> list[int]:
        if len(self._ended) <= MOST_ENDED:
            return [*self._ended, *self._running]
        best = {number for *_, number in self._best}
        return [*best.union(self._ended[BEST - MOST_ENDED :]), *self._running]

    def _place(self, trial: FrozenTrial) -> None:
        if self._placed.get(trial.number) == len(trial.params):
            return
        self._placed[trial.number] = len(trial.params)
        for name, value in trial.params.items():
            places = self._places.get(name, np.empty(0))
            if len(places) <= trial.number:
                places = np.concatenate([places, np.full(max(64, trial.number + 1), np.nan)])
                self._places[name] = places
            places[trial.number] = trial.distributions[name].to_internal_repr(value)


def _known_places(places: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    found = places[numbers[numbers < len(places)]]
    return np.asarray(found[~np.isnan(found)])


def _rank(trial: FrozenTrial, rising: bool) -> tuple[float, float, int]:
    """Sorts the best first: whole trials before stopped ones, of those the longest first, then by score, the older first."""
    sign = -1.0 if rising else 1.0
    if trial.state == TrialState.COMPLETE:
        return -np.inf, sign * trial.values[0], trial.number
    if not trial.intermediate_values:
        return np.inf, 0.0, trial.number
    step = max(trial.intermediate_values)
    score = sign * trial.intermediate_values[step]
    return -float(step), np.inf if np.isnan(score) else score, trial.number


class TreeParzenSampler(BaseSampler):
    """Suggests each dimension by itself, the candidate that lies most among the good trials and least among the others.

    As `optuna.samplers.TPESampler` does with ``constant_liar`` and without ``multivariate``, but for a search of more than
    ``MOST_ENDED`` trials, of which it learns from a part.

    Args:
        history: of the study that is asked; one serves all suggestions.
        startup_trials: suggestions are random until so many trials have ended.

    >>> study = optuna.create_study(direction="maximize")
    >>> history = TrialHistory()
    >>> for number in range(30):
    ...     study.sampler = TreeParzenSampler(history, seed=number, startup_trials=10)
    ...     trial = study.ask()
    ...     study.tell(trial, -((trial.suggest_float("margin", 0, 1) - 0.3) ** 2)) and None
    >>> 0.2 < study.best_params["margin"] < 0.4
    True
    """

    def __init__(self, history: TrialHistory, *, seed: int, startup_trials: int) -> None:
        self._history, self._seed, self._startup_trials = history, seed, startup_trials

    @cached_property
    def _random(self) -> np.random.RandomState:
        return np.random.RandomState(self._seed)

    @cached_property
    def _startup(self) -> BaseSampler:
        return optuna.samplers.RandomSampler(seed=self._seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """No dimension is suggested together with others; called once for each trial."""
        self._history.update(study, trial.number)
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The suggestion of one dimension."""
        if len(self._history) < self._startup_trials:
            return self._startup.sample_independent(study, trial, param_name, param_distribution)
        good, other = (density_of(places, param_distribution) for places in self._history.good_and_other(param_name))
        candidates = good.draw(self._random, CANDIDATES)
        promise = good.log_density(candidates) - other.log_density(candidates)
        return param_distribution.to_external_repr(candidates[np.argmax(promise)].item())
