"""The contextual loss and its gradient in closed form, with dense matrices. For small batches and for dense masks.

The derivation is in docs/contextual_loss.md. With N, N' the two neighbourhood masks, r = N 1 and o = n - r their row
sums, c = (1/r + 1/o)/2 and v = 1/(2 o) (constants, where the normalizer is detached), y the matrix of shared labels:

    A  = (c N - v) N^T + v o            half the sum of the two overlaps; (1-N)(1-N)^T = n - r_i - r_j + N N^T
    W1 = N * A                          R = N' * N'^T,  q = R 1,  W2 = R W1 / q,  w = (W2 + W2^T)/2
    H  = dL/dw                          symmetric, zero on the diagonal
    U  = dL/dW1 = (R/q)^T H             dR = (H W1^T - (H * W2) 1) / q
    B  = c * U * N                      dN = U * A + (B + B^T) N + d 1^T
    d  = -v * (U * N) 1 - (U * N)^T v   the row sums that the second overlap subtracts
    dL/ds = 2 slope (dN + dR * (N' + N'^T)), up to a transposition that the symmetric use of s takes away.

That is five products of (n, n) matrices where autograd through the formula written out takes nine.
"""

import torch
from torch import Tensor

from ctxtune.losses.options import SimilarityOptions
from ctxtune.losses.overlap import Overlap
from ctxtune.losses.pairs import plus_transpose


def dense_contextual_loss(
    similarities: Tensor, same_class: Tensor, options: SimilarityOptions, rows: int, with_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Contextual loss over the first `rows` rows, and its gradient with respect to the similarities.

    Args:
        similarities: (n, n) cosine similarities, at most 1, with a diagonal of exactly 1.
        same_class: (n, n), 1 where two items share their class, else 0.
        options: with `closed_form` true.
        rows: number of leading rows whose pairs make up the loss.
        with_gradient: whether to compute the gradient.

    Returns:
        The loss, 1/(rows n) times the sum of (y - w)^2 over the pairs i != j with i < rows; and G (n, n) with
        dL = <G, ds> for every symmetric ds (G itself is not symmetric), or None.
    """
    nearest = similarities.topk(options.k, dim=1).values
    neighbours = _at_least(similarities, nearest[:, options.k - 1 :] - 0.5 * options.epsilon)
    overlap = _DenseOverlap(neighbours, options)
    weights = neighbours if overlap.matrix is None else neighbours * overlap.matrix
    if not options.query_expansion:
        loss, of_weights = _squared_error(weights.clone(), same_class, rows)
        if not with_gradient:
            return loss, None
        return loss, overlap.backward(of_weights).mul_(2.0 * options.slope)

    half = options.k // 2
    closest = _at_least(similarities, nearest[:, half - 1 : half] - 0.5 * options.epsilon)
    either = plus_transpose(closest)
    average = torch.gt(either, 1.0, out=closest)
    count = average.sum(dim=1, keepdim=True)
    average /= count
    expanded = average @ weights
    symmetric = plus_transpose(expanded).mul_(0.5)
    loss, of_symmetric = _squared_error(symmetric, same_class, rows)
    if not with_gradient:
        return loss, None
    if rows < len(similarities):
        of_symmetric = plus_transpose(of_symmetric).mul_(0.5)

    of_reciprocal = of_symmetric @ weights.T
    if not options.detach_expansion_normalizer:
        of_reciprocal -= expanded.mul_(of_symmetric).sum(dim=1, keepdim=True)
    of_reciprocal.div_(count).mul_(either)
    del expanded, either, weights
    of_weights = average.T @ of_symmetric
    del average, of_symmetric, symmetric
    return loss, overlap.backward(of_weights).add_(of_reciprocal).mul_(2.0 * options.slope)


def _at_least(values: Tensor, thresholds: Tensor) -> Tensor:
    """1 where a value reaches the threshold of its row, else 0, in the dtype of `values`: (n, m), (n, 1) to (n, m)."""
    return torch.ge(values, thresholds, out=torch.empty_like(values))


def _squared_error(similarity: Tensor, same_class: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Mean of (y - w)^2 over the first rows (the diagonal counts as 0), and its gradient, in place of `similarity`."""
    error = similarity.sub_(same_class)
    error.fill_diagonal_(0.0)
    counted = error[:rows].reshape(-1)
    scale = 1.0 / counted.numel()
    loss = torch.dot(counted, counted) * scale
    error[rows:] = 0.0
    return loss, error.mul_(2.0 * scale)


class _DenseOverlap:
    """How much two neighbourhoods (and their complements) share: the matrix A of the module's docstring, and back."""

    def __init__(self, neighbours: Tensor, options: SimilarityOptions) -> None:
        self.neighbours, self.options = neighbours, options
        self.matrix: Tensor | None = None
        if options.overlap == "none":
            return
        self.overlap = overlap = Overlap(neighbours.sum(dim=1), options)
        self.scale = overlap.scale.unsqueeze(1)
        if options.overlap == "shared":
            self.matrix = (neighbours * self.scale) @ neighbours.T
            return
        left = torch.addcmul(-overlap.outside_scale.unsqueeze(1), neighbours, self.scale)
        self.matrix = torch.addmm((overlap.outside_scale * overlap.outside).unsqueeze(1), left, neighbours.T)

    def backward(self, of_weights: Tensor) -> Tensor:
        """Gradient of the neighbourhood mask N from that of W1 = N * A: (n, n) to (n, n)."""
        if self.matrix is None:
            return of_weights
        of_matrix = of_weights * self.neighbours
        per_row = self._per_row(of_matrix, self.matrix)
        of_neighbours = of_weights.mul_(self.matrix)
        if per_row is not None:
            of_neighbours += per_row.unsqueeze(1)
        of_matrix *= self.scale
        return of_neighbours.addmm_(plus_transpose(of_matrix), self.neighbours)

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
