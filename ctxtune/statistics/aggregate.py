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


def rank_intervals(
    scores: Sequence[Floats], mode: Literal["max", "min"] = "max", *, confidence: float = 0.95, seed: int = 0
) -> list[Interval]:
    """Mean rank of each arm over data sets with a percentile interval from resampled seeds within each data set.

    Args:
        scores: one (arms, seeds) array a data set, the arms in the same order.
    """
    generator = np.random.default_rng(seed)
    observed = mean_ranks(np.stack([np.mean(each, axis=1) for each in scores]), mode)
    replicates = np.empty((RESAMPLES, len(observed)))
    drawn = []
    for each in scores:
        array = np.asarray(each, dtype=float)
        picks = generator.integers(array.shape[1], size=(RESAMPLES, array.shape[1]))  # the same seeds for every arm
        drawn.append(array[:, picks].mean(axis=2).T)
    for row in range(RESAMPLES):
        replicates[row] = mean_ranks(np.stack([each[row] for each in drawn]), mode)
    low, high = np.quantile(replicates, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return [
        Interval(float(rank), float(lower), float(upper), len(scores))
        for rank, lower, upper in zip(observed, low, high, strict=True)
    ]


def random_effects_interval(
    means: Sequence[float], variances: Sequence[float], *, confidence: float = 0.95
) -> Interval:
    """The mean effect over data sets of which these are a sample, where effects vary between data sets.

    DerSimonian and Laird's between-set variance with the interval of Hartung, Knapp, Sidik and Jonkman (statsmodels'
    `combine_effects`, `use_t`): Student's with one degree of freedom less than data sets. An interval over pooled seeds
    takes the data sets at hand for all there are, and misses the mean over others far too often. Not narrower than
    without the correction for few sets (Roever et al., BMC Medical Research Methodology 2015).

    Args:
        means: the mean paired difference on each data set, on a common scale.
        variances: the squared standard error of each.

    Raises:
        ValueError: fewer than two data sets.
    """
    from statsmodels.stats.meta_analysis import combine_effects

    if len(means) < 2:
        raise ValueError("random effects need two data sets at least")
    effects, errors = np.asarray(means, dtype=float), np.asarray(variances, dtype=float)
    tiny = (
        max(float(np.abs(effects).max()) ** 2, 1.0) * 1e-18
    )  # equal seeds on a set: known exactly, not infinitely well
    with np.errstate(invalid="ignore"):  # the root of a negative variance between sets, which is not used
        found = combine_effects(effects, np.maximum(errors, tiny), method_re="chi2", use_t=True)
    if found.tau2 > 0:
        mean, error = float(found.mean_effect_re), float(max(found.sd_eff_w_re_hksj, found.sd_eff_w_re))
    else:  # the sets differ by less than their seeds do: between them there is no variance to add
        mean, error = float(found.mean_effect_fe), float(max(found.sd_eff_w_fe_hksj, found.sd_eff_w_fe))
    half = error * float(stats.t.ppf((1 + confidence) / 2, len(effects) - 1))
    return Interval(mean, mean - half, mean + half, len(effects))


def probability_of_improvement(
    ours: Sequence[Sequence[float]],
    theirs: Sequence[Sequence[float]],
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """How probable it is that a run of ours beats one of theirs on a data set drawn at random, ties shared.

    The Mann-Whitney statistic of each data set, averaged, with a stratified percentile bootstrap (Agarwal et al.,
    NeurIPS 2021).

    Args:
        ours, theirs: one list of scores a data set; more is better.
    """
    generator = np.random.default_rng(seed)
    pairs = [(np.asarray(a, dtype=float), np.asarray(b, dtype=float)) for a, b in zip(ours, theirs, strict=True)]
    if not pairs or not all(len(a) and len(b) for a, b in pairs):
        raise ValueError("every data set needs at least one score of each arm")
    observed = float(np.mean([_beats(a[None], b[None])[0] for a, b in pairs]))
    replicates = np.mean(
        [
            _beats(
                a[generator.integers(len(a), size=(RESAMPLES, len(a)))],
                b[generator.integers(len(b), size=(RESAMPLES, len(b)))],
            )
            for a, b in pairs
        ],
        axis=0,
    )
    low, high = np.quantile(replicates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(observed, float(low), float(high), sum(len(a) for a, _ in pairs))


def _beats(ours: Floats, theirs: Floats) -> Floats:
    """(resamples,): the share of pairs in which ours is greater, ties counting a half."""
    difference = ours[:, :, None] - theirs[:, None, :]
    return np.asarray(((difference > 0) + 0.5 * (difference == 0)).mean(axis=(1, 2)))


def performance_profile(scores: Sequence[Sequence[float]], thresholds: Floats) -> Floats:
    """The share of runs above each threshold, every data set with equal weight (Dolan and More 2002; Agarwal et al. 2021).

    Args:
        scores: one list of scores a data set, on a common scale.
        thresholds: (t,).

    Returns:
        (t,), falling from 1 to 0.
    """
    shares = [(np.asarray(each, dtype=float)[:, None] > thresholds).mean(axis=0) for each in scores]
    return np.asarray(np.mean(shares, axis=0))


def critical_rank_difference(arms: int, datasets: int, level: float = 0.05) -> float:
    """Mean ranks further apart than this differ by Nemenyi's test (Demsar, JMLR 2006, section 3.2.2)."""
    quantile = float(stats.studentized_range.isf(level, arms, np.inf)) / float(np.sqrt(2))
    return quantile * float(np.sqrt(arms * (arms + 1) / (6 * datasets)))
