"""The contextual loss: its options, its similarity, and its fast closed forms."""

__all__ = ["ContextualLoss", "contextual_similarity"]
