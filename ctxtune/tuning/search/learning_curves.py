"""What a stopped trial would have come to: its final score, as far as the trials that went on tell.

A model that learns from complete trials alone knows, under early stopping, one point in ten. Told the last score of every
trial as if it were final, it would take a short training for a poor configuration.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

PRIOR_PAIRS = 3
"""So many imagined trials say that a difference early is the same difference later."""
BEST, LATEST = 100, 300
"""Trials that a model learns from: a Gaussian process takes time by the cube of their number."""
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
_WITH_SCORES = (*_ENDED, TrialState.RUNNING)
Curve = Mapping[int, float]
Line = tuple[int, float, float, float]
"""The step that it leads to, its slope, and the two scores that it goes through."""


def final_scores(curves: Sequence[Curve], stops: Collection[int]) -> list[float]:
    """The score of each trial at the last step that any has reached.

    From each step to the next one at which trials have ended, a line is fitted to the trials that were scored at both. A
    trial follows these lines from its last step on.

    Args:
        curves: scores by step; none is empty.
        stops: steps at which a trial has ended.

    >>> final_scores([{1: 0.25, 3: 0.5}, {1: 0.5, 3: 0.75}, {1: 0.0}], [1, 3])
    [0.5, 0.75, 0.25]
    """
    steps = sorted({step for curve in curves for step in curve})
    last = steps[-1]
    lines = {step: _line(curves, step, min((s for s in stops if s > step), default=last)) for step in steps[:-1]}
    return [_followed(curve, lines, last) for curve in curves]


def _line(curves: Sequence[Curve], step: int, end: int) -> Line:
    scored = [(curve[step], curve[end]) for curve in curves if step in curve and end in curve]
    if not scored:
        return end, 1.0, 0.0, 0.0
    pairs = np.array(scored)
    early, late = pairs.mean(0)
    spread = np.var(pairs[:, 0])
    together = np.mean((pairs[:, 0] - early) * (pairs[:, 1] - late))
    count = len(pairs)
    slope = (count * together + PRIOR_PAIRS * spread) / ((count + PRIOR_PAIRS) * spread) if spread > 0 else 1.0
    return end, max(float(slope), 0.0), float(early), float(late)


def _followed(curve: Curve, lines: Mapping[int, Line], last: int) -> float:
    step = max(curve)
    score = curve[step]
    while step != last:
        step, slope, early, late = lines[step]
        score = late + slope * (score - early)
    return score


def completed(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials as complete ones: stopped and running ones with the final score that is expected of them.

    One that runs and has not reported yet has the mean, so that suggestions keep apart. Failed ones are left out, and
    where nothing was reported at all, all that are not complete.
    """
    scored = [trial for trial in trials if trial.state in _WITH_SCORES and trial.intermediate_values]
    if not scored:
        return [trial for trial in trials if trial.state == TrialState.COMPLETE]
    stops = {max(trial.intermediate_values) for trial in scored if trial.state in _ENDED}
    scores = final_scores([trial.intermediate_values for trial in scored], stops)
    expected = {trial.number: score for trial, score in zip(scored, scores, strict=True)}
    mean = float(np.mean(scores))
    return [
        trial if trial.state == TrialState.COMPLETE else _with_score(trial, expected.get(trial.number, mean))
        for trial in trials
        if trial.state in _WITH_SCORES and trial.params
    ]


def _with_score(trial: FrozenTrial, score: float) -> FrozenTrial:
    made = create_trial(value=score, params=trial.params, distributions=trial.distributions)
    made.number = trial.number
    return made


class CurveHistory:
    """A study whose trials are all `completed`, the best and the latest of them; everything else is the study's own."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        shown = completed(study.get_trials(deepcopy=False))
        by_score = sorted(shown, key=lambda trial: trial.values[0], reverse=study.direction == StudyDirection.MAXIMIZE)
        kept = {trial.number for trial in (*by_score[:BEST], *shown[-LATEST:])}
        self._shown = [trial for trial in shown if trial.number in kept]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Collection[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [trial for trial in self._shown if states is None or trial.state in states]


class CurveSampler(BaseSampler):
    """Another sampler, one that learns from complete trials of one objective, shown all trials with their final scores."""

    def __init__(self, sampler: BaseSampler) -> None:
        self._sampler = sampler

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As the sampler does."""
        return self._sampler.infer_relative_search_space(_history(study), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The sampler's suggestion of several dimensions at once."""
        return self._sampler.sample_relative(_history(study), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The sampler's suggestion of one dimension."""
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)


def _history(study: optuna.Study) -> optuna.Study:
    return cast(optuna.Study, CurveHistory(study))
