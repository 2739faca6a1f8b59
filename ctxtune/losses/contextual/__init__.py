"""The contextual loss: its options, its similarity, and its fast closed forms."""

from ctxtune.losses.contextual.loss import ContextualLoss
from ctxtune.losses.contextual.similarity import contextual_similarity

__all__ = ["ContextualLoss", "contextual_similarity"]
