"""Arms over several data sets: mean ranks, and the interquartile mean with a stratified bootstrap."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from scipy import stats

from ctxtune.statistics.intervals import Floats, Interval

RESAMPLES = 5000


def mean_ranks(means: Floats, mode: Literal["max", "min"] = "max") -> Floats:
    """The mean rank of each arm over data sets, 1 the best, ties shared. `means`: (data sets, arms)."""
    signed = -np.asarray(means, dtype=float) if mode == "max" else np.asarray(means, dtype=float)
    return np.asarray(stats.rankdata(signed, axis=1).mean(axis=0))


def interquartile_mean(scores: Floats, axis: int | None = None) -> Floats | float:
    """The mean of the middle half of the scores (scipy's trim_mean, a quarter cut off at each end)."""
    found = stats.trim_mean(scores, 0.25, axis=axis)
    return float(found) if np.ndim(found) == 0 else np.asarray(found)


def interquartile_interval(
    scores: Mapping[str, Sequence[float]] | Sequence[Sequence[float]],
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Interquartile mean over all data sets and seeds, with a stratified percentile bootstrap.

    Seeds are resampled within each data set, so that every data set keeps its weight (Agarwal et al., "Deep
    Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS 2021).

    Args:
        scores: one list of seeds' scores a data set; bring data sets to a common scale first.
    """
    strata = [
        np.asarray(values, dtype=float) for values in (scores.values() if isinstance(scores, Mapping) else scores)
    ]
    if not strata or not all(len(values) for values in strata):
        raise ValueError("every data set needs at least one score")
    generator = np.random.default_rng(seed)
    drawn = [values[generator.integers(len(values), size=(resamples, len(values)))] for values in strata]
    replicates = interquartile_mean(np.concatenate(drawn, axis=1), axis=1)
    low, high = np.quantile(replicates, [(1 - confidence) / 2, (1 + confidence) / 2])
    everything = np.concatenate(strata)
    single = min(len(values) for values in strata) < 2
    bounds = (float("nan"), float("nan")) if single else (float(low), float(high))
    return Interval(float(interquartile_mean(everything)), *bounds, len(everything))
