"""A bootstrap that resamples seeds and classes: would the difference hold with other seeds and on other classes?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctxtune.statistics.intervals import Floats, Interval

RESAMPLES = 2000


@dataclass(frozen=True)
class ClassScores:
    """Scores of one arm on one validation fold (or on the test classes).

    Attributes:
        sums: (units, classes) sum of the score over the class's queries in each unit (seed or repeat).
        counts: (units, classes) number of queries. Units and classes stand in the same order in every arm.
    """

    sums: Floats
    counts: Floats


def hierarchical_interval(
    ours: Sequence[ClassScores],
    theirs: Sequence[ClassScores],
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Percentile interval of the mean paired difference over resampled units and classes.

    Both arms have one entry a fold. Each replicate draws the units (seeds) with replacement, then, within each fold,
    the classes; the same draws serve both arms, and every unit, since all are scored on the same classes: seeds and
    classes are crossed, and drawing classes anew for every seed would let their luck average out (the pigeonhole
    bootstrap, Owen 2007; slightly wide rather than narrow). A fold's score is its sums over its counts, a unit's score
    the mean over folds.

    Raises:
        ValueError: the arms do not match in folds, units or classes.
    """
    if len(ours) != len(theirs) or not ours:
        raise ValueError("both arms need the same folds")
    units = len(ours[0].sums)
    generator = np.random.default_rng(seed)
    drawn = _weights(generator, units, resamples)  # (resamples, units)
    differences = np.zeros((resamples, units))
    observed = 0.0
    for our_fold, their_fold in zip(ours, theirs, strict=True):
        shapes = {array.shape for fold in (our_fold, their_fold) for array in (fold.sums, fold.counts)}
        if len(shapes) != 1 or len(our_fold.sums) != units:
            raise ValueError(f"both arms need the same units and classes; found arrays of {sorted(shapes)}")
        weights = _weights(generator, our_fold.sums.shape[1], resamples)
        differences += _score(our_fold, weights) - _score(their_fold, weights)
        everything = np.ones((1, our_fold.sums.shape[1]))
        observed += float((_score(our_fold, everything) - _score(their_fold, everything)).mean())
    values = (differences * drawn).sum(axis=1) / units / len(ours)
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(observed / len(ours), float(low), float(high), units)


def _weights(generator: np.random.Generator, items: int, resamples: int) -> Floats:
    """How often each item is drawn in each resample, (resamples, items)."""
    return generator.multinomial(items, np.full(items, 1 / items), size=resamples).astype(float)


def _score(fold: ClassScores, weights: Floats) -> Floats:
    """(resamples, units): the mean over queries under class weights; a draw of classes without any query is left at 0."""
    counts = weights @ fold.counts.T
    return np.divide(weights @ fold.sums.T, counts, out=np.zeros_like(counts), where=counts > 0)
