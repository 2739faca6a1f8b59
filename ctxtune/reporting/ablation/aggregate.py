"""Several ablations with the same arms in sum: mean ranks, and the interquartile mean of the differences."""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from ctxtune.metric_names import metric_title
from ctxtune.reporting.ablation.across import WORDS, across_table, critical_difference_figure, profile_figure
from ctxtune.reporting.ablation.data import AblationData
from ctxtune.reporting.document import Picture, Section, Table
from ctxtune.results.formatting import MISSING, decimal, percent, percent_bounds
from ctxtune.results.studies import arms_across
from ctxtune.statistics import Interval, interquartile_interval, mean_ranks
from ctxtune.statistics.intervals import Floats


def summed_section(each: Sequence[AblationData], shared: Sequence[str]) -> Section:
    """The arms that the ablations share in sum, or why there is no sum of these ablations."""
    means = np.array(
        [
            [np.mean(list(data.results.scores(cell, data.design.metric).values()) or [math.nan]) for cell in shared]
            for data in each
        ]
    )
    hindrance = _hindrance(each, shared, means)
    if hindrance:
        return Section("In sum", [f"Left out: {hindrance}."])
    return Section("In sum", [_words(each), _table(each, shared, means), *_across(each, shared)])


def _across(each: Sequence[AblationData], shared: Sequence[str]) -> list[str | Table | Picture]:
    """The arms over the data sets as a sample of others, or why not."""
    reference = next((against for cell in shared for data in each if (against := _reference(data, cell))), None)
    if reference is None or reference not in shared:
        return ["Random effects, improvement and profiles are left out: the reference is none of the shared arms."]
    try:
        arms = arms_across([data.results for data in each], shared, reference)
    except ValueError as error:
        return [f"Random effects, improvement and profiles are left out: {error}."]
    profile = "Performance profiles: the share of runs above a score; an arm whose line lies above another's is better."
    critical = (
        "Critical difference: mean ranks; a bar joins arms that Nemenyi's test (0.05) does not tell apart. It takes data sets "
        "as its only evidence and needs many of them."
    )
    return [
        WORDS,
        across_table(arms),
        Picture("profiles", profile, partial(profile_figure, arms)),
        Picture("critical_difference", critical, partial(critical_difference_figure, arms)),
    ]


def _hindrance(each: Sequence[AblationData], shared: Sequence[str], means: Floats) -> str:
    """Why these ablations have no common sum; "" where they have."""
    metrics = sorted({metric_title(data.design.metric) for data in each})
    if len(metrics) > 1:
        return f"scores of {' and '.join(metrics)} are not of one kind and have no common mean"
    if len({data.design.mode for data in each}) > 1:
        return "in some of these ablations more of the metric is better, in others less"
    if len({data.design.dataset for data in each}) == 1:
        return f"all are on {each[0].design.dataset}, which makes them one witness; a sum is over data sets"
    if len(shared) < 2:
        return "the ablations share a single arm"
    for cell in shared:
        references = sorted({against for data in each if (against := _reference(data, cell))})
        if len(references) > 1:
            return f"{cell} is compared with {' and '.join(references)}, not with one reference"
    missing = [cell for cell, values in zip(shared, means.T, strict=True) if not np.isfinite(values).all()]
    if missing:
        return f"not every ablation has a score of {', '.join(missing)} yet"
    return ""


def _words(each: Sequence[AblationData]) -> str:
    sets = sorted({data.design.dataset for data in each})
    return (
        f"Over {len(sets)} data sets ({', '.join(sets)}). The rank of an arm is that of its mean score, 1 the best, averaged. "
        "A point of the score is not worth the same on every data set: each difference is therefore divided by the "
        "reference's mean score in the same ablation. The interquartile mean is taken over all paired differences to the "
        "reference, so that a single seed or data set has little say; its interval resamples within each ablation "
        "(stratified bootstrap, 5,000 resamples; Agarwal et al., NeurIPS 2021)."
    )


def _table(each: Sequence[AblationData], shared: Sequence[str], means: Floats) -> Table:
    ranks = mean_ranks(means, each[0].design.mode)
    rows, records = [], []
    for index in np.argsort(ranks, kind="stable"):
        cell = shared[index]
        compared = any(_reference(data, cell) for data in each)
        found = _difference(each, cell)
        missing = MISSING if compared else "reference"
        rows.append([cell, decimal(float(ranks[index])), percent(found.mean, sign=True) if found else missing,
                     percent_bounds(found, sign=True)])  # fmt: skip
        record: dict[str, object] = {"cell": cell, "mean_rank": float(ranks[index])}
        record |= {key: getattr(found, key, None) for key in ("mean", "low", "high", "count")}
        records.append(record | {"scale": "relative"})
    unit = "percent of the reference's mean score on the same data set"
    header = ["arm", "mean rank", "interquartile mean of the relative difference", "95 % stratified bootstrap"]
    caption = (
        f"Arms in sum, {metric_title(each[0].design.metric)}: mean rank, and difference to the reference in {unit}."
    )
    return Table("in_sum", caption, header, rows, records)


def _difference(each: Sequence[AblationData], cell: str) -> Interval | None:
    """Interquartile mean of an arm's differences to its reference; None where an ablation has no pair of them.

    Divided by the reference's mean score over the pairs of the same ablation: the baseline-normalized scores of Agarwal
    et al. (NeurIPS 2021), less 1. The mean counts as known; its own error would change a difference by a small fraction
    of that difference only.
    """
    strata = []
    for data in each:
        against = _reference(data, cell)
        ours, theirs = data.results.pairs(cell, against, data.design.metric) if against else ([], [])
        unit = float(np.mean(theirs)) if theirs else 1.0
        if not ours or not unit > 0:
            return None
        strata.append([(mine - other) / unit for mine, other in zip(ours, theirs, strict=True)])
    return interquartile_interval(strata)


def _reference(data: AblationData, cell: str) -> str | None:
    """What an ablation compares a cell with."""
    return next((contrast.against for contrast in data.design.contrasts if contrast.cell == cell), None)
