"""The contrastive term over cosine similarities (equation 12 of the paper), dense, sparse, and as a loss of its own.

Mean of margin - s over the positives below `positive_margin`, plus mean of s - margin over the negatives above
`negative_margin`; a mean over nothing is 0. The diagonal (exactly 1) is never below a margin of at most 1.
"""

from dataclasses import dataclass

import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import BaseMetricLossFunction
from torch import Tensor

from ctxtune.float32_products import full_float32
from ctxtune.losses.checks import check_not_empty, check_number
from ctxtune.losses.contextual.sparse_mask import SparseMask, take
from ctxtune.losses.numerics import at_least_float32, class_matrix, unit_rows
from ctxtune.losses.reference import join_reference, narrowed_pairs


@dataclass(frozen=True)
class Margins:
    """The margins of the contrastive term, cosine similarities.

    Raises:
        ValueError: a margin lies outside of [-1, 1].
    """

    positive: float
    negative: float

    def __post_init__(self) -> None:
        check_number("positive_margin", self.positive, minimum=-1.0, maximum=1.0)
        check_number("negative_margin", self.negative, minimum=-1.0, maximum=1.0)


class ContrastiveLoss(BaseMetricLossFunction):
    """The contrastive term alone, as a loss of pytorch-metric-learning that knows a memory's copies of the batch.

    Args:
        positive_margin, negative_margin: cosine similarities beyond which a pair is left alone.
    """

    # What equals a row of the batch in a reference set is a copy of it, and left out: nobody need say which pairs are.
    leaves_out_copies = True

    def __init__(self, positive_margin: float = 0.9, negative_margin: float = 0.6) -> None:
        super().__init__()
        self.margins = Margins(positive_margin, negative_margin)

    def get_default_distance(self) -> CosineSimilarity:
        """The only distance of this loss."""
        return CosineSimilarity()

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: tuple[Tensor, ...] | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> dict[str, dict[str, object]]:
        """Called by `forward`; see `ContextualLoss.weighted_terms` for the arguments."""
        if labels is None:
            raise ValueError("ContrastiveLoss needs labels")
        check_not_empty(len(embeddings))
        rows, columns = len(embeddings), None
        if ref_emb is not embeddings:
            if ref_labels is None:
                raise ValueError("ContrastiveLoss needs ref_labels with ref_emb")
            embeddings, labels, columns = join_reference(embeddings, labels, ref_emb, ref_labels)
        allowed = (
            None if indices_tuple is None else narrowed_pairs(indices_tuple, labels, rows, columns, required=False)
        )
        with full_float32(embeddings.device.type):
            units, _ = unit_rows(at_least_float32(embeddings))
            same_class = class_matrix(labels[:rows], labels, units.dtype)
            value = contrastive_loss(units[:rows] @ units.T, same_class, self.margins, allowed)
        return {"loss": {"losses": value, "indices": None, "reduction_type": "already_reduced"}}


def contrastive_loss(similarities: Tensor, same_class: Tensor, margins: Margins, allowed: Tensor | None) -> Tensor:
    """The contrastive loss, differentiable with respect to the similarities.

    Args:
        similarities: (m, n) cosine similarities of the first m of n items with all of them.
        same_class, allowed: as in `contrastive_coefficients`.
    """
    exact = similarities.detach().clamp(max=1.0).fill_diagonal_(1.0)
    value, coefficients = contrastive_coefficients(exact, same_class, margins, allowed)
    # Piecewise linear: the value is as computed from the exact diagonal, the gradient that of the inner product.
    linear = (similarities * coefficients).sum()
    return linear - linear.detach() + value


def contrastive_coefficients(
    similarities: Tensor, same_class: Tensor, margins: Margins, allowed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Contrastive loss and its gradient with respect to the similarities.

    Args:
        similarities: (m, n) cosine similarities, those of an item with itself exactly 1.
        same_class: (m, n), 1 or 0.
        allowed: (m, n) bool, the pairs that count; None for all.

    Returns:
        The loss, and its gradient (m, n): -1/(active positives), 1/(active negatives), or 0.
    """
    # Comparisons written as floating point numbers are several times quicker on a CPU than those written as bool.
    active = similarities.new_empty(2, *similarities.shape)
    positive, negative = active
    torch.lt(similarities, margins.positive, out=positive).mul_(same_class)
    torch.gt(similarities, margins.negative, out=negative).addcmul_(negative, same_class, value=-1.0)
    if allowed is not None:
        active *= allowed
    count = active.sum(dim=(1, 2))
    per_pair = count.clamp(min=1.0).reciprocal_()
    coefficients = negative.mul_(per_pair[1]).addcmul_(positive, per_pair[0], value=-1.0)
    some = count.clamp_(max=1.0)
    loss = torch.dot(similarities.reshape(-1), coefficients.reshape(-1))
    return loss.add_(some[0], alpha=margins.positive).sub_(some[1], alpha=margins.negative), coefficients


@dataclass(frozen=True)
class ActivePairs:
    """The active pairs of the contrastive term, and what their similarities come to.

    Attributes:
        negatives: (rows, n), 1 or 0.
        positive_rows, positive_columns: (p,) int64.
        count: (2,), of positives and of negatives.
        total: (2,), sums of their similarities.
    """

    negatives: Tensor
    positive_rows: Tensor
    positive_columns: Tensor
    count: Tensor
    total: Tensor

    def loss(self, margins: Margins) -> Tensor:
        """The contrastive loss."""
        mean = self.total / self.count.clamp(min=1.0)
        some = self.count.clamp(max=1.0)
        return margins.positive * some[0] - mean[0] + mean[1] - margins.negative * some[1]

    def gradient(self, weight: float, *, symmetric: bool) -> tuple[Tensor, Tensor]:
        """weight * (C + C^T) for the gradient C of the loss, in units of its weight of a negative. To be called once.

        With `symmetric` (a whole batch, no pairs left out) C is its own transpose and `negatives` is reused.

        Returns:
            (n, n) matrix and the unit (scalar) that it is to be multiplied by.
        """
        per_positive, per_negative = weight / self.count.clamp(min=1.0)
        rows, items = self.negatives.shape
        if symmetric:
            matrix, unit, lists = self.negatives, 2.0 * per_negative, 1
        else:
            matrix = self.negatives.new_zeros(items, items)
            matrix[:rows] = self.negatives
            matrix[:, :rows] += self.negatives.T
            unit, lists = per_negative, 2
        ends = (self.positive_rows, self.positive_columns)
        value = -per_positive / per_negative
        for first, second in (ends, ends[::-1])[:lists]:
            matrix.view(-1).index_add_(0, first * items + second, value.expand(len(first)))
        return matrix, unit


class ActivePairsCollector:
    """Collects the active pairs block by block of rows of the similarities.

    Args:
        same_class: the pairs of a class.
        margins: of the term.
        allowed: (rows, n) bool, the pairs that count; None for all.
        units: (n, d), whose dtype and device the result has.
        rows: number of leading rows whose pairs count.
    """

    def __init__(
        self, same_class: SparseMask, margins: Margins, allowed: Tensor | None, units: Tensor, rows: int
    ) -> None:
        self.same_class, self.margins, self.allowed = same_class, margins, allowed
        self.negatives = units.new_empty(rows, len(units))
        self.positives: list[tuple[Tensor, Tensor]] = []
        self.counts: list[tuple[Tensor, Tensor]] = []
        self.totals: list[tuple[Tensor, Tensor]] = []

    def add(self, similarities: Tensor, start: int) -> None:
        """Take in a block (b, n) whose first row is `start`."""
        stop = start + len(similarities)
        first = int(self.same_class.starts[start])
        last = first + int(self.same_class.sizes[start:stop].sum())
        rows, columns = self.same_class.rows[first:last], self.same_class.columns[first:last]
        places = (rows - start).mul_(similarities.shape[1]).add_(columns)
        positive = take(similarities.view(-1), places)
        active = positive < self.margins.positive
        negatives = torch.gt(similarities, self.margins.negative, out=self.negatives[start:stop])
        negatives.view(-1).index_fill_(0, places, 0.0)
        if self.allowed is not None:
            active &= self.allowed[rows, columns]
            negatives *= self.allowed[start:stop]
        chosen = active.nonzero().view(-1)
        self.positives.append((take(rows, chosen), take(columns, chosen)))
        self.counts.append((active.sum(), negatives.sum()))
        self.totals.append((take(positive, chosen).sum(), torch.dot(similarities.view(-1), negatives.view(-1))))

    def result(self) -> ActivePairs:
        """All that was taken in."""
        rows, columns = (torch.cat(parts) for parts in zip(*self.positives, strict=True))
        count, total = (_summed(parts, self.negatives) for parts in (self.counts, self.totals))
        return ActivePairs(self.negatives, rows, columns, count, total)


def _summed(parts: list[tuple[Tensor, Tensor]], like: Tensor) -> Tensor:
    """Sums of the first and of the second numbers: (2,)."""
    return torch.stack([value.to(like.dtype) for pair in parts for value in pair]).view(-1, 2).sum(dim=0)
