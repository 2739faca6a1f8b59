"""The contextual loss and its gradient in closed form, with masks that are sparse but not very: rows are gathered.

The formulas are in docs/contextual_loss.md. Every product has a sparse matrix on its left, whose rows pick and add up
rows of the dense one on its right. That is what embedding bags do, many times quicker than a dense product while a
mask's row holds less than about a tenth of the batch.
"""

import torch
from torch import Tensor

from ctxtune.losses.contextual.neighborhoods import Neighborhoods
from ctxtune.losses.contextual.options import SimilarityOptions
from ctxtune.losses.contextual.overlap import Overlap
from ctxtune.losses.contextual.sparse_mask import SparseMask, take
from ctxtune.losses.numerics import plus_transpose


class GatheredContextualLoss:
    """The contextual loss over the first `rows` rows, and its gradient with respect to the similarities.

    Args:
        masks: N, N' and R.
        same_class: the pairs that share their class, the diagonal included.
        options: with `closed_form` and `query_expansion` true.
        rows: number of leading rows whose pairs make up the loss.
        dtype: to compute in.
    """

    def __init__(
        self, masks: Neighborhoods, same_class: SparseMask, options: SimilarityOptions, rows: int, dtype: torch.dtype
    ) -> None:
        self.options, self.rows = options, rows
        self.masks, self.neighbors, self.reciprocal = masks, masks.neighbors, masks.reciprocal
        self.items, self.keys = masks.neighbors.items, masks.neighbors.keys()
        self.overlap = Overlap(masks.neighbors.sizes.to(dtype), options)
        self.count = self.reciprocal.sizes.to(dtype)
        self.mask = self.overlap.sizes.new_zeros(self.items, self.items)
        self.mask.view(-1).index_fill_(0, self.keys, 1.0)
        self.matrix: Tensor | None = None
        weights = self.mask
        self.weights = self.overlap.sizes.new_ones(len(self.keys))
        if options.overlap != "none":
            transposed = torch.zeros_like(self.mask)
            transposed.view(-1).index_fill_(0, masks.neighbors.keys(transposed=True), 1.0)
            self.matrix = self.overlap.of_shared(_gather(masks.neighbors, None, transposed))
            del transposed
            self.weights = take(self.matrix.view(-1), self.keys)
            weights = self.mask * self.matrix
        self.expanded = _gather(self.reciprocal, take(self.count, self.reciprocal.rows).reciprocal_(), weights)
        del weights
        self.error = plus_transpose(self.expanded)  # 2 (w - y) off the diagonal
        flat = self.error.view(-1)
        flat.index_add_(0, same_class.keys(), flat.new_tensor(-2.0).expand(len(same_class.rows)))
        self.error.fill_diagonal_(0.0)

    def value(self) -> Tensor:
        """1/(rows n) times the sum of error^2 over the first rows."""
        counted = self.error[: self.rows].reshape(-1)
        return torch.dot(counted, counted) / (4.0 * counted.numel())

    def gradient(self, matrix: Tensor, weight: Tensor | float) -> Tensor:
        """weight * (dL/ds + its transpose) = what is added to `matrix` (n, n) + row 1^T + 1 row^T. To be called once.

        Returns:
            row (n,).
        """
        if self.rows < self.items:
            self.error[: self.rows, self.rows :] *= 0.5
            self.error[self.rows :, : self.rows] *= 0.5
            self.error[self.rows :, self.rows :] = 0.0
        scale = weight * (2.0 * self.options.slope / (self.rows * self.items))
        along = self.expanded.mul_(self.error).sum(dim=1)
        del self.expanded
        total = self._of_closest(along)
        of_weights = _gather(self.reciprocal, take(self.count, self.reciprocal.columns).reciprocal_(), self.error)
        del self.error
        of_matrix = take(of_weights.view(-1), self.keys).mul_(scale)
        if self.matrix is None:
            total += of_weights
        else:
            total.addcmul_(of_weights, self.matrix)
            del self.matrix
        del of_weights
        total *= scale
        if self.options.overlap != "none":
            total += self._of_shared(of_matrix)
        matrix += plus_transpose(total)
        return self.overlap.per_row(self.neighbors, of_matrix, self.weights)

    def _of_closest(self, along: Tensor) -> Tensor:
        """dR * (N' + N'^T), transposed: (n, n)."""
        # Here dR^T = (W1 H - 1 h^T) / 1 q^T, as H is symmetric.
        result = _gather(self.neighbors, self.weights, self.error)
        if not self.options.detach_expansion_normalizer:
            result -= along
        per_column = self.count.reciprocal()
        either = torch.zeros_like(result)
        ends = (self.masks.closest_rows, self.masks.closest_columns)
        for rows, columns in (ends, ends[::-1]):
            either.view(-1).index_add_(0, torch.add(columns, rows, alpha=self.items), take(per_column, columns))
        return result.mul_(either)

    def _of_shared(self, of_matrix: Tensor) -> Tensor:
        """(B + B^T) N with B = c of_matrix at the entries of N: (n, n)."""
        neighbors = self.neighbors
        scaled = take(self.overlap.scale, neighbors.rows).mul_(of_matrix)
        order = neighbors.columns.argsort()
        sizes = torch.bincount(neighbors.columns, minlength=self.items)
        transposed = SparseMask.of(take(neighbors.columns, order), take(neighbors.rows, order), sizes)
        result = _gather(neighbors, scaled, self.mask)
        return result.add_(_gather(transposed, take(scaled, order), self.mask))


def _gather(mask: SparseMask, values: Tensor | None, right: Tensor) -> Tensor:
    """The sparse matrix with the given values (1 if None) at `mask`, times a dense one: (n, n)."""
    return torch.nn.functional.embedding_bag(mask.columns, right, mask.starts, mode="sum", per_sample_weights=values)
