"""Two arms over the same seeds: the difference, its test, its size, and how many seeds it would take to see it."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special, stats

from ctxtune.statistics.intervals import Floats, Interval, bootstrap_interval, t_interval

POWER = 0.8
MOST_PAIRS = 2000


@dataclass(frozen=True)
class PairedDifference:
    """Ours minus theirs over n pairs.

    Attributes:
        differences: (n,).
        interval: of the mean difference, Student's t; ``bootstrap``: BCa.
        p_value: of the two-sided paired t-test; not a number with fewer than two pairs, or where the differences do
            not vary (but 1 where they are all zero).
        effect_size: d_z, mean over standard deviation of the differences, with Hedges' correction for small n.
    """

    differences: Floats
    interval: Interval
    bootstrap: Interval
    deviation: float
    p_value: float
    effect_size: float

    @property
    def count(self) -> int:
        """The number of pairs."""
        return len(self.differences)

    @property
    def wilcoxon_p(self) -> float:
        """Of the two-sided signed-rank test; `wilcoxon_can_reach` says whether it is worth asking for."""
        if self.count < 2:
            return float("nan")
        return float(stats.wilcoxon(self.differences).pvalue) if np.any(self.differences) else 1.0


def compare_pairs(ours: Sequence[float] | Floats, theirs: Sequence[float] | Floats) -> PairedDifference:
    """Compare two arms pair by pair.

    Raises:
        ValueError: the lengths differ, or there is no pair.
    """
    if len(ours) != len(theirs) or not len(ours):
        raise ValueError(f"pairs are needed, one at least; found {len(ours)} values against {len(theirs)}")
    differences = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    deviation = float(differences.std(ddof=1)) if len(differences) > 1 else float("nan")
    return PairedDifference(
        differences,
        t_interval(differences),
        bootstrap_interval(differences),
        deviation,
        paired_p_value(differences),
        hedges_effect_size(differences),
    )


def paired_p_value(differences: Floats) -> float:
    """The two-sided paired t-test (scipy.stats.ttest_1samp of the differences against 0)."""
    if not np.any(differences):
        return 1.0
    if len(differences) < 2 or _constant(differences):
        return float("nan")
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def hedges_effect_size(differences: Floats) -> float:
    """Cohen's d_z = mean / standard deviation of the differences, times Hedges' exact factor for n - 1 degrees.

    The factor, gamma(v/2) / (sqrt(v/2) gamma((v - 1)/2)), takes out the bias of small n (Hedges 1981, eq. 6e): 0.56 at
    3 pairs (v = 2), 0.80 at 5, 0.91 at 10. 0 where all differences are 0, not a number where it is not defined.
    """
    if not np.any(differences):
        return 0.0
    degrees = len(differences) - 1
    if degrees < 2 or _constant(differences):
        return float("nan")
    logarithm = special.gammaln(degrees / 2) - special.gammaln((degrees - 1) / 2) - 0.5 * np.log(degrees / 2)
    return float(differences.mean() / differences.std(ddof=1) * np.exp(logarithm))


def wilcoxon_can_reach(count: int, level: float) -> bool:
    """Whether the signed-rank test of so many pairs can give a p-value of at most `level`: its smallest is 2 / 2^n."""
    return 2.0 ** (1 - count) <= level


@lru_cache(maxsize=512)
def pairs_needed(effect_size: float, level: float, power: float = POWER) -> int | None:
    """How many pairs would find a true effect of this size (d_z) at this level with this power (statsmodels).

    None: more than `MOST_PAIRS`.
    """
    from statsmodels.stats.power import ttest_power

    size = min(abs(effect_size), 6.0)  # beyond, the noncentral t overflows, and 3 pairs are enough at any level in use
    counts = range(2, MOST_PAIRS + 1)
    found = bisect_left(counts, power, key=lambda count: ttest_power(size, count, level, count - 1))
    return counts[found] if found < len(counts) else None


@lru_cache(maxsize=512)
def detectable_effect(count: int, level: float, power: float = POWER) -> float:
    """The smallest true effect size (d_z) that so many pairs find with this power; not a number for fewer than 2."""
    if count < 2:
        return float("nan")
    # The noncentrality at which the upper tail has the wanted power, by bisection; the other tail has none there.
    low, high = 0.0, 200.0
    degrees = count - 1
    critical = float(stats.t.isf(level / 2, degrees))
    for _ in range(60):
        middle = (low + high) / 2
        if float(stats.nct.sf(critical, degrees, middle)) < power:
            low = middle
        else:
            high = middle
    return high / float(np.sqrt(count))


def _constant(differences: Floats) -> bool:
    """Equal up to rounding: a t-test would find certainty in the last bit."""
    return bool(np.ptp(differences) <= 1e-12 * np.abs(differences).max() or differences.std() == 0)
