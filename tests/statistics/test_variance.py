"""Components of variance, and intervals over seeds and classes where either dominates."""

import numpy as np
import pytest

from ctxtune.statistics import ArmClassScores, crossed_components, hierarchical_interval, nested_components


def test_crossed_components_are_recovered_on_average():
    generator = np.random.default_rng(0)
    found = []
    for _ in range(2000):
        seed, fold = generator.normal(0, 2.0, (6, 1)), generator.normal(0, 3.0, (1, 4))
        found.append(crossed_components(seed + fold + generator.normal(0, 1.0, (6, 4))))
    assert np.mean([each.seed for each in found]) == pytest.approx(4.0, rel=0.1)
    assert np.mean([each.fold for each in found]) == pytest.approx(9.0, rel=0.1)
    assert np.mean([each.residual for each in found]) == pytest.approx(1.0, rel=0.05)


def test_nested_components_are_recovered_on_average():
    generator = np.random.default_rng(1)
    scores = generator.normal(0, 2.0, (2000, 8, 1)) + generator.normal(0, 1.0, (2000, 8, 5))
    found = [nested_components(each) for each in scores]
    assert np.mean([each.tuning for each in found]) == pytest.approx(4.0, rel=0.1)
    assert np.mean([each.seed for each in found]) == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("groups", [(0, 1, 2, 0, 1, 2), (0, 1, 2, 0, 1, 2, 0, 1)])
def test_the_component_of_shared_splits_is_told_from_the_tuning(groups):
    """Also where some splits have more repeats than others."""
    generator = np.random.default_rng(2)
    found = []
    for _ in range(4000):
        split = generator.normal(0, 3.0, 3)[list(groups), None]
        tuning = generator.normal(0, 2.0, (len(groups), 1))
        found.append(nested_components(split + tuning + generator.normal(0, 1.0, (len(groups), 4)), groups))
    assert np.mean([each.group for each in found]) == pytest.approx(9.0, rel=0.1)
    assert np.mean([each.tuning for each in found]) == pytest.approx(4.0, rel=0.1)
    assert np.mean([each.seed for each in found]) == pytest.approx(1.0, rel=0.05)


def test_a_component_that_is_not_there_is_none_on_average():
    """Estimates may be negative: clipped at 0 one by one they would average to a component."""
    generator = np.random.default_rng(3)
    crossed = [crossed_components(each) for each in generator.normal(0, 1.0, (4000, 5, 3))]
    nested = [nested_components(each, (0, 1, 0, 1)) for each in generator.normal(0, 1.0, (4000, 4, 3))]
    for found in ([each.seed for each in crossed], [each.fold for each in crossed], [each.tuning for each in nested]):
        assert np.mean(found) == pytest.approx(0.0, abs=0.02)
        assert np.mean(np.maximum(0.0, found)) > 0.05
    assert np.mean([each.group for each in nested]) == pytest.approx(0.0, abs=0.02)


def test_components_need_replications():
    with pytest.raises(ValueError, match="4 groups of 4 repeats"):
        nested_components(np.zeros((4, 2)), (0, 1, 2, 3))
    with pytest.raises(ValueError, match="1 groups of 4 repeats"):
        nested_components(np.zeros((4, 2)), (0, 0, 0, 0))
    with pytest.raises(ValueError, match="two seeds and two folds"):
        crossed_components(np.zeros((1, 4)))
    with pytest.raises(ValueError, match="two repeats of two seeds"):
        nested_components(np.zeros((3, 1)))


@pytest.mark.parametrize(("of_seeds", "of_classes"), [(0.03, 0.02), (0.01, 0.06), (0.02, 0.10)])
def test_the_interval_over_seeds_and_classes_holds_its_level(of_seeds, of_classes):
    """Whether seeds or classes dominate, five seeds and forty classes cover the true difference in about 95 of 100."""
    generator = np.random.default_rng(7)
    held = 0
    for experiment in range(400):
        by_seed, by_class = generator.normal(0, of_seeds, (5, 1)), generator.normal(0, of_classes, (1, 40))
        counts = np.full((5, 40), 20.0)
        ours = ArmClassScores((0.6 + 0.03 + by_seed + by_class + generator.normal(0, 0.03, (5, 40))) * counts, counts)
        theirs = ArmClassScores(np.full((5, 40), 0.6) * counts, counts)
        found = hierarchical_interval([ours], [theirs], resamples=400, seed=experiment)
        held += found.low <= 0.03 <= found.high
    assert 0.92 <= held / 400 <= 0.99
