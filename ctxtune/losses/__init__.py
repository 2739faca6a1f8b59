"""Losses: the contextual loss and everything that its paper compares it with, behind one door."""

from ctxtune.losses.build import TrainingLoss, build_loss
from ctxtune.losses.contextual.loss import ContextualLoss
from ctxtune.losses.contextual.similarity import contextual_similarity
from ctxtune.losses.memory import CrossBatchMemory
from ctxtune.losses.registry import loss_names
from ctxtune.losses.self_supervised import SelfSupervisedLoss
from ctxtune.losses.settings import LossSettings, RegularizerSettings

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
