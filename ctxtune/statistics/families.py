"""Several contrasts judged together: Holm's correction, and what each comes to in plain words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ctxtune.statistics.paired import PairedDifference, detectable_effect, pairs_needed, wilcoxon_can_reach

LEVEL = 0.05
MANY_SEEDS = 30
"""Where even more pairs than this would be needed to see a difference as large as the observed one, the verdict is
"no evidence", not "too few seeds"."""
Judgement = Literal["better", "worse", "no evidence", "too few seeds to tell", "no difference", "cannot be tested"]


@dataclass(frozen=True)
class Verdict:
    """What a contrast comes to within its family.

    Attributes:
        corrected_p: Holm-adjusted p of the paired t-test over the family.
        wilcoxon_p: Holm-adjusted likewise; None where its smallest possible p cannot reach the corrected level.
        pairs_needed: to find a difference as large as the observed one with 80 % power at the level of the whole
            family's strictest step; None where there is nothing to say.
        detectable: the smallest true mean difference that these pairs find with 80 % power at that level.
    """

    judgement: Judgement
    corrected_p: float
    wilcoxon_p: float | None
    pairs_needed: int | None
    detectable: float

    @property
    def words(self) -> str:
        """The verdict in plain words."""
        if self.judgement == "too few seeds to tell" and self.pairs_needed is not None:
            return f"too few seeds to tell: n needed ~ {self.pairs_needed}"
        return str(self.judgement)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (Holm 1979; statsmodels).

    p-values that are not numbers stay so, but count as members of the family (as if they were 1).
    """
    from statsmodels.stats.multitest import multipletests

    if len(p_values) == 0:
        return []
    array = np.asarray(p_values, dtype=float)
    adjusted = multipletests(np.where(np.isnan(array), 1.0, array), method="holm")[1]
    return [float(value) for value in np.where(np.isnan(array), np.nan, adjusted)]


def judge_family(
    contrasts: Sequence[PairedDifference],
    *,
    mode: Literal["max", "min"] = "max",
    level: float = LEVEL,
    unfinished: int = 0,
) -> list[Verdict]:
    """Judge all contrasts of a family together, so that the chance of any false "better" or "worse" is at most `level`.

    Args:
        mode: whether more of the metric is better ("max") or less ("min").
        unfinished: contrasts of the family that have no pairs yet; they count in the correction from the start.
    """
    if not contrasts:
        return []
    strictest = level / (len(contrasts) + unfinished)
    waiting = [math.nan] * unfinished
    corrected = holm([*(contrast.p_value for contrast in contrasts), *waiting])[: len(contrasts)]
    reach = [wilcoxon_can_reach(contrast.count, strictest) for contrast in contrasts]
    ranks = [each.wilcoxon_p if able else math.nan for each, able in zip(contrasts, reach, strict=True)]
    ranked = holm([*ranks, *waiting])[: len(contrasts)]
    return [
        _judge(contrast, p_value, rank_p if able else None, mode, level, strictest)
        for contrast, p_value, rank_p, able in zip(contrasts, corrected, ranked, reach, strict=True)
    ]


def _judge(
    contrast: PairedDifference, p_value: float, rank_p: float | None, mode: str, level: float, strictest: float
) -> Verdict:
    needed = pairs_needed(round(contrast.effect_size, 3), strictest) if math.isfinite(contrast.effect_size) else None
    if needed is not None and not p_value <= level:
        needed = max(needed, contrast.count + 1)
    detectable = detectable_effect(contrast.count, strictest) * contrast.deviation
    return Verdict(_judgement(contrast, p_value, needed, mode, level), p_value, rank_p, needed, detectable)


def _judgement(contrast: PairedDifference, p_value: float, needed: int | None, mode: str, level: float) -> Judgement:
    if not np.any(contrast.differences):
        return "no difference"
    if contrast.count < 2:
        return "too few seeds to tell"
    if math.isnan(p_value):
        return "cannot be tested"
    if p_value <= level:
        return "better" if (contrast.interval.mean > 0) == (mode == "max") else "worse"
    if contrast.count < 3 or (needed is not None and needed <= MANY_SEEDS):
        return "too few seeds to tell"
    return "no evidence"
