"""What each class adds to the scores: for a bootstrap that resamples classes, long after the run."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from ctxtune.retrieval.scores import RetrievalScores

ClassSums: TypeAlias = dict[str, dict[str, tuple[float, int]]]
"""Score, class, then the sum over the class's queries and their number."""


def class_sums(scores: RetrievalScores, prefix: str) -> ClassSums:
    """MAP@R and Recall@1 by class: the sum over its queries and their number; classes without any match are left out."""
    found = scores.per_class
    if found is None:
        raise ValueError("these scores were not taken by class")
    means, matched = {"map_at_r": found.map_at_r}, np.isfinite(found.map_at_r)
    if 1 in found.recall_at:
        means["recall_at_1"] = found.recall_at[1]
    return {
        f"{prefix}/{name}": {
            str(label): (float(mean * queries), int(queries))
            for label, mean, queries, known in zip(found.labels, values, found.queries, matched, strict=True)
            if known
        }
        for name, values in means.items()
    }


def joined(each: Sequence[ClassSums]) -> ClassSums:
    """The classes of all folds together (no class is scored by two of them)."""
    return {score: {label: sums for part in each for label, sums in part[score].items()} for score in each[0]}
