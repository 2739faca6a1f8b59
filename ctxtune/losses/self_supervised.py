"""Two views of each image as a class of its own, for this package's losses too."""

from pytorch_metric_learning import losses

from ctxtune.losses.average_precision import SmoothAPLoss, SoftBinAPLoss, SupAPLoss
from ctxtune.losses.combined import CombinedLoss
from ctxtune.losses.contextual.loss import ContextualLoss
from ctxtune.losses.roadmap import RoadmapLoss

_OWN = (ContextualLoss, RoadmapLoss, SmoothAPLoss, SoftBinAPLoss, SupAPLoss, CombinedLoss)


class SelfSupervisedLoss(losses.SelfSupervisedLoss):
    """pytorch-metric-learning's SelfSupervisedLoss, called with (embeddings, ref_emb), for the losses of this package too.

    The library admits losses by the names of their classes, from a list of its own.
    """

    @staticmethod
    def supported_losses() -> list[str]:
        """The names of the classes that can be wrapped."""
        return [*losses.SelfSupervisedLoss.supported_losses(), *(loss.__name__ for loss in _OWN)]
