"""An ablation planned by a pilot: deviations read from its runs, and what is promised against simulated studies."""

import numpy as np
import pytest
from scipy import stats

from ctxtune.results.ablation import AblationResults
from ctxtune.results.designs import AblationDesign
from ctxtune.results.planning import planned_power
from ctxtune.results.runs import Run
from ctxtune.statistics import compare_pairs, judge_family, paired_p_value

METRIC = "validation/map_at_r"


def results_of(scores: dict[str, list[float]], **design) -> AblationResults:
    """An ablation with one run a seed; the first arm is the reference."""
    first, *others = scores
    plan = {
        "name": "pilot", "metric": METRIC, "reference": first, "seeds": len(scores[first]), "dataset": "glyphs",
        "variants": list(scores), "cells": [{"cell": name, "variant": name} for name in scores],
        "contrasts": [{"cell": name, "against": first} for name in others],
    }  # fmt: skip
    runs = tuple(
        Run(f"{arm}-{seed}", "cell", arm, "completed", seed_index=seed, metrics={METRIC: value})
        for arm, values in scores.items()
        for seed, value in enumerate(values)
    )
    return AblationResults(AblationDesign.model_validate({**plan, **design}), runs, ended=True)


def pilot(deviations: list[float], seeds: int = 5) -> AblationResults:
    """Arms whose differences to the reference have exactly these standard deviations."""
    base = np.linspace(0.40, 0.44, seeds)
    shape = np.arange(seeds) - (seeds - 1) / 2
    shape /= shape.std(ddof=1)
    arms = {f"arm{index}": list(base + deviation * shape) for index, deviation in enumerate(deviations)}
    return results_of({"full": list(base), **arms})


def test_each_contrast_is_planned_by_its_own_deviation():
    found = planned_power(pilot([0.01, 0.02]).design, pilot([0.01, 0.02]), 0.01)
    assert found.level == 0.025
    assert [each.deviation for each in found.by_deviation] == pytest.approx([0.01, 0.02])
    assert found.by_deviation[1].detectable == pytest.approx(2 * found.by_deviation[0].detectable)
    assert found.by_deviation[1].needed > found.by_deviation[0].needed
    for each, most in zip(found.by_deviation, found.by_limit, strict=True):
        assert each.own and most.deviation > each.deviation and most.needed >= each.needed and each.equal is None


def test_a_contrast_that_the_pilot_lacks_has_the_deviation_of_the_others_together():
    design = results_of({"full": [0.4] * 5, "new": [0.4] * 5}, equivalence=0.005).design
    (found,) = planned_power(design, pilot([0.01, 0.02]), 0.01).by_deviation
    assert not found.own
    assert found.deviation == pytest.approx(np.sqrt((0.01**2 + 0.02**2) / 2))
    assert found.equal is not None


def test_a_pilot_without_pairs_plans_nothing():
    lonely = results_of({"full": [0.4, 0.5, 0.6], "arm": [0.4]})
    with pytest.raises(ValueError, match="no two seeds of a contrast"):
        planned_power(lonely.design, lonely, 0.01)


@pytest.mark.parametrize(("deviations", "seeds"), [([0.01], 5), ([0.006, 0.012, 0.02], 8)])
def test_studies_find_what_was_promised_within_two_points_of_power(deviations, seeds):
    """Whole families, corrected by Holm: one arm is better by the detectable difference, the others by nothing."""
    arms = {f"arm{index}": [0.4] * seeds for index in range(len(deviations))}
    planned = planned_power(results_of({"full": [0.4] * seeds, **arms}).design, pilot(deviations), 0.01)
    first = planned.by_deviation[0]
    generator, studies = np.random.default_rng(0), 4000
    truth = np.array([first.detectable, *[0.0] * (len(deviations) - 1)])
    samples = generator.normal(truth[:, None], np.array(deviations)[:, None], (studies, len(deviations), seeds))
    p_values = stats.ttest_1samp(samples, 0.0, axis=2).pvalue
    assert paired_p_value(samples[0, 0]) == pytest.approx(p_values[0, 0])
    # Holm's procedure by hand: steps are passed from the smallest p on, the n-th of m against 0.05 / (m - n).
    order = np.argsort(p_values, axis=1)
    steps = np.take_along_axis(p_values, order, axis=1) <= 0.05 / (len(deviations) - np.arange(len(deviations)))
    passed = np.logical_and.accumulate(steps, axis=1)
    found = (passed & (order == 0)).any(axis=1).mean()
    assert found == pytest.approx(0.8, abs=0.02)


def test_the_first_step_of_holm_is_what_a_family_is_judged_by():
    base = np.zeros(6)
    noise = np.array([0.9, -1.1, 0.4, -0.6, 1.2, -0.8]) * 1e-3
    family = [compare_pairs(values, base) for values in (noise + 0.002, noise, -noise)]
    assert judge_family(family)[0].corrected_p == pytest.approx(3 * family[0].p_value)


def test_probabilities_follow_the_direction_and_are_asked_for():
    scores = {"full": [0.40, 0.41, 0.39, 0.40], "arm": [0.43, 0.45, 0.42, 0.44]}
    assert results_of(scores, equivalence=0.005).contrasts[0].probabilities is None
    more = results_of(scores, equivalence=0.005, probabilities=True).contrasts[0].probabilities
    less = results_of(scores, equivalence=0.005, probabilities=True, mode="min").contrasts[0].probabilities
    assert more.better > 0.99 and less.worse == pytest.approx(more.better)
    draws = np.random.default_rng(0)
    # By hand: the posterior of a normal sample under the flat prior, sampled in its two steps (variance, then mean).
    differences = np.array(scores["arm"]) - scores["full"]
    variance = 3 * differences.var(ddof=1) / draws.chisquare(3, 200_000)
    means = draws.normal(differences.mean(), np.sqrt(variance / 4))
    assert more.equal == pytest.approx((np.abs(means) < 0.005).mean(), abs=0.002)
