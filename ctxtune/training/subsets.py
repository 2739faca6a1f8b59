"""Scores on random subsets of the test classes that are as many as a validation fold's.

Validation scores a gallery of few classes, test one of many, so the two differ even where nothing was overfitted. On
subsets of the fold's size what remains between them is the bias of the search's selection, and how hard the classes are.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ctxtune.retrieval import RetrievalScores, score

SUBSETS = 10


def subset_scores(
    scored: Sequence[tuple[Tensor, np.ndarray]], classes: int, recall_at: Sequence[int]
) -> list[RetrievalScores]:
    """Self-retrieval scores on `SUBSETS` random subsets of `classes` classes, the same ones in every run.

    Args:
        scored: embeddings (n, d) and labels (n,) of the queries and, where there is one, of the gallery; both together
            are retrieved from one another, as in a validation fold.

    Returns:
        Empty where there are no more classes than that, or a subset is too small for Recall@K.
    """
    embeddings = torch.cat([each for each, _ in scored])
    labels = np.concatenate([each for _, each in scored])
    known = np.unique(labels)
    if not 2 <= classes < len(known):
        return []
    found = []
    for subset in range(SUBSETS):
        generator = np.random.default_rng(np.random.SeedSequence([subset, classes]))
        inside = np.flatnonzero(np.isin(labels, generator.choice(known, classes, replace=False)))
        try:
            found.append(score(embeddings[torch.from_numpy(inside)], labels[inside], recall_at=tuple(recall_at)))
        except ValueError:  # fewer images than some K of Recall@K
            return []
    return found
