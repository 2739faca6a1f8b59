"""What losses share that take a batch as a whole, without chosen pairs and without a reference set."""

from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.utils.common_functions import (
    indices_tuple_not_supported,
    labels_required,
    ref_not_supported,
)
from torch import Tensor

from ctxtune.float32_products import full_float32
from ctxtune.losses.checks import check_not_empty
from ctxtune.losses.numerics import at_least_float32


class WholeBatchLoss(BaseMetricLossFunction):
    """A loss in pytorch-metric-learning's form; a subclass writes `batch_loss`."""

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: tuple[Tensor, ...] | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> dict[str, dict[str, object]]:
        """Called by `forward`. Takes neither an indices_tuple nor a reference set (ValueError)."""
        labels_required(labels)
        assert labels is not None
        indices_tuple_not_supported(indices_tuple)
        ref_not_supported(embeddings, labels, ref_emb, ref_labels)
        check_not_empty(len(embeddings))
        with full_float32(embeddings.device.type):
            loss = self.batch_loss(at_least_float32(embeddings), labels)
        return {"loss": {"losses": loss, "indices": None, "reduction_type": "already_reduced"}}

    def batch_loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of (n, d) embeddings, float32 or float64 and not normalized, with labels (n,): a scalar."""
        raise NotImplementedError
