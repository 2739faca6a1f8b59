"""The contextual loss and its gradient in closed form, with dense matrices. For small batches and for dense masks.

docs/contextual_loss.md has the derivation and the names used here. Five products of (n, n) matrices stand where
autograd through the formula written out takes nine. For small batches what counts is the number of operations:
(R/q)^T and W1 lie in one matrix, so that U and (H W1^T)^T are one product.
"""

import torch
from torch import Tensor

from ctxtune.losses.contextual.options import SimilarityOptions
from ctxtune.losses.contextual.overlap import Overlap
from ctxtune.losses.numerics import plus_transpose


def dense_masks(similarities: Tensor, options: SimilarityOptions) -> tuple[Tensor, Tensor | None]:
    """N, and N' where there is a query expansion, as 0 and 1 in the dtype of the similarities.

    Args:
        similarities: (n, n), with a diagonal of exactly 1.
        options: k and epsilon.
    """
    edges = similarities.topk(options.k, dim=1).values.clamp_(max=1.0) - 0.5 * options.epsilon
    neighbors = torch.ge(similarities, edges[:, options.k - 1 :], out=torch.empty_like(similarities))
    if not options.query_expansion:
        return neighbors, None
    half = options.k // 2
    return neighbors, torch.ge(similarities, edges[:, half - 1 : half], out=torch.empty_like(similarities))


def dense_contextual_loss(
    neighbors: Tensor,
    closest: Tensor | None,
    same_class: Tensor,
    options: SimilarityOptions,
    rows: int,
    with_gradient: bool,
) -> tuple[Tensor, Tensor | None, float]:
    """Contextual loss over the first `rows` rows, and its gradient with respect to the similarities.

    Args:
        neighbors, closest: (n, n) masks of `dense_masks`; `closest` is overwritten.
        same_class: (n, n), 1 where two items share their class, else 0.
        options: with `closed_form` true.
        rows: number of leading rows whose pairs make up the loss.
        with_gradient: whether to compute the gradient.

    Returns:
        The loss, 1/(rows n) times the sum of (y - w)^2 over the pairs i != j with i < rows; G (n, n) or None, and a
        factor: dL = factor * <G, ds> for every symmetric ds (G itself is not symmetric).
    """
    overlap = _DenseOverlap(neighbors, options)
    scale = 1.0 / (rows * len(neighbors))
    if closest is None:
        error = overlap.weights(torch.empty_like(neighbors)).sub_(same_class).fill_diagonal_(0.0)
        loss = _sum_of_squares(error[:rows]).mul_(scale)
        if not with_gradient:
            return loss, None, 0.0
        if rows < len(error):
            error[rows:] = 0.0
        return loss, overlap.backward(error, None), 4.0 * options.slope * scale

    items = len(neighbors)
    either = plus_transpose(closest)
    reciprocal = torch.gt(either, 1.0, out=closest)
    count = reciprocal.sum(dim=1)
    left = neighbors.new_empty(2 * items, items)
    average_transposed = torch.div(reciprocal, count, out=left[:items])  # R/q, as R is symmetric
    weights = overlap.weights(left[items:])
    expanded = average_transposed.T @ weights
    error = plus_transpose(expanded).sub_(same_class, alpha=2.0).fill_diagonal_(0.0)  # 2 (w - y)
    loss = _sum_of_squares(error[:rows]).mul_(0.25 * scale)
    if not with_gradient:
        return loss, None, 0.0
    if rows < items:
        error[:rows, rows:] *= 0.5
        error[rows:, :rows] *= 0.5
        error[rows:, rows:] = 0.0
    through = left @ error
    of_weights, of_reciprocal = through[:items], through[items:]  # the second transposed
    if not options.detach_expansion_normalizer:
        of_reciprocal -= expanded.mul_(error).sum(dim=1)
    of_reciprocal.div_(count).mul_(either)
    return loss, overlap.backward(of_weights, of_reciprocal), 2.0 * options.slope * scale


def _sum_of_squares(values: Tensor) -> Tensor:
    flat = values.reshape(-1)
    return torch.dot(flat, flat)


class _DenseOverlap:
    """How much two neighborhoods (and their complements) share: the matrix A, and back."""

    def __init__(self, neighbors: Tensor, options: SimilarityOptions) -> None:
        self.neighbors, self.options = neighbors, options
        self.matrix: Tensor | None = None
        if options.overlap == "none":
            return
        self.overlap = overlap = Overlap(neighbors.sum(dim=1), options)
        self.scale = overlap.scale.unsqueeze(1)
        if options.overlap == "shared":
            self.matrix = (neighbors * self.scale) @ neighbors.T
            return
        left = torch.addcmul(-overlap.outside_scale.unsqueeze(1), neighbors, self.scale)
        self.matrix = torch.addmm((overlap.outside_scale * overlap.outside).unsqueeze(1), left, neighbors.T)

    def weights(self, result: Tensor) -> Tensor:
        """W1 = N * A, written to `result` (n, n)."""
        if self.matrix is None:
            return result.copy_(self.neighbors)
        return torch.mul(self.neighbors, self.matrix, out=result)

    def backward(self, of_weights: Tensor, others: Tensor | None) -> Tensor:
        """Gradient of the neighborhood mask N from that of W1, plus `others`, in place of one of them: (n, n)."""
        if self.matrix is None:
            return of_weights if others is None else others.add_(of_weights)
        of_matrix = of_weights * self.neighbors
        per_row = self._per_row(of_matrix, self.matrix)
        total = of_weights.mul_(self.matrix) if others is None else others.addcmul_(of_weights, self.matrix)
        if per_row is not None:
            total += per_row.unsqueeze(1)
        of_matrix *= self.scale
        return total.addmm_(plus_transpose(of_matrix), self.neighbors)

    def _per_row(self, of_matrix: Tensor, matrix: Tensor) -> Tensor | None:
        """What a row's size receives, the same for every entry of the row: (n,)."""
        total = None
        by_row = of_matrix.sum(dim=1)
        if self.options.overlap == "both":
            total = self.overlap.through_sizes(by_row, of_matrix.T @ self.overlap.outside_scale)
        if self.options.detach_overlap_normalizer:
            return total
        times_matrix = (of_matrix * matrix).sum(dim=1)
        through = self.overlap.through_normalizers(by_row, times_matrix, of_matrix @ self.overlap.sizes)
        return through if total is None else total + through
