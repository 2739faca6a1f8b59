"""Losses that smooth average precision: SmoothAP, SupAP (of ROADMAP) and SoftBinAP.

Each item of a batch is a query, and every item is in the gallery: the query itself too, as a positive of its own.
"""

from collections.abc import Callable

import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.utils.common_functions import indices_tuple_not_supported, labels_required
from torch import Tensor

from ctxtune.float32_products import full_float32
from ctxtune.losses.checks import check_not_empty, check_number, check_positive
from ctxtune.losses.numerics import at_least_float32, check_distance, unit_rows
from ctxtune.losses.reference import join_reference


class _AveragePrecisionLoss(BaseMetricLossFunction):
    """1 - mean of a smooth average precision over the queries; with a reference set the gallery is both."""

    # What equals a row of the batch in a reference set is a copy of it, and left out: nobody need say which pairs are.
    leaves_out_copies = True

    def __init__(self, **pytorch_metric_learning: object) -> None:
        super().__init__(**pytorch_metric_learning)
        check_distance(self)

    def get_default_distance(self) -> CosineSimilarity:
        return CosineSimilarity()

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: tuple[Tensor, ...] | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> dict[str, dict[str, object]]:
        """Called by `forward`. Reduces by query; takes no indices_tuple (ValueError)."""
        labels_required(labels)
        assert labels is not None
        indices_tuple_not_supported(indices_tuple)
        check_not_empty(len(embeddings))
        gallery, gallery_labels = embeddings, labels
        if ref_emb is not embeddings:
            labels_required(ref_labels)
            assert ref_labels is not None
            gallery, gallery_labels, _ = join_reference(embeddings, labels, ref_emb, ref_labels)
        with full_float32(embeddings.device.type):
            units, _ = unit_rows(at_least_float32(gallery))
            similarities = units[: len(labels)] @ units.T
            precision = self.average_precision(similarities, labels.unsqueeze(1) == gallery_labels)
        indices = torch.arange(len(labels), device=embeddings.device)
        return {"loss": {"losses": 1.0 - precision, "indices": indices, "reduction_type": "element"}}

    def average_precision(self, similarities: Tensor, same_class: Tensor) -> Tensor:
        """Smooth average precision of each query: (q, n) and (q, n) bool to (q,). The diagonal is the query."""
        raise NotImplementedError


def ranked_average_precision(
    similarities: Tensor,
    same_class: Tensor,
    positive_step: Callable[[Tensor], Tensor],
    negative_step: Callable[[Tensor], Tensor],
) -> Tensor:
    """Average precision with a step function in place of "is ranked above": (q, n), (q, n) bool to (q,).

    For a query i and each of its positives j: rank among positives / rank among all, each 1 + the sum of
    step(s_ip - s_ij) over the others p; then the mean over j. Only pairs (query, positive) are expanded: memory grows
    with (positives n), not with n^3 as in the formula written out.
    """
    query, positive = same_class.nonzero(as_tuple=True)
    rows, mask = similarities[query], same_class[query]
    above = rows - similarities[query, positive].unsqueeze(1)
    itself = torch.zeros_like(mask)
    itself[torch.arange(len(query), device=mask.device), positive] = True
    among_positives = torch.where(mask & ~itself, positive_step(above), 0.0).sum(dim=1) + 1.0
    among_negatives = torch.where(mask, 0.0, negative_step(above)).sum(dim=1)
    precision = among_positives / (among_positives + among_negatives)
    total = similarities.new_zeros(len(similarities)).index_add(0, query, precision)
    return total / same_class.sum(dim=1)


def smooth_step(values: Tensor, temperature: float) -> Tensor:
    """Sigmoid of values / temperature, cut off at +-50 as in the authors' code."""
    return torch.sigmoid((values / temperature).clamp(-50.0, 50.0))


class SmoothAPLoss(_AveragePrecisionLoss):
    """SmoothAP (Brown et al., ECCV 2020): a sigmoid of the given temperature in place of every step.

    pytorch-metric-learning's SmoothAPLoss wants classes of equal size, in order; this one takes any batch.
    """

    def __init__(self, temperature: float = 0.01, **pytorch_metric_learning: object) -> None:
        super().__init__(**pytorch_metric_learning)
        self.temperature = check_positive("temperature", temperature)

    def average_precision(self, similarities: Tensor, same_class: Tensor) -> Tensor:
        """See the base class."""

        def step(values: Tensor) -> Tensor:
            return smooth_step(values, self.temperature)

        return ranked_average_precision(similarities, same_class, step, step)


class SupAPLoss(_AveragePrecisionLoss):
    """SupAP of ROADMAP (Ramzi et al., NeurIPS 2021): an upper bound of the AP loss.

    Exact steps (without gradient) among positives. For a negative that is x above the positive: sigmoid(x / tau) for
    x <= 0, start + sigmoid(x / tau) up to delta, slope x + offset beyond.
    """

    def __init__(
        self,
        temperature: float = 0.01,
        slope: float = 100.0,
        offset: float = 1.44,
        delta: float = 0.05,
        start: float = 0.5,
        **pytorch_metric_learning: object,
    ) -> None:
        super().__init__(**pytorch_metric_learning)
        self.temperature = check_positive("temperature", temperature)
        self.slope = check_positive("slope", slope)
        self.offset = check_number("offset", offset, minimum=0.0)
        self.delta = check_number("delta", delta, minimum=0.0)
        self.start = check_number("start", start, minimum=0.0)

    def average_precision(self, similarities: Tensor, same_class: Tensor) -> Tensor:
        """See the base class."""

        def exact(values: Tensor) -> Tensor:
            return (values >= 0).to(values.dtype)

        def bound(values: Tensor) -> Tensor:
            smooth = smooth_step(values, self.temperature)
            beyond = self.slope * values + self.offset
            return torch.where(values > self.delta, beyond, torch.where(values > 0, smooth + self.start, smooth))

        return ranked_average_precision(similarities, same_class, exact, bound)


class SoftBinAPLoss(_AveragePrecisionLoss):
    """SoftBinAP (Revaud et al., ICCV 2019, "Learning with Average Precision"): a soft histogram of the similarities.

    `bins` triangular bins with centers from 1 down to -1. Each similarity falls into two of them, so that histograms
    are scattered instead of evaluated bin by bin.
    """

    def __init__(self, bins: int = 20, **pytorch_metric_learning: object) -> None:
        super().__init__(**pytorch_metric_learning)
        if isinstance(bins, bool) or not isinstance(bins, int) or bins < 2:
            raise ValueError(f"bins must be a whole number of at least 2, not {bins!r}")
        self.bins = bins

    def average_precision(self, similarities: Tensor, same_class: Tensor) -> Tensor:
        """See the base class."""
        positives = same_class.to(similarities.dtype)
        position = (1.0 - similarities.clamp(-1.0, 1.0)) * ((self.bins - 1) / 2.0)
        lower = position.detach().floor().clamp_(max=self.bins - 2)
        upper_share = position - lower
        place = lower.long()
        lower_share = 1.0 - upper_share
        empty = similarities.new_zeros(len(similarities), self.bins)
        counts = empty.scatter_add(1, place, lower_share).scatter_add(1, place + 1, upper_share)
        recall = empty.scatter_add(1, place, lower_share * positives)
        recall = recall.scatter_add(1, place + 1, upper_share * positives)
        precision = recall.cumsum(dim=1) / (counts.cumsum(dim=1) + 1e-16)
        return (precision * recall).sum(dim=1) / positives.sum(dim=1)
