"""Pure functions of numbers: intervals, paired contrasts, families, bootstraps. Imports nothing else of ctxtune."""

from ctxtune.statistics.aggregate import (
    critical_rank_difference,
    interquartile_interval,
    interquartile_mean,
    mean_ranks,
    performance_profile,
    probability_of_improvement,
    random_effects_interval,
    rank_intervals,
)
from ctxtune.statistics.equivalence import PracticalProbabilities, equivalence_p_value, practical_probabilities
from ctxtune.statistics.families import LEVEL, Verdict, holm, judge_family
from ctxtune.statistics.hierarchical import ArmClassScores, hierarchical_interval
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
    hedges_effect_size,
    paired_p_value,
    wilcoxon_can_reach,
)
from ctxtune.statistics.planning import (
    detectable_difference,
    detectable_effect,
    deviation_limit,
    equivalence_power,
    pairs_for_equivalence,
    pairs_needed,
)
from ctxtune.statistics.variance import CrossedComponents, NestedComponents, crossed_components, nested_components

__all__ = [
    "FEWEST_FOR_BOOTSTRAP",
    "LEVEL",
    "ArmClassScores",
    "CrossedComponents",
    "Description",
    "Interval",
    "NestedComponents",
    "PairedDifference",
    "PracticalProbabilities",
    "Verdict",
    "bootstrap_interval",
    "compare_pairs",
    "critical_rank_difference",
    "crossed_components",
    "describe",
    "detectable_difference",
    "detectable_effect",
    "deviation_limit",
    "equivalence_p_value",
    "equivalence_power",
    "hedges_effect_size",
    "hierarchical_interval",
    "holm",
    "interquartile_interval",
    "interquartile_mean",
    "judge_family",
    "mean_ranks",
    "nested_components",
    "paired_p_value",
    "pairs_for_equivalence",
    "pairs_needed",
    "performance_profile",
    "practical_probabilities",
    "probability_of_improvement",
    "random_effects_interval",
    "rank_intervals",
    "t_interval",
    "wilcoxon_can_reach",
]
