"""ROADMAP: SupAP and contrastive loss together (Ramzi et al., NeurIPS 2021)."""

from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor

from ctxtune.losses.average_precision import SupAPLoss
from ctxtune.losses.checks import check_number
from ctxtune.losses.contextual.contrastive import ContrastiveLoss


class RoadmapLoss(BaseMetricLossFunction):
    """average_precision_weight * SupAP + (1 - average_precision_weight) * contrastive, as the authors' baseline.

    Args:
        average_precision_weight: in [0, 1].
        positive_margin, negative_margin: of the contrastive term.
        average_precision: the options of `SupAPLoss`.

    Raises:
        ValueError: an option is out of its range, or a distance or reducer is asked for that the loss does not have.
    """

    def __init__(
        self,
        average_precision_weight: float = 0.5,
        positive_margin: float = 0.9,
        negative_margin: float = 0.6,
        **average_precision: float,
    ) -> None:
        super().__init__()
        self.weight = check_number("average_precision_weight", average_precision_weight, minimum=0.0, maximum=1.0)
        self.average_precision = SupAPLoss(**average_precision)
        if type(reducer := self.average_precision.reducer) is not MeanReducer:  # SumReducer is a subclass
            raise ValueError(f"RoadmapLoss adds a mean over the queries: MeanReducer, not {type(reducer).__name__}")
        self.contrastive = ContrastiveLoss(positive_margin, negative_margin)

    # What equals a row of the batch in a reference set is a copy of it, and left out: nobody need say which pairs are.
    leaves_out_copies = True

    def get_default_distance(self) -> CosineSimilarity:
        """The only distance of this loss."""
        return CosineSimilarity()

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: tuple[Tensor, ...] | None,
        ref_emb: Tensor,
        ref_labels: Tensor,
    ) -> dict[str, dict[str, object]]:
        """Called by `forward`; see `weighted_terms`."""
        reference = None if ref_emb is embeddings else ref_emb
        total, _ = self.weighted_terms(embeddings, labels, indices_tuple, reference, ref_labels)
        return {"loss": {"losses": total, "indices": None, "reduction_type": "already_reduced"}}

    def weighted_terms(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: tuple[Tensor, ...] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and its terms "sup_ap" and "contrastive", unweighted and detached.

        Raises:
            ValueError: there is an indices_tuple: SupAP ranks whole batches.
        """
        sup_ap = self.average_precision(embeddings, labels, indices_tuple, ref_emb, ref_labels)
        contrastive = self.contrastive(embeddings, labels, None, ref_emb, ref_labels)
        total = self.weight * sup_ap + (1.0 - self.weight) * contrastive
        return total, {"sup_ap": sup_ap.detach(), "contrastive": contrastive.detach()}
