"""Planning: what it promises is what simulated studies do, within two points of power."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy import integrate, stats

from ctxtune.statistics import (
    detectable_difference,
    deviation_limit,
    equivalence_p_value,
    equivalence_power,
    pairs_for_equivalence,
    pairs_needed,
)

STUDIES = 20_000


def found_different(difference: float, deviation: float, count: int, level: float) -> float:
    samples = np.random.default_rng(1).normal(difference, deviation, (STUDIES, count))
    return float((stats.ttest_1samp(samples, 0.0, axis=1).pvalue <= level).mean())


def found_equal(margin: float, deviation: float, count: int, level: float, difference: float = 0.0) -> float:
    samples = np.random.default_rng(2).normal(difference, deviation, (STUDIES, count))
    error = samples.std(axis=1, ddof=1) / np.sqrt(count)
    p_values = stats.t.sf((margin - np.abs(samples.mean(axis=1))) / error, count - 1)
    assert equivalence_p_value(samples[0], margin) == pytest.approx(p_values[0])
    return float((p_values <= level).mean())


@pytest.mark.parametrize(("count", "level"), [(3, 0.05), (5, 0.05), (5, 0.05 / 9), (10, 0.0125), (40, 0.05)])
def test_the_detectable_difference_is_found_with_the_power_promised(count, level):
    difference = detectable_difference(0.01, count, level)
    assert found_different(difference, 0.01, count, level) == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("level", [0.05, 0.05 / 4])
def test_the_seeds_for_a_wanted_difference_reach_the_power(level):
    count = pairs_needed(0.9, level)
    assert count is not None
    assert found_different(0.009, 0.01, count, level) >= 0.78
    assert found_different(0.009, 0.01, count - 1, level) <= 0.82


@pytest.mark.parametrize(("margin", "count", "difference"), [(0.005, 8, 0.0), (0.01, 5, 0.0), (0.008, 12, 0.003)])
def test_the_power_of_showing_equality(margin, count, difference):
    promised = equivalence_power(margin, 0.006, count, 0.05, difference)
    assert found_equal(margin, 0.006, count, 0.05, difference) == pytest.approx(promised, abs=0.02)


def test_the_seeds_for_equality_reach_the_power():
    count = pairs_for_equivalence(0.005, 0.006, 0.05 / 3)
    assert count is not None
    assert found_equal(0.005, 0.006, count, 0.05 / 3) >= 0.78
    assert equivalence_power(0.005, 0.006, count - 1, 0.05 / 3) < 0.8
    assert pairs_for_equivalence(1e-6, 1.0, 0.05) is None


def test_the_limit_of_a_pilots_deviation_covers():
    samples = np.random.default_rng(4).normal(0.0, 1.0, (STUDIES, 5)).std(axis=1, ddof=1)
    factor = deviation_limit(1.0, 5)
    assert (samples * factor >= 1.0).mean() == pytest.approx(0.8, abs=0.02)
    assert np.isnan(deviation_limit(1.0, 1))


@given(
    margin=some.floats(0.002, 0.05),
    deviation=some.floats(0.001, 0.05),
    count=some.sampled_from([2, 3, 5, 20, 300]),
    level=some.sampled_from([0.1, 0.05, 0.005]),
    difference=some.floats(-0.02, 0.02),
)
def test_the_power_of_equivalence_is_that_of_adaptive_quadrature(margin, deviation, count, level, difference):
    degrees, error = count - 1, deviation / math.sqrt(count)
    critical = stats.t.isf(level, degrees)

    def below(z: float) -> float:
        return math.erfc(-z / math.sqrt(2)) / 2

    def at(variance: float) -> float:
        """Over the sample's variance, in units of the true one: the normal probability times the density of chi squared."""
        reach = margin - critical * error * math.sqrt(variance)
        inside = below((reach - difference) / error) - below((-reach - difference) / error)
        x, half = max(variance * degrees, 1e-300), degrees / 2
        return inside * degrees * math.exp((half - 1) * math.log(x) - x / 2 - math.lgamma(half) - half * math.log(2))

    upper = min((margin / (critical * error)) ** 2, 1 + 40 * math.sqrt(2 / degrees))
    expected, _ = integrate.quad(at, 0, upper, limit=500, points=[0.5, 1, 2] if upper > 2 else None)
    assert equivalence_power(margin, deviation, count, level, difference) == pytest.approx(expected, abs=2e-6)
