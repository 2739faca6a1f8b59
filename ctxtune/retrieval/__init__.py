"""Nearest neighbors and retrieval scores, exact at any size."""

from typing import TYPE_CHECKING

from ctxtune.lazy_names import lazy_names
from ctxtune.retrieval.scores import ClassScores, QueryScores, RetrievalScores

if TYPE_CHECKING:
    from ctxtune.retrieval.neighbor_search import Neighbors, nearest
    from ctxtune.retrieval.scoring import score

__all__ = ["ClassScores", "Neighbors", "QueryScores", "RetrievalScores", "nearest", "score"]
__getattr__ = lazy_names(
    __name__, {"Neighbors": ".neighbor_search", "nearest": ".neighbor_search", "score": ".scoring"}
)
