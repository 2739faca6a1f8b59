"""Several ablations as one study, and over data sets: against oracles by hand and simulated experiments."""

import numpy as np
import pytest
from scipy import stats

from ctxtune.reporting.ablation.across import critical_difference_figure, profile_figure, rank_groups
from ctxtune.results.ablation import AblationResults
from ctxtune.results.designs import AblationDesign
from ctxtune.results.luck import luck
from ctxtune.results.runs import Run
from ctxtune.results.studies import arms_across, effect_over_sets, judged_together, study_of
from ctxtune.results.wording import tuning_sentences
from ctxtune.statistics import holm

METRIC = "validation/map_at_r"


def results_of(scores: dict[str, np.ndarray], **design) -> AblationResults:
    """An ablation of arms with scores by repeat, seed and fold; the first arm is the reference."""
    first, *others = scores
    repeats, seeds, folds = np.shape(scores[first])
    plan = {
        "name": "a", "metric": METRIC, "reference": first, "seeds": seeds, "repeats": repeats, "dataset": "glyphs",
        "folds": [str(fold) for fold in range(folds)], "variants": list(scores),
        "cells": [{"cell": name, "variant": name} for name in scores],
        "contrasts": [{"cell": name, "against": first} for name in others],
    }  # fmt: skip
    runs = tuple(
        Run(f"{arm}{place}", "cell", arm, "completed", repeat=place[0], seed_index=place[1], folds=(str(place[2]),),
            metrics={METRIC: float(value)})
        for arm, values in scores.items()
        for place, value in np.ndenumerate(np.asarray(values))
    )  # fmt: skip
    return AblationResults(AblationDesign.model_validate({**plan, **design}), runs, ended=True)


def simple(generator: np.random.Generator, gains: list[float], seeds: int = 5, base: float = 0.5, **design):
    shapes = (1, seeds, 1)
    arms = {f"arm{i}": generator.normal(base + gain, 0.01, shapes) for i, gain in enumerate(gains)}
    return results_of({"full": generator.normal(base, 0.01, shapes), **arms}, **design)


def test_a_study_is_corrected_over_all_its_files():
    generator = np.random.default_rng(0)
    files = [simple(generator, [0.0, 0.03], study="s"), simple(generator, [0.01], study="s")]
    assert study_of(files) == "s"
    together = judged_together(files)
    plain = [each.difference.p_value for results in files for each in results.contrasts]
    assert [each.verdict.corrected_p for family in together for each in family] == pytest.approx(holm(plain))
    assert [len(family) for family in together] == [2, 1]
    assert study_of([files[0], simple(generator, [0.01])]) is None
    assert study_of([files[0], simple(generator, [0.01], study="other")]) is None


def test_components_of_seeds_and_folds_are_recovered_and_what_arms_share_goes_from_differences():
    generator = np.random.default_rng(1)
    found = []
    for _ in range(150):
        shared = generator.normal(0, 0.02, (1, 1, 4))  # harder folds are so for every arm
        arms = {
            name: 0.5 + shared + generator.normal(0, 0.01, (1, 6, 1)) + generator.normal(0, 0.005, (1, 6, 4))
            for name in ("full", "a", "b")
        }
        found.append(luck(results_of(arms)))
    assert [each.source for each in found[0]] == ["seed", "fold", "seed within fold"]
    variance = np.mean([[each.scores**2 for each in one] for one in found], axis=0)
    assert np.sqrt(variance) == pytest.approx([0.01, 0.02, 0.005], rel=0.12)
    differences = np.sqrt(np.mean([[each.differences**2 for each in one] for one in found], axis=0))
    assert differences[0] == pytest.approx(np.sqrt(2) * 0.01, rel=0.12)
    assert differences[1] < 0.003


def test_components_of_tuning_and_seeds():
    generator = np.random.default_rng(2)
    found = []
    for _ in range(150):
        arms = {
            name: 0.5 + generator.normal(0, 0.02, (8, 1, 1)) + generator.normal(0, 0.01, (8, 4, 1))
            for name in ("full", "a")
        }
        found.append(luck(results_of(arms)))
    assert [each.source for each in found[0]] == ["tuning", "seed"]
    assert np.sqrt(np.mean([[each.scores**2 for each in one] for one in found], axis=0)) == pytest.approx(
        [0.02, 0.01], rel=0.12
    )


def test_too_few_replications_say_nothing_of_luck():
    assert luck(simple(np.random.default_rng(0), [0.0])) == ()


def test_arms_over_data_sets_by_hand():
    generator = np.random.default_rng(3)
    files = [simple(generator, [0.02, 0.0], base=base) for base in (0.5, 0.6, 0.8)]
    arms = {each.arm: each for each in arms_across(files, ["full", "arm0", "arm1"], "full")}
    assert arms["full"].effect is None and arms["full"].improvement is None
    wins, means, errors, ranks = [], [], [], []
    for results in files:
        ours, theirs = results.pairs("arm0", "full")
        wins.append(stats.mannwhitneyu(ours, theirs).statistic / (len(ours) * len(theirs)))
        relative = (np.array(ours) - theirs) / np.mean(list(results.scores("full").values()))
        means.append(relative.mean())
        errors.append(relative.var(ddof=1) / len(relative))
        order = [-np.mean(list(results.scores(arm).values())) for arm in ("full", "arm0", "arm1")]
        ranks.append(stats.rankdata(order))
    assert arms["arm0"].improvement.mean == pytest.approx(np.mean(wins))
    weights = 1 / np.array(errors)
    fixed = (weights * means).sum() / weights.sum()
    heterogeneity = (weights * (np.array(means) - fixed) ** 2).sum() - 2
    between = max(0.0, heterogeneity / (weights.sum() - (weights**2).sum() / weights.sum()))
    weights = 1 / (np.array(errors) + between)
    assert arms["arm0"].effect.mean == pytest.approx((weights * means).sum() / weights.sum(), rel=1e-6)
    assert [arms[arm].rank.mean for arm in ("full", "arm0", "arm1")] == pytest.approx(np.mean(ranks, axis=0))
    for figure in (profile_figure, critical_difference_figure):
        assert figure(list(arms.values())).axes


def test_the_mean_effect_over_other_data_sets_is_held_where_effects_vary():
    """Five data sets drawn from a population of them, whose effects have a mean of 4 % and a deviation of 3 %."""
    generator, held = np.random.default_rng(4), 0
    for _ in range(100):
        files = [simple(generator, [0.5 * generator.normal(0.04, 0.03)]) for _ in range(5)]
        found = effect_over_sets(files, "arm0", "full")
        held += found.low <= 0.04 <= found.high
    assert held >= 88


def test_arms_that_do_not_differ_are_joined_once():
    assert rank_groups(np.array([1.0, 1.5, 2.4, 3.9]), 1.0) == [(0, 1), (1, 2)]
    assert rank_groups(np.array([1.0, 2.5, 4.0]), 1.0) == []
    assert rank_groups(np.array([1.0, 1.2, 1.4]), 1.0) == [(0, 2)]


def test_arms_with_spaces_of_different_sizes_are_told():
    results = simple(np.random.default_rng(0), [0.0], trials=8, tuning="each")
    cells = [
        cell.model_copy(update={"searched": paths})
        for cell, paths in zip(results.design.cells, (["optimizer.lr"], ["optimizer.lr", "loss.k"]), strict=True)
    ]
    told = " ".join(tuning_sentences(results.design.model_copy(update={"cells": cells})))
    assert "1 dimension: full; 2 dimensions: arm0" in told
    alike = results.design.model_copy(update={"cells": [cell.model_copy(update={"searched": ["a"]}) for cell in cells]})
    assert "different sizes" not in " ".join(tuning_sentences(alike))
