"""Losses: the contextual loss and everything that its paper compares it with, behind one door."""

from ctxtune.losses.catalogue import loss_names
from ctxtune.losses.contextual import ContextualLoss
from ctxtune.losses.memory import CrossBatchMemory
from ctxtune.losses.settings import LossSettings, RegularizerSettings
from ctxtune.losses.similarity import contextual_similarity
from ctxtune.losses.training import TrainingLoss, build_loss

__all__ = [
    "ContextualLoss",
    "CrossBatchMemory",
    "LossSettings",
    "RegularizerSettings",
    "TrainingLoss",
    "build_loss",
    "contextual_similarity",
    "loss_names",
]
