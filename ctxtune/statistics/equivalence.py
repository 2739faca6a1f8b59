"""Whether two arms are practically equal: two one-sided tests, and the posterior of the difference."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from ctxtune.statistics.intervals import Floats


def equivalence_p_value(differences: Floats, margin: float) -> float:
    """The larger p of two one-sided paired t-tests of "the mean difference lies outside of [-margin, margin]".

    Small where the data speak for a difference of less than `margin` (Schuirmann 1987; statsmodels'
    `DescrStatsW.ttost_mean` gives the same). Not a number with fewer than two pairs; where the differences do not vary,
    0 or 1.

    Args:
        differences: (n,) paired differences.
        margin: the largest difference that is practically none, above 0, on the scale of the differences.

    >>> equivalence_p_value(np.array([0.001, -0.001, 0.002, 0.0]), 0.005) < 0.01
    True
    """
    if len(differences) < 2:
        return float("nan")
    mean = float(np.mean(differences))
    error = float(stats.sem(differences))
    if error == 0:
        return 0.0 if abs(mean) < margin else 1.0
    return float(stats.t.sf((margin - abs(mean)) / error, len(differences) - 1))


@dataclass(frozen=True)
class PracticalProbabilities:
    """How probable it is that the true mean difference is below -margin, within the margin, or above it."""

    worse: float
    equal: float
    better: float


def practical_probabilities(differences: Floats, margin: float, *, correlation: float = 0.0) -> PracticalProbabilities:
    """The Bayesian correlated t-test (Corani and Benavoli, Machine Learning 2015; as the package baycomp).

    With the flat reference prior the posterior of the mean difference is Student's t with n - 1 degrees of freedom,
    centered on the observed mean, with scale sqrt((1 / n + correlation / (1 - correlation)) * variance).

    Args:
        differences: (n,) paired differences, n at least 2; more of the metric is better.
        margin: half the width of the region of practical equivalence.
        correlation: between the differences; 0 for independent seeds, the share of held-out data for cross-validation.

    Raises:
        ValueError: fewer than two pairs.
    """
    if len(differences) < 2:
        raise ValueError("a posterior needs two pairs at least")
    count, mean = len(differences), float(np.mean(differences))
    scale = float(np.sqrt((1 / count + correlation / (1 - correlation)) * np.var(differences, ddof=1)))
    if scale == 0:
        inside = abs(mean) <= margin
        return PracticalProbabilities(float(mean < -margin), float(inside), float(mean > margin))
    posterior = stats.t(count - 1, loc=mean, scale=scale)
    worse, better = float(posterior.cdf(-margin)), float(posterior.sf(margin))
    return PracticalProbabilities(worse, 1.0 - worse - better, better)
