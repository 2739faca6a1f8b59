"""One run: data, model, loss, optimiser, evaluation and checkpoints. Knows nothing of Ray, Optuna or MLflow."""

from ctxtune.training.checkpoints import CheckpointFolder, load_checkpoint, save_checkpoint, scored_weights
from ctxtune.training.parts import RunParts, confirmation_parts, fold_parts
from ctxtune.training.run import Run
from ctxtune.training.world import World

__all__ = [
    "CheckpointFolder",
    "Run",
    "RunParts",
    "World",
    "confirmation_parts",
    "fold_parts",
    "load_checkpoint",
    "save_checkpoint",
    "scored_weights",
]
