"""Suggested numbers as people write them: five significant digits, so that tables, MLflow and YAML can be read."""

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

SIGNIFICANT_DIGITS = 5


def rounded(value: float, low: float, high: float) -> float:
    """``value`` to five significant digits, and still within the bounds.

    >>> rounded(0.000123456789, 1e-5, 1e-2)
    0.00012346
    """
    return min(max(float(f"{value:.{SIGNIFICANT_DIGITS}g}"), low), high)


class RoundingSampler(BaseSampler):
    """Another sampler's suggestions, rounded where the dimension is continuous.

    Rounded before the trial has them, so that the sampler learns from what was run, and a study that is rebuilt from
    what was run is the same study.
    """

    def __init__(self, sampler: BaseSampler) -> None:
        self._sampler = sampler

    def reseed_rng(self) -> None:
        """As the sampler does."""
        self._sampler.reseed_rng()

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As the sampler does."""
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, object]:
        """The sampler's suggestion of several dimensions at once, rounded."""
        values = self._sampler.sample_relative(study, trial, search_space)
        return {name: _rounded_in(search_space[name], value) for name, value in values.items()}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> object:
        """The sampler's suggestion of one dimension, rounded."""
        value = self._sampler.sample_independent(study, trial, param_name, param_distribution)
        return _rounded_in(param_distribution, value)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """As the sampler does."""
        self._sampler.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """As the sampler does."""
        self._sampler.after_trial(study, trial, state, values)


def _rounded_in(distribution: BaseDistribution, value: Any) -> Any:
    if isinstance(distribution, FloatDistribution) and distribution.step is None:
        return rounded(float(value), distribution.low, distribution.high)
    return value
