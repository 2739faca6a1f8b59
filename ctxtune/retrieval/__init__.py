"""Nearest neighbours and retrieval scores, exact at any size."""

from ctxtune.retrieval.nearest import Neighbours, nearest
from ctxtune.retrieval.scores import ClassScores, QueryScores, RetrievalScores
from ctxtune.retrieval.scoring import score

__all__ = ["ClassScores", "Neighbours", "QueryScores", "RetrievalScores", "nearest", "score"]
