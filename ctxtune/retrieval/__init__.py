"""Nearest neighbors and retrieval scores, exact at any size."""

from ctxtune.retrieval.nearest import Neighbors, nearest
from ctxtune.retrieval.scores import ClassScores, QueryScores, RetrievalScores
from ctxtune.retrieval.scoring import score

__all__ = ["ClassScores", "Neighbors", "QueryScores", "RetrievalScores", "nearest", "score"]
