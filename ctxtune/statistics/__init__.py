"""Pure functions of numbers: intervals, paired contrasts, families, bootstraps. Imports nothing else of ctxtune."""

from ctxtune.statistics.aggregate import interquartile_interval, interquartile_mean, mean_ranks
from ctxtune.statistics.families import LEVEL, MANY_SEEDS, Verdict, holm, judge_family
from ctxtune.statistics.hierarchical import ClassScores, hierarchical_interval
from ctxtune.statistics.intervals import (
    FEWEST_FOR_BOOTSTRAP,
    Description,
    Interval,
    bootstrap_interval,
    describe,
    t_interval,
)
from ctxtune.statistics.paired import (
    PairedDifference,
    compare_pairs,
    detectable_effect,
    hedges_effect_size,
    paired_p_value,
    pairs_needed,
    wilcoxon_can_reach,
)

__all__ = [
    "FEWEST_FOR_BOOTSTRAP",
    "LEVEL",
    "MANY_SEEDS",
    "ClassScores",
    "Description",
    "Interval",
    "PairedDifference",
    "Verdict",
    "bootstrap_interval",
    "compare_pairs",
    "describe",
    "detectable_effect",
    "hedges_effect_size",
    "hierarchical_interval",
    "holm",
    "interquartile_interval",
    "interquartile_mean",
    "judge_family",
    "mean_ranks",
    "paired_p_value",
    "pairs_needed",
    "t_interval",
    "wilcoxon_can_reach",
]
