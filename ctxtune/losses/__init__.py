"""Losses: the contextual loss and everything that its paper compares it with."""

from typing import TYPE_CHECKING

from ctxtune.lazy_names import lazy_names
from ctxtune.losses.registry import loss_names
from ctxtune.losses.settings import LossSettings, RegularizerSettings

if TYPE_CHECKING:
    from ctxtune.losses.build import TrainingLoss, build_loss
    from ctxtune.losses.contextual.loss import ContextualLoss
    from ctxtune.losses.contextual.similarity import contextual_similarity
    from ctxtune.losses.memory import CrossBatchMemory
    from ctxtune.losses.self_supervised import SelfSupervisedLoss

__all__ = [
    "ContextualLoss",
    "CrossBatchMemory",
    "LossSettings",
    "RegularizerSettings",
    "SelfSupervisedLoss",
    "TrainingLoss",
    "build_loss",
    "contextual_similarity",
    "loss_names",
]
__getattr__ = lazy_names(
    __name__,
    {
        "ContextualLoss": ".contextual.loss",
        "CrossBatchMemory": ".memory",
        "SelfSupervisedLoss": ".self_supervised",
        "TrainingLoss": ".build",
        "build_loss": ".build",
        "contextual_similarity": ".contextual.similarity",
    },
)
