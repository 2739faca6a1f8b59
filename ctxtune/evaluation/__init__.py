"""A checkpoint looked at afterwards: what wrote it, its model, its scores on any split of any data set."""

from ctxtune.evaluation.checkpoint import Checkpoint, read_checkpoint, recorded_scores, restore_model
from ctxtune.evaluation.scoring import Scored, export_checkpoint, mean_scores, named_scores, score_model

__all__ = [
    "Checkpoint",
    "Scored",
    "export_checkpoint",
    "mean_scores",
    "named_scores",
    "read_checkpoint",
    "recorded_scores",
    "restore_model",
    "score_model",
]
