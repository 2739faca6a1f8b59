"""Several ablations together: one family of contrasts where they are one study, and their arms over data sets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ctxtune.results.ablation import AblationResults, JudgedContrast
from ctxtune.statistics import (
    Interval,
    judge_family,
    probability_of_improvement,
    random_effects_interval,
    rank_intervals,
)
from ctxtune.statistics.intervals import Floats


def study_of(each: Sequence[AblationResults]) -> str | None:
    """The study that all these ablations belong to, by their files; None where they do not belong together."""
    names = {results.design.study for results in each}
    together = len(names) == 1 and len({(results.design.mode, results.design.equivalence) for results in each}) == 1
    return names.pop() if together else None


def judged_together(each: Sequence[AblationResults]) -> list[tuple[JudgedContrast, ...]]:
    """The contrasts of several ablations of one study, corrected over all of them; those to come count from the start."""
    contrasts = [contrast for results in each for contrast in results.contrasts]
    known = [one.difference for one in contrasts if one.difference is not None and one.verdict is not None]
    design = each[0].design
    verdicts = iter(
        judge_family(known, mode=design.mode, unfinished=len(contrasts) - len(known), equivalence=design.equivalence)
    )
    return [
        tuple(replace(one, verdict=next(verdicts)) if one.verdict is not None else one for one in results.contrasts)
        for results in each
    ]


@dataclass(frozen=True)
class ArmAcrossSets:
    """An arm over several data sets, more being better.

    Attributes:
        rank: its mean rank, with an interval over seeds.
        effect: mean difference to the reference for data sets of which these are a sample, relative to the reference's mean
            score on each (random effects); None for the reference itself, and with fewer than two pairs on a data set.
        improvement: how probable it is that a run of it beats one of the reference; None for the reference itself.
        relative: its scores on each data set, divided by the reference's mean score there.
    """

    arm: str
    rank: Interval
    effect: Interval | None
    improvement: Interval | None
    relative: tuple[tuple[float, ...], ...]


def arms_across(each: Sequence[AblationResults], arms: Sequence[str], reference: str) -> tuple[ArmAcrossSets, ...]:
    """Every arm over all ablations, each of which is one data set and has the arms and the reference.

    Raises:
        ValueError: an ablation has no replication that all arms have, or a reference whose mean is not above 0.
    """
    tables = [_shared(results, arms) for results in each]
    if any(table.shape[1] == 0 for table in tables):
        raise ValueError("a data set has no seed that all arms share")
    ranks = rank_intervals(tables, each[0].design.mode)
    sign = 1.0 if each[0].design.mode == "max" else -1.0
    scores = [{arm: results.scores(arm) for arm in arms} for results in each]
    units = [float(np.mean(list(found[reference].values()))) for found in scores]
    if min(units) <= 0:
        raise ValueError("the reference's mean score is not above 0")
    found = []
    for arm, rank in zip(arms, ranks, strict=True):
        relative = [[value / unit for value in got[arm].values()] for got, unit in zip(scores, units, strict=True)]
        effect = improvement = None
        if arm != reference:
            base = [list(got[reference].values()) for got in scores]
            ours = [[sign * value for value in got[arm].values()] for got in scores]
            improvement = probability_of_improvement(ours, [[sign * value for value in values] for values in base])
            effect = effect_over_sets(each, arm, reference)
        found.append(ArmAcrossSets(arm, rank, effect, improvement, tuple(map(tuple, relative))))
    return tuple(found)


def effect_over_sets(each: Sequence[AblationResults], arm: str, reference: str) -> Interval | None:
    """The mean difference to the reference, relative to its mean score on each data set, where effects vary between sets.

    None with fewer than two data sets, or fewer than two pairs on one of them.
    """
    means, variances = [], []
    for results in each:
        ours, theirs = results.pairs(arm, reference)
        if len(ours) < 2:
            return None
        differences = (np.array(ours) - np.array(theirs)) / np.mean(list(results.scores(reference).values()))
        means.append(float(differences.mean()))
        variances.append(float(differences.var(ddof=1)) / len(differences))
    return random_effects_interval(means, variances) if len(means) > 1 else None


def _shared(results: AblationResults, arms: Sequence[str]) -> Floats:
    """(arms, replications that all of them have)."""
    scores = [results.scores(arm) for arm in arms]
    both = sorted(set.intersection(*(set(found) for found in scores)))
    return np.array([[found[index] for index in both] for found in scores])
