"""The three terms of the hybrid loss, checked."""

from dataclasses import dataclass

from ctxtune.losses.checks import check_number
from ctxtune.losses.contextual.contrastive import Margins
from ctxtune.losses.contextual.options import SimilarityOptions


@dataclass(frozen=True)
class HybridTerms:
    """What `hybrid_loss` computes: the weights of the three terms and their options.

    Raises:
        ValueError: a weight is negative or not finite, or the target lies outside of [-1, 1].
    """

    options: SimilarityOptions
    contextual_weight: float
    contrastive_weight: float
    regularizer_weight: float
    margins: Margins
    similarity_target: float

    def __post_init__(self) -> None:
        for name in ("contextual_weight", "contrastive_weight", "regularizer_weight"):
            check_number(name, getattr(self, name), minimum=0.0)
        check_number("similarity_target", self.similarity_target, minimum=-1.0, maximum=1.0)
