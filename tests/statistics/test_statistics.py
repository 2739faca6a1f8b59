"""The statistics against published worked examples, R, scipy, and simulated experiments without any effect."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from ctxtune.statistics import (
    ArmClassScores,
    bootstrap_interval,
    compare_pairs,
    describe,
    detectable_effect,
    hedges_effect_size,
    hierarchical_interval,
    holm,
    interquartile_interval,
    interquartile_mean,
    judge_family,
    mean_ranks,
    pairs_needed,
    t_interval,
    wilcoxon_can_reach,
)

# Student (1908), R's `sleep`: additional hours of sleep of ten patients under two drugs.
SLEEP_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SLEEP_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
# Hollander and Wolfe (1973), example 3.1, in R's help of wilcox.test: depression before and after therapy.
DEPRESSION_1 = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
DEPRESSION_2 = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]


def test_students_sleep_data() -> None:
    # R: t.test(x, y, paired = TRUE): t = 4.0621, df = 9, p = 0.002833, interval 0.7001142 2.4598858, mean 1.58
    found = compare_pairs(SLEEP_2, SLEEP_1)
    assert found.p_value == pytest.approx(0.002833, abs=5e-7)
    assert (found.interval.mean, found.interval.low, found.interval.high) == pytest.approx(
        (1.58, 0.7001142, 2.4598858), abs=1e-7
    )
    # d_z = t / sqrt(n) = 1.2846; Hedges' exact factor at 9 degrees is 0.9139 (Hedges 1981, table 1: 0.914)
    assert found.effect_size == pytest.approx(4.0621277 / math.sqrt(10) * 0.9139, abs=2e-4)
    assert found.bootstrap.low < 1.58 < found.bootstrap.high


def test_hollander_and_wolfes_depression_data() -> None:
    # R: wilcox.test(x, y, paired = TRUE, alternative = "greater"): V = 40, p = 0.01953
    assert compare_pairs(DEPRESSION_1, DEPRESSION_2).wilcoxon_p == pytest.approx(0.0390625)


def test_holms_adjustment_as_r_gives_it() -> None:
    # R: p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm"), and an example with a tie of the running maximum
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    adjusted = holm([0.04, math.nan, 0.001, 0.02])
    assert adjusted[:1] + adjusted[2:] == pytest.approx([0.08, 0.004, 0.06])
    assert math.isnan(adjusted[1])
    assert holm([]) == []


def test_holms_adjustment_is_statsmodels() -> None:
    p_values = np.random.default_rng(0).beta(0.3, 3, 40).round(3).tolist()  # with ties; statsmodels takes its time
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist(), abs=1e-15)


def test_sample_sizes_as_gpower_gives_them() -> None:
    # G*Power 3, t-test, matched pairs, two tails, power 0.8: d_z 0.5, alpha 0.05: 34; 0.8: 15; 0.2: 199; 0.5 at 0.01: 51
    assert [pairs_needed(size, 0.05) for size in (0.5, 0.8, 0.2)] == [34, 15, 199]
    assert pairs_needed(-0.5, 0.01) == 51
    assert pairs_needed(0.0, 0.05) is None
    assert pairs_needed(40.0, 0.05) in (2, 3)


@pytest.mark.parametrize("count", [3, 5, 10, 34])
def test_what_can_be_detected_takes_as_many_pairs(count: int) -> None:
    effect = detectable_effect(count, 0.05)
    assert pairs_needed(effect * 1.001, 0.05) == count


def test_t_and_bootstrap_intervals_against_scipy() -> None:
    values = np.random.default_rng(3).normal(0.7, 0.02, 12)
    reference = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (t_interval(values).low, t_interval(values).high) == pytest.approx((reference.low, reference.high))
    many = np.random.default_rng(3).normal(0.7, 0.02, 300)
    assert bootstrap_interval(many).low == pytest.approx(t_interval(many).low, abs=0.0005)
    assert bootstrap_interval(many).high == pytest.approx(t_interval(many).high, abs=0.0005)
    assert math.isnan(describe([0.5]).interval.low)
    assert describe([0.5] * 5).bootstrap.high == 0.5
    assert math.isnan(describe([0.4, 0.5, 0.6, 0.7]).bootstrap.high)  # of so few it would be their range


@given(st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=3, max_size=12), st.floats(-1, 1))
def test_a_contrast_turns_round_with_its_arms(differences: list[float], shift: float) -> None:
    ours = np.asarray(differences)
    forth, back = compare_pairs(ours, np.full(len(ours), shift)), compare_pairs(np.full(len(ours), shift), ours)
    assert forth.interval.mean == pytest.approx(-back.interval.mean)
    assert forth.p_value == pytest.approx(back.p_value, nan_ok=True)
    assert forth.effect_size == pytest.approx(-back.effect_size, nan_ok=True)


def test_the_signed_rank_test_is_shown_only_where_it_could_say_something() -> None:
    assert not wilcoxon_can_reach(5, 0.05)  # 2 / 32
    assert wilcoxon_can_reach(6, 0.05)
    assert not wilcoxon_can_reach(6, 0.05 / 2)
    generator = np.random.default_rng(0)
    few = compare_pairs(generator.normal(1, 0.1, 5), np.zeros(5))
    many = compare_pairs(generator.normal(1, 0.1, 8), np.zeros(8))
    assert [verdict.wilcoxon_p is None for verdict in judge_family([few, many])] == [True, False]


def test_verdicts_in_plain_words() -> None:
    base = np.zeros(5)
    clear, reverse = np.array([2.0, 2.1, 1.9, 2.2, 1.8]), np.array([-2.0, -2.1, -1.9, -2.2, -1.8])
    vague, none = np.array([1.0, 0.2, 2.1, -0.2, 1.2]), np.array([1.0, -1.1, 0.2, -0.9, 0.85])
    family = [compare_pairs(values, base) for values in (clear, reverse, vague, none, base, np.full(5, 0.25))]
    verdicts = judge_family(family)
    assert [verdict.judgment for verdict in verdicts] == [
        "better", "worse", "inconclusive", "inconclusive", "no difference", "cannot be tested",
    ]  # fmt: skip
    low, high = family[2].interval.low, family[2].interval.high
    assert verdicts[2].words == f"inconclusive: between {100 * low:+.2f} and {100 * high:+.2f}".replace("-", "−")
    assert [verdict.words for verdict in judge_family(family[:2], mode="min")] == ["worse", "better"]
    assert judge_family([compare_pairs([1.0], [0.5])])[0].words == "inconclusive"


def test_families_keep_their_level_when_there_is_no_effect() -> None:
    """2,000 experiments: four arms against one reference over five seeds, no arm different from another."""
    generator = np.random.default_rng(1)
    luck, own = generator.normal(0, 0.02, (2000, 1, 5)), generator.normal(0, 0.01, (2000, 5, 5))
    arms = luck + own  # the seed's luck is shared: the arms are paired
    differences = arms[:, 1:] - arms[:, :1]
    p_values = stats.ttest_1samp(differences, 0.0, axis=2).pvalue
    first = differences[0, 0]
    assert compare_pairs(arms[0, 1], arms[0, 0]).p_value == pytest.approx(stats.ttest_1samp(first, 0).pvalue)
    single = (p_values[:, 0] <= 0.05).mean()
    smallest = np.sort(p_values, axis=1)[:, 0]
    # The first step of Holm's procedure decides whether anything at all is rejected.
    assert [min(holm(row)) for row in p_values[:20]] == pytest.approx(np.minimum(4 * smallest[:20], 1).tolist())
    family = (4 * smallest <= 0.05).mean()
    deviation = math.sqrt(0.05 * 0.95 / 2000)
    assert abs(single - 0.05) < 3.5 * deviation
    assert 0.015 < family < 0.05 + 3.5 * deviation  # below 0.05: contrasts with one reference are dependent


@pytest.mark.slow
def test_the_whole_judgment_keeps_its_level_when_there_is_no_effect() -> None:
    generator = np.random.default_rng(2)
    false = 0
    for _ in range(25):
        arms = generator.normal(0, 0.01, (3, 5))
        verdicts = judge_family([compare_pairs(arm, arms[0]) for arm in arms[1:]])
        false += any(verdict.judgment in ("better", "worse") for verdict in verdicts)
    assert false <= 5  # 1.25 expected; more than five in about one of 1,000 such simulations


def _crossed(
    generator: np.random.Generator, seeds: int, classes: int, effect: float
) -> tuple[ArmClassScores, ArmClassScores]:
    """Two arms whose difference varies from class to class and from seed to seed."""
    by_class, by_seed = generator.normal(0, 0.06, classes), generator.normal(0, 0.01, (seeds, 1))
    noise = generator.normal(0, 0.05, (2, seeds, classes))
    counts = np.full((seeds, classes), 20.0)
    base = 0.5 + generator.normal(0, 0.2, classes)
    ours = (base + effect + by_class + by_seed + noise[0]) * counts
    return ArmClassScores(ours, counts), ArmClassScores((base + noise[1]) * counts, counts)


def test_resampling_seeds_and_classes_covers_the_true_difference() -> None:
    generator = np.random.default_rng(5)
    held, narrow = 0, 0
    for experiment in range(300):
        ours, theirs = _crossed(generator, 5, 40, 0.03)
        found = hierarchical_interval([ours], [theirs], resamples=400, seed=experiment)
        held += found.low <= 0.03 <= found.high
        seeds_only = t_interval((ours.sums.sum(1) - theirs.sums.sum(1)) / ours.counts.sum(1))
        narrow += seeds_only.low <= 0.03 <= seeds_only.high
    assert 0.90 <= held / 300 <= 0.99
    # The interval over seeds holds for these 40 classes only, and misses the difference on other classes.
    assert narrow / 300 < 0.90


def test_resampling_is_over_folds_and_the_mean_is_the_plain_one() -> None:
    generator = np.random.default_rng(6)
    folds = [_crossed(generator, 4, 20, 0.1), _crossed(generator, 4, 25, 0.3)]
    found = hierarchical_interval([fold[0] for fold in folds], [fold[1] for fold in folds])
    plain = [
        (ours.sums.sum(1) / ours.counts.sum(1) - theirs.sums.sum(1) / theirs.counts.sum(1)) for ours, theirs in folds
    ]
    assert found.mean == pytest.approx(np.mean(plain))
    assert found.low < found.mean < found.high
    with pytest.raises(ValueError, match="same units and classes"):
        hierarchical_interval([folds[0][0]], [folds[1][1]])


def test_ranks_and_interquartile_means() -> None:
    # Demsar (2006), table 6 in small: ranks per data set, ties shared
    means = np.array([[0.763, 0.768, 0.771], [0.599, 0.590, 0.590], [0.954, 0.971, 0.968]])
    assert mean_ranks(means) == pytest.approx([7 / 3, 5.5 / 3, 5.5 / 3])
    assert mean_ranks(means, "min") == pytest.approx([5 / 3, 6.5 / 3, 6.5 / 3])
    scores = [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 70.0]]
    assert interquartile_mean(np.array(scores)) == pytest.approx(3.5)  # 2, 3, 4, 5: the outlier has no say
    found = interquartile_interval(scores)
    assert found.mean == pytest.approx(3.5)
    assert found.low < 3.5 < found.high
    assert interquartile_interval({"a": [0.5], "b": [0.7, 0.8]}).mean == pytest.approx(0.7, abs=0.1)


def test_hedges_factor_takes_out_the_bias_of_few_seeds() -> None:
    samples = np.random.default_rng(8).normal(0.5, 1.0, (20_000, 5))
    plain = samples.mean(1) / samples.std(1, ddof=1)
    corrected = np.mean([hedges_effect_size(row) for row in samples[:4000]])
    assert plain.mean() > 0.6  # biased upwards by a quarter
    assert corrected == pytest.approx(0.5, abs=0.04)


def test_pairs_must_match() -> None:
    with pytest.raises(ValueError, match="pairs"):
        compare_pairs([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="pairs"):
        compare_pairs([], [])
