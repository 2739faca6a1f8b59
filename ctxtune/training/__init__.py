"""One run: data, model, loss, optimizer, evaluation and checkpoints. Knows nothing of Ray, Optuna or MLflow."""

from typing import TYPE_CHECKING

from ctxtune.lazy_names import lazy_names

if TYPE_CHECKING:
    from ctxtune.training.checkpoints import CheckpointFolder, load_checkpoint, save_checkpoint, scored_weights
    from ctxtune.training.fold_trainer import FoldTrainer
    from ctxtune.training.process_group import ProcessGroup
    from ctxtune.training.splits import RunSplits, confirmation_splits, fold_splits, fold_test_splits

__all__ = [
    "CheckpointFolder",
    "FoldTrainer",
    "ProcessGroup",
    "RunSplits",
    "confirmation_splits",
    "fold_splits",
    "fold_test_splits",
    "load_checkpoint",
    "save_checkpoint",
    "scored_weights",
]
__getattr__ = lazy_names(
    __name__,
    {
        "CheckpointFolder": ".checkpoints",
        "FoldTrainer": ".fold_trainer",
        "ProcessGroup": ".process_group",
        "RunSplits": ".splits",
        "confirmation_splits": ".splits",
        "fold_splits": ".splits",
        "fold_test_splits": ".splits",
        "load_checkpoint": ".checkpoints",
        "save_checkpoint": ".checkpoints",
        "scored_weights": ".checkpoints",
    },
)
