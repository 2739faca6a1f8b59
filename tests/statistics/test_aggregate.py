"""Over several data sets: random effects, ranks, probability of improvement, profiles."""

import numpy as np
import pytest
from scipy import stats

from ctxtune.statistics import (
    critical_rank_difference,
    performance_profile,
    probability_of_improvement,
    random_effects_interval,
    rank_intervals,
)


@pytest.mark.parametrize("sets", [3, 5, 6])
def test_random_effects_cover_the_mean_over_other_data_sets(sets):
    """Effects vary between data sets with standard deviation 0.02; five seeds each, of deviation 0.01."""
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        effects = generator.normal(0.01, 0.02, sets)
        seeds = effects[:, None] + generator.normal(0, 0.01, (sets, 5))
        found = random_effects_interval(list(seeds.mean(axis=1)), list(seeds.var(axis=1, ddof=1) / 5))
        held += found.low <= 0.01 <= found.high
    assert 0.93 <= held / 1000 <= 0.985


def test_data_sets_that_agree_give_a_number():
    found = random_effects_interval([0.02, 0.02, 0.02], [0.001, 0.002, 0.001])
    assert found.low < 0.02 < found.high


def test_random_effects_by_hand():
    # Two sets: equal weights, and the interval is that of a t-test of two values.
    found = random_effects_interval([0.02, 0.06], [0.0001, 0.0001])
    assert found.mean == pytest.approx(0.04)
    error = np.std([0.02, 0.06], ddof=1) / np.sqrt(2)
    assert found.high == pytest.approx(0.04 + stats.t.ppf(0.975, 1) * error)
    with pytest.raises(ValueError, match="two data sets"):
        random_effects_interval([0.1], [0.1])


def test_probability_of_improvement_is_the_mann_whitney_statistic():
    generator = np.random.default_rng(1)
    ours, theirs = generator.normal(0.3, 1, 7), generator.normal(0, 1, 9)
    expected = stats.mannwhitneyu(ours, theirs).statistic / 63
    found = probability_of_improvement([ours], [theirs])
    assert found.mean == pytest.approx(expected)
    assert found.low <= found.mean <= found.high
    assert probability_of_improvement([[1.0, 1.0]], [[1.0]]).mean == 0.5


def test_a_profile_falls_from_one_to_nothing():
    profile = performance_profile([[0.1, 0.5], [0.9, 0.9, 0.9, 0.9]], np.array([0.0, 0.3, 0.7, 1.0]))
    assert profile == pytest.approx([1.0, 0.75, 0.5, 0.0])


def test_the_critical_difference_is_demsars():
    # Demsar (2006), section 3.2.2: q is 2.569 for four classifiers, and with 14 data sets CD = 1.25.
    assert critical_rank_difference(4, 14) == pytest.approx(1.25, abs=0.005)


def test_intervals_of_ranks_hold_the_ranks():
    generator = np.random.default_rng(2)
    scores = [np.array([[0.5], [0.52], [0.6]]) + generator.normal(0, 0.02, (3, 6)) for _ in range(3)]
    found = rank_intervals(scores)
    assert [each.low <= each.mean <= each.high for each in found] == [True] * 3
    assert found[2].mean == 1.0
