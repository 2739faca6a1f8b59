"""Practical equality: the tests, the posterior, and what a family of contrasts comes to."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from statsmodels.stats.weightstats import DescrStatsW

from ctxtune.statistics import compare_pairs, equivalence_p_value, holm, judge_family, practical_probabilities

DIFFERENCES = st.lists(st.floats(-0.05, 0.05), min_size=3, max_size=12).filter(lambda values: np.std(values) > 1e-6)


@given(DIFFERENCES, st.floats(0.001, 0.05))
def test_two_one_sided_tests_are_those_of_statsmodels(differences, margin):
    values = np.array(differences)
    expected = DescrStatsW(values).ttost_mean(-margin, margin)[0]
    assert equivalence_p_value(values, margin) == pytest.approx(float(expected), rel=1e-9, abs=1e-12)


@given(DIFFERENCES, st.floats(0.001, 0.05))
def test_the_posterior_is_a_t_distribution_around_the_mean(differences, margin):
    values = np.array(differences)
    found = practical_probabilities(values, margin)
    density = stats.t(len(values) - 1, loc=values.mean(), scale=stats.sem(values)).pdf
    inside = integrate.quad(
        density, -margin, margin, points=[float(np.clip(values.mean(), -margin, margin))], limit=500
    )
    assert found.equal == pytest.approx(inside[0], abs=1e-6)
    assert found.worse + found.equal + found.better == pytest.approx(1.0)
    mirrored = practical_probabilities(-values, margin)
    assert mirrored.worse == pytest.approx(found.better)


def test_differences_that_do_not_vary():
    same = np.full(4, 0.002)
    assert equivalence_p_value(same, 0.005) == 0.0
    assert equivalence_p_value(same, 0.001) == 1.0
    assert practical_probabilities(same, 0.001).better == 1.0
    assert np.isnan(equivalence_p_value(same[:1], 0.005))


def family():
    base = np.zeros(6)
    noise = np.array([0.9, -1.1, 0.4, -0.6, 1.2, -0.8]) * 1e-3
    return [
        compare_pairs(values, base) for values in (noise, noise + 0.02, noise - 0.02, 20 * noise, noise + 0.003, base)
    ]


def test_verdicts_with_a_margin():
    verdicts = judge_family(family(), equivalence=0.005)
    assert [each.judgment for each in verdicts] == [
        "practically equal", "better", "worse", "inconclusive", "practically equal", "no difference",
    ]  # fmt: skip
    assert verdicts[3].words.startswith("inconclusive: between −")
    assert verdicts[4].corrected_p < 0.05  # found, and found to be too small to matter


def test_verdicts_without_a_margin_never_say_equal():
    verdicts = judge_family(family())
    assert all(each.equivalence_p is None for each in verdicts)
    assert [each.judgment for each in verdicts] == [
        "inconclusive", "better", "worse", "inconclusive", "better", "no difference",
    ]  # fmt: skip


def test_equality_is_corrected_over_the_family():
    contrasts = family()
    plain = [equivalence_p_value(each.differences, 0.005) for each in contrasts]
    assert [each.equivalence_p for each in judge_family(contrasts, equivalence=0.005)] == holm(plain)
    waiting = judge_family(contrasts, equivalence=0.005, unfinished=4)
    assert all(
        more.equivalence_p >= less.equivalence_p
        for more, less in zip(waiting, judge_family(contrasts, equivalence=0.005), strict=True)
    )


def test_false_equalities_keep_the_level_where_the_difference_is_the_margin():
    """1,000 families of three contrasts over five seeds, each true difference exactly the margin."""
    generator = np.random.default_rng(3)
    differences = generator.normal(0.005, 0.002, (1000, 3, 5))
    error = differences.std(axis=2, ddof=1) / np.sqrt(5)
    p_values = stats.t.sf((0.005 - np.abs(differences.mean(axis=2))) / error, 4)
    first = differences[0, 0]
    assert equivalence_p_value(first, 0.005) == pytest.approx(p_values[0, 0])
    # The first step of Holm's procedure decides whether anything at all is called equal.
    false = (3 * p_values.min(axis=1) <= 0.05).mean()
    assert false < 0.05 + 3.5 * np.sqrt(0.05 * 0.95 / 1000)
