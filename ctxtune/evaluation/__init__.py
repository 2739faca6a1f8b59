"""A checkpoint looked at afterwards: what wrote it, its model, its scores on any split of any data set."""

from ctxtune.evaluation.checkpoint import (
    Checkpoint,
    check_one_model,
    one_model,
    read_checkpoint,
    recorded_scores,
    restore_model,
)
from ctxtune.evaluation.scoring import (
    Scored,
    export_checkpoint,
    mean_scores,
    named_scores,
    score_concatenated,
    score_model,
)

__all__ = [
    "Checkpoint",
    "Scored",
    "check_one_model",
    "export_checkpoint",
    "mean_scores",
    "named_scores",
    "one_model",
    "read_checkpoint",
    "recorded_scores",
    "restore_model",
    "score_concatenated",
    "score_model",
]
