"""Where the luck lies: components of variance of crossed and nested replications."""

from dataclasses import dataclass

import numpy as np

from ctxtune.statistics.intervals import Floats


@dataclass(frozen=True)
class CrossedComponents:
    """Variances of scores over seeds and folds, each at least 0.

    Attributes:
        seed: of a seed's mean, its luck on all folds alike.
        fold: of a fold's mean: some classes are harder.
        residual: of what is left: seed and fold together, and noise.
    """

    seed: float
    fold: float
    residual: float


def crossed_components(scores: Floats) -> CrossedComponents:
    """Method-of-moments components of a two-way crossed random model, one score a cell.

    score = mean + seed + fold + residual; the expected mean squares are those of a two-way analysis of variance without
    replication (Searle, Casella, McCulloch, "Variance Components", 1992, chapter 4). A negative estimate is 0.

    Args:
        scores: (seeds, folds), at least 2 x 2.

    Raises:
        ValueError: fewer.
    """
    array = np.asarray(scores, dtype=float)
    if array.ndim != 2 or min(array.shape) < 2:
        raise ValueError(f"components of variance need two seeds and two folds at least, not {array.shape}")
    seeds, folds = array.shape
    grand = array.mean()
    by_seed, by_fold = array.mean(axis=1), array.mean(axis=0)
    residual = array - by_seed[:, None] - by_fold[None, :] + grand
    mean_residual = float((residual**2).sum() / ((seeds - 1) * (folds - 1)))
    mean_seed = float(folds * ((by_seed - grand) ** 2).sum() / (seeds - 1))
    mean_fold = float(seeds * ((by_fold - grand) ** 2).sum() / (folds - 1))
    return CrossedComponents(
        max(0.0, (mean_seed - mean_residual) / folds), max(0.0, (mean_fold - mean_residual) / seeds), mean_residual
    )


@dataclass(frozen=True)
class NestedComponents:
    """Variances of scores over repeats of a tuning, and over seeds within a repeat.

    Attributes:
        tuning: of a repeat's true mean: the luck of its search.
        seed: of a seed within its repeat.
    """

    tuning: float
    seed: float


def nested_components(scores: Floats) -> NestedComponents:
    """Method-of-moments components of a one-way random model (balanced). A negative estimate is 0.

    Args:
        scores: (repeats, seeds), at least 2 x 2.

    Raises:
        ValueError: fewer.
    """
    array = np.asarray(scores, dtype=float)
    if array.ndim != 2 or min(array.shape) < 2:
        raise ValueError(f"components of variance need two repeats of two seeds at least, not {array.shape}")
    seeds = array.shape[1]
    within = float(array.var(axis=1, ddof=1).mean())
    between = float(seeds * array.mean(axis=1).var(ddof=1))
    return NestedComponents(max(0.0, (between - within) / seeds), within)
