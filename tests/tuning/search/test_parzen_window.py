"""The density along one dimension: Optuna's, value for value and draw for draw, and a density."""

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from scipy import integrate

from ctxtune.tuning.search.parzen_window import density_of

DIMENSIONS = {
    "uniform": FloatDistribution(-2, 3),
    "loguniform": FloatDistribution(1e-5, 1e-1, log=True),
    "quniform": FloatDistribution(0, 1, step=0.05),
    "int": IntDistribution(1, 20),
    "int with a step": IntDistribution(4, 64, step=4),
    "logint": IntDistribution(1, 256, log=True),
    "choice": CategoricalDistribution(["a", "b", "c"]),
}
PLACES = st.lists(st.floats(0, 1), max_size=60)
each_dimension = pytest.mark.parametrize("dimension", DIMENSIONS.values(), ids=DIMENSIONS)


def at(dimension: BaseDistribution, shares: list[float]) -> np.ndarray:
    """Values of a dimension, in Optuna's internal representation, so far along it."""
    if isinstance(dimension, CategoricalDistribution):
        return np.array([min(int(share * len(dimension.choices)), len(dimension.choices) - 1) for share in shares])
    low, high = dimension.low, dimension.high
    shares = np.array(shares)
    values = low * (high / low) ** shares if dimension.log else low + shares * (high - low)
    if dimension.step:
        values = low + np.round((values - low) / dimension.step) * dimension.step
    return np.clip(values, low, high)


def optunas(observed: np.ndarray, dimension: BaseDistribution):
    """The density that Optuna's sampler makes of the same."""
    if not optuna.__version__.startswith("5."):
        pytest.skip("compares with the densities of Optuna 5")
    from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator

    parameters = optuna.samplers.TPESampler(multivariate=False)._parzen_estimator_parameters
    return _ParzenEstimator({"x": observed.astype(float)}, {"x": dimension}, parameters)


@each_dimension
@given(shares=PLACES, asked=st.lists(st.floats(0, 1), min_size=1, max_size=24))
def test_it_is_optunas(dimension, shares, asked):
    observed, values = at(dimension, shares), at(dimension, asked)
    theirs = optunas(observed, dimension).log_pdf({"x": values.astype(float)})
    ours = density_of(observed, dimension).log_density(values)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


@each_dimension
@given(shares=PLACES, seed=st.integers(0, 2**32 - 1))
def test_the_same_random_numbers_draw_what_optuna_draws(dimension, shares, seed):
    observed = at(dimension, shares)
    theirs = optunas(observed, dimension).sample(np.random.RandomState(seed), 24)["x"]
    ours = density_of(observed, dimension).draw(np.random.RandomState(seed), 24)
    width = 1 if isinstance(dimension, CategoricalDistribution) else dimension.high - dimension.low
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7 * width)


@each_dimension
@given(shares=PLACES)
def test_it_is_one_in_all(dimension, shares):
    density = density_of(at(dimension, shares), dimension)
    if isinstance(dimension, CategoricalDistribution):
        every = np.arange(len(dimension.choices))
        assert np.exp(density.log_density(every)).sum() == pytest.approx(1)
    elif dimension.step:
        every = np.arange(dimension.low, dimension.high + dimension.step / 2, dimension.step)
        assert np.exp(density.log_density(every)).sum() == pytest.approx(1)
    else:
        ends = np.log([dimension.low, dimension.high]) if dimension.log else np.array([dimension.low, dimension.high])
        points = np.linspace(*ends, 20_001)
        heights = np.exp(
            density.log_density(np.exp(points).clip(dimension.low, dimension.high) if dimension.log else points)
        )
        assert integrate.simpson(heights, x=points) == pytest.approx(1, abs=1e-5)


@each_dimension
@given(shares=PLACES, seed=st.integers(0, 2**32 - 1))
def test_what_it_draws_lies_in_the_dimension(dimension, shares, seed):
    drawn = density_of(at(dimension, shares), dimension).draw(np.random.RandomState(seed), 24)
    for value in drawn:
        assert dimension._contains(value)


def test_where_good_trials_are_it_is_densest():
    density = density_of(np.array([0.4, 0.42, 0.44, 0.9]), FloatDistribution(0, 1))
    heights = density.log_density(np.linspace(0, 1, 101))
    assert 0.38 <= np.argmax(heights) / 100 <= 0.46


def test_of_many_trials_the_older_count_less():
    old, new = np.full(100, 0.2), np.full(100, 0.8)
    density = density_of(np.concatenate([old, new]), FloatDistribution(0, 1))
    low, high = np.exp(density.log_density(np.array([0.2, 0.8])))
    assert high > 1.5 * low


def test_a_trial_at_the_end_of_a_dimension_or_beyond_it_breaks_nothing():
    for observed in ([0.0, 1.0], [0.0, 0.0], [-80.0, 0.5, 300.0]):
        density = density_of(np.array(observed), FloatDistribution(0, 1))
        assert np.isfinite(density.log_density(np.linspace(0, 1, 11))).all()
        assert ((drawn := density.draw(np.random.RandomState(0), 100)) >= 0).all() and (drawn <= 1).all()
