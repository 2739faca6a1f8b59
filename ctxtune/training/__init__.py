"""One run: data, model, loss, optimizer, evaluation and checkpoints. Knows nothing of Ray, Optuna or MLflow."""

from ctxtune.training.checkpoints import CheckpointFolder, load_checkpoint, save_checkpoint, scored_weights
from ctxtune.training.fold_trainer import FoldTrainer
from ctxtune.training.process_group import ProcessGroup
from ctxtune.training.splits import RunSplits, confirmation_splits, fold_splits

__all__ = [
    "CheckpointFolder",
    "FoldTrainer",
    "ProcessGroup",
    "RunSplits",
    "confirmation_splits",
    "fold_splits",
    "load_checkpoint",
    "save_checkpoint",
    "scored_weights",
]
