"""Where the luck lies: components of variance of crossed and nested replications.

The estimates are unbiased, and may be negative where a component is small: whoever averages over arms does it first, and
takes a negative mean for 0. To clip each one would call noise a component.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from ctxtune.statistics.intervals import Floats


@dataclass(frozen=True)
class CrossedComponents:
    """Estimated variances of scores over seeds and folds.

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
    replication (Searle, Casella, McCulloch, "Variance Components", 1992, chapter 4).

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
    return CrossedComponents((mean_seed - mean_residual) / folds, (mean_fold - mean_residual) / seeds, mean_residual)


@dataclass(frozen=True)
class NestedComponents:
    """Estimated variances of scores over repeats of a tuning, and over seeds within a repeat.

    Attributes:
        tuning: of a repeat's true mean: the luck of its search.
        seed: of a seed within its repeat.
        group: of the true mean of repeats that share their validation classes; None where there are no such groups.
    """

    tuning: float
    seed: float
    group: float | None = None


def nested_components(scores: Floats, groups: Sequence[Hashable] | None = None) -> NestedComponents:
    """Method-of-moments components of a one-way random model (balanced), or of a two-way nested one.

    Groups need not have equally many repeats: n0 = (N - sum n² / N) / (groups - 1) takes the place of their number
    (Searle, Casella, McCulloch, chapter 3).

    Args:
        scores: (repeats, seeds), at least 2 x 2.
        groups: of each repeat, such as the validation split that it has; None: all repeats are alike.

    Raises:
        ValueError: fewer; or there is one group, or none with two repeats.
    """
    array = np.asarray(scores, dtype=float)
    if array.ndim != 2 or min(array.shape) < 2:
        raise ValueError(f"components of variance need two repeats of two seeds at least, not {array.shape}")
    repeats, seeds = array.shape
    means = array.mean(axis=1)
    within = float(array.var(axis=1, ddof=1).mean())
    if groups is None:
        return NestedComponents(float(means.var(ddof=1)) - within / seeds, within)
    members = [means[[other == group for other in groups]] for group in dict.fromkeys(groups)]
    if not 2 <= len(members) < repeats:
        raise ValueError(
            f"{len(members)} groups of {repeats} repeats: two groups are needed, and two repeats in one of them"
        )
    between_repeats = sum(float(((each - each.mean()) ** 2).sum()) for each in members) / (repeats - len(members))
    between_groups = sum(len(each) * float((each.mean() - means.mean()) ** 2) for each in members) / (len(members) - 1)
    size = (repeats - sum(len(each) ** 2 for each in members) / repeats) / (len(members) - 1)
    return NestedComponents(between_repeats - within / seeds, within, (between_groups - between_repeats) / size)
