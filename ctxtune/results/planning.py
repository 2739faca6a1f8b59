"""What an ablation will be able to say, by the deviations that a pilot has found: before a run of it begins."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ctxtune.results.ablation import AblationResults
from ctxtune.results.designs import AblationDesign, ContrastDesign
from ctxtune.statistics import (
    LEVEL,
    compare_pairs,
    detectable_difference,
    deviation_limit,
    pairs_for_equivalence,
    pairs_needed,
)


@dataclass(frozen=True)
class PlannedContrast:
    """What a contrast will find at the corrected level with a power of 80 %.

    Attributes:
        deviation: standard deviation of the paired differences in the pilot.
        pairs: that the pilot has.
        own: whether the pilot has these two cells; else the deviation is that of its contrasts together.
        detectable: the smallest difference that the planned replications find.
        needed: replications that find the wanted difference; None: thousands.
        equal: replications that show two equal arms to be practically equal; None: thousands, or not asked.
    """

    contrast: ContrastDesign
    deviation: float
    pairs: int
    own: bool
    detectable: float
    needed: int | None
    equal: int | None


@dataclass(frozen=True)
class PlannedPower:
    """All contrasts of an ablation, by a pilot's deviations, and by an upper limit of them (80 % confidence).

    Attributes:
        level: of each test: 0.05 over the number of contrasts, the strictest step of Holm's correction.
    """

    level: float
    by_deviation: tuple[PlannedContrast, ...]
    by_limit: tuple[PlannedContrast, ...]


def planned_power(
    design: AblationDesign, pilot: AblationResults, wanted: float, metric: str | None = None
) -> PlannedPower:
    """The detectable differences of an ablation, and the replications for a wanted one.

    Args:
        design: of the ablation that is planned.
        pilot: an earlier ablation, or one of a few seeds that was run for this.
        wanted: the difference that is to be found, on the scale of the metric.
        metric: of the pilot; the one that the design is judged by, if nothing is said.

    Raises:
        ValueError: the pilot has no contrast with two pairs of this metric.
    """
    judged = metric or design.metric
    measured = dict(_deviations(pilot, [(each.cell, each.against) for each in design.contrasts], judged))
    others = measured or dict(
        _deviations(pilot, [(each.cell, each.against) for each in pilot.design.contrasts], judged)
    )
    if not others:
        raise ValueError(f"it has no two {pilot.replication}s of a contrast with {judged}")
    pooled = math.sqrt(sum(deviation**2 for deviation, _ in others.values()) / len(others))
    fewest = min(pairs for _, pairs in others.values())
    level = LEVEL / max(1, len(design.contrasts))
    found: tuple[list[PlannedContrast], list[PlannedContrast]] = ([], [])
    for contrast in design.contrasts:
        place = contrast.cell, contrast.against
        deviation, pairs = measured.get(place, (pooled, fewest))
        for rows, assumed in zip(found, (deviation, deviation_limit(deviation, pairs)), strict=True):
            rows.append(_planned(design, contrast, assumed, pairs, wanted, level, own=place in measured))
    return PlannedPower(level, tuple(found[0]), tuple(found[1]))


def _deviations(
    pilot: AblationResults, contrasts: Iterable[tuple[str, str]], metric: str
) -> Iterable[tuple[tuple[str, str], tuple[float, int]]]:
    for cell, against in contrasts:
        ours, theirs = pilot.pairs(cell, against, metric)
        if len(ours) >= 2:
            yield (cell, against), (compare_pairs(ours, theirs).deviation, len(ours))


def _planned(
    design: AblationDesign,
    contrast: ContrastDesign,
    deviation: float,
    pairs: int,
    wanted: float,
    level: float,
    *,
    own: bool,
) -> PlannedContrast:
    margin = design.equivalence
    return PlannedContrast(
        contrast,
        deviation,
        pairs,
        own,
        detectable_difference(deviation, design.planned, level),
        pairs_needed(wanted / deviation, level) if deviation else 2,
        None if margin is None else pairs_for_equivalence(margin, deviation, level),
    )
