"""What a design will be able to say, before it runs: detectable differences, and the seeds that it takes."""

from bisect import bisect_left
from functools import lru_cache

import numpy as np
from scipy import integrate, stats

POWER = 0.8
MOST_PAIRS = 2000
_NODES = 200
"""Of Gaussian quadrature, all of which are looked at in one go; adaptive quadrature takes a hundred times as long."""


@lru_cache(maxsize=512)
def detectable_effect(count: int, level: float, power: float = POWER) -> float:
    """The smallest true effect size (d_z) that so many pairs find with this power; not a number for fewer than 2."""
    from scipy.optimize import brentq

    if count < 2:
        return float("nan")
    # The noncentrality at which the upper tail has the wanted power; the other tail has none there.
    degrees = count - 1
    critical = float(stats.t.isf(level / 2, degrees))
    found = brentq(lambda shift: float(stats.nct.sf(critical, degrees, shift)) - power, 0.0, 2 * critical + 20.0)
    return float(found) / float(np.sqrt(count))


def detectable_difference(deviation: float, count: int, level: float, power: float = POWER) -> float:
    """The smallest true mean difference that `count` pairs find with this power, in the metric's unit.

    Args:
        deviation: standard deviation of the paired differences, from a pilot.
        level: of the two-sided test: the level of the family over the number of its contrasts (Holm's strictest step).
    """
    return detectable_effect(count, level, power) * deviation


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


def equivalence_power(margin: float, deviation: float, count: int, level: float, difference: float = 0.0) -> float:
    """The chance that `count` pairs show a true `difference` to be practically none by two one-sided tests.

    Given the sample's standard deviation s the mean must lie within margin - t s / sqrt(n); the normal probability of
    that is averaged over the distribution of s (Phillips 1990).

    Args:
        margin: the largest difference that is practically none.
        deviation: true standard deviation of the paired differences.
        level: of each one-sided test.
    """
    if count < 2:
        return 0.0
    if deviation == 0:
        return float(abs(difference) < margin)
    degrees, error = count - 1, deviation / np.sqrt(count)
    critical = float(stats.t.isf(level, degrees))
    widest = margin / (critical * error)  # of s / sigma: beyond it no mean is near enough

    def at(ratio: np.ndarray) -> np.ndarray:
        reach = margin - critical * error * ratio
        inside = stats.norm.cdf((reach - difference) / error) - stats.norm.cdf((-reach - difference) / error)
        return np.asarray(inside * stats.chi.pdf(ratio * np.sqrt(degrees), degrees) * np.sqrt(degrees))

    # Beyond 10 standard errors of s its density is nothing.
    spread = 10 / np.sqrt(2 * degrees)
    lower, upper = max(0.0, 1 - spread), min(widest, 1 + spread)
    if lower >= upper:
        return 0.0
    return float(np.clip(integrate.fixed_quad(at, lower, upper, n=_NODES)[0], 0.0, 1.0))


def pairs_for_equivalence(margin: float, deviation: float, level: float, power: float = POWER) -> int | None:
    """How many pairs show two equal arms to be practically equal with this power; None: more than `MOST_PAIRS`."""
    counts = range(2, MOST_PAIRS + 1)
    found = bisect_left(counts, power, key=lambda count: equivalence_power(margin, deviation, count, level))
    return counts[found] if found < len(counts) else None


def deviation_limit(deviation: float, count: int, confidence: float = 0.8) -> float:
    """An upper confidence limit of a pilot's standard deviation of `count` pairs.

    A pilot of few seeds underestimates as often as not; a design made for this limit reaches its power with about this
    confidence (Browne, Statistics in Medicine 1995). Not a number with fewer than two pairs.
    """
    if count < 2:
        return float("nan")
    degrees = count - 1
    return deviation * float(np.sqrt(degrees / stats.chi2.ppf(1 - confidence, degrees)))
