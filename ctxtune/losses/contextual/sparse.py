"""The contextual loss and its gradient in closed form, with sparse masks as lists. For large batches.

Each product is written as a list of its terms (row, column, value), which is scattered into, or looked up in, a flat
(n, n) buffer. docs/contextual_loss.md has the derivation, why the lists are short, and their lengths.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ctxtune.losses.contextual.neighborhoods import Neighborhoods
from ctxtune.losses.contextual.options import SimilarityOptions
from ctxtune.losses.contextual.overlap import Overlap
from ctxtune.losses.contextual.sparse_mask import SparseMask, expand, sums, take

Scatter = Callable[[Tensor, Tensor, Tensor], None]


def list_limit(items: int) -> int:
    """Length of a list beyond which it is quicker, or takes less memory, to gather rows."""
    return items * items // 8


def lists_pay(masks: Neighborhoods, same_class: SparseMask, options: SimilarityOptions) -> bool:
    """Whether every list of `SparseContextualLoss` stays below `list_limit`; a term that is costly counts several times."""
    neighbors, reciprocal = masks.neighbors, masks.reciprocal
    found: list[Tensor] = []
    if options.overlap != "none":
        in_column = torch.bincount(neighbors.columns, minlength=neighbors.items)
        found.append(take(in_column, neighbors.columns).sum())  # N N^T
        found.append(4 * take(neighbors.sizes, neighbors.columns).sum())  # back through it
    in_expanded = take(neighbors.sizes, reciprocal.columns)  # the terms of R W1, for each entry of R
    found.append(4 * in_expanded.sum())
    per_neighborhood = sums(take(reciprocal.sizes, neighbors.columns), neighbors.rows, neighbors.items)
    carried = (take(reciprocal.sizes, reciprocal.rows) * in_expanded).sum()  # H, carried along R
    carried = carried + take(per_neighborhood, reciprocal.columns).sum() + take(reciprocal.sizes, same_class.rows).sum()
    found.append(2 * carried)
    return int(torch.stack(found).max()) <= list_limit(neighbors.items)


class SparseContextualLoss:
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
        self.options, self.rows, self.same_class, self.masks = options, rows, same_class, masks
        self.neighbors, self.reciprocal, self.items = masks.neighbors, masks.reciprocal, masks.neighbors.items
        self.overlap = Overlap(masks.neighbors.sizes.to(dtype), options)
        self.shared = self.overlap.sizes.new_zeros(0) if options.overlap == "none" else self._shared()
        self.weights = self._overlap_at(masks.neighbors.rows, masks.neighbors.columns)
        # w - y off the diagonal; proportional to H = dL/dw.
        self.error = self.weights.new_zeros(self.items * self.items)
        self.count = self.reciprocal.sizes.to(dtype)
        self._expand_weights()

    def _shared(self) -> Tensor:
        """N N^T laid out flat: for each entry (i, p) of N one more for each j that has p as a neighbor too."""
        rows, columns = self.neighbors.rows, self.neighbors.columns
        in_column = torch.bincount(columns, minlength=self.items)
        lengths = take(in_column, columns)
        groups, places = expand(take(in_column.cumsum(dim=0) - in_column, columns), lengths)
        keys = take(take(rows, columns.argsort()), places).add_(take(rows * self.items, groups))
        shared = self.overlap.sizes.new_zeros(self.items * self.items)
        return shared.index_add_(0, keys, shared.new_ones(()).expand(len(keys)))

    def _overlap_at(self, rows: Tensor, columns: Tensor) -> Tensor:
        if self.options.overlap == "none":
            return self.overlap.sizes.new_ones(len(rows))
        return self.overlap.at(self.shared, rows, columns)

    def _expand_weights(self) -> None:
        """W2 = R W1 / q as a list, and w - y in `error`."""
        reciprocal, neighbors = self.reciprocal, self.neighbors
        lengths = take(neighbors.sizes, reciprocal.columns)
        groups, places = expand(take(neighbors.starts, reciprocal.columns), lengths)
        self.w_rows, self.w_columns = take(reciprocal.rows, groups), take(neighbors.columns, places)
        self.w_values = take(self.weights, places).div_(take(self.count, self.w_rows))
        self.w_keys = torch.add(self.w_columns, self.w_rows, alpha=self.items)
        half = 0.5 * self.w_values
        self.error.index_add_(0, self.w_keys, half)
        self.error.index_add_(0, torch.add(self.w_rows, self.w_columns, alpha=self.items), half)
        self.y_keys = self.same_class.keys()
        self.error.index_add_(0, self.y_keys, half.new_ones(()).neg_().expand(len(self.y_keys)))
        self.error[:: self.items + 1] = 0.0

    def value(self) -> Tensor:
        """1/(rows n) times the sum of error^2 over the first rows."""
        # error is the sum of the lists' values at their places, so error^2 sums up to values times error.
        at_w, at_y = take(self.error, self.w_keys), take(self.error, self.y_keys)
        if self.rows == self.items:
            total = torch.dot(self.w_values, at_w) - at_y.sum()
        else:
            counted = self._counted(self.w_rows, self.w_columns)
            total = torch.dot(self.w_values, at_w * counted) - at_y[self.same_class.rows < self.rows].sum()
        return total / (self.rows * self.items)

    def _counted(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Share of a pair and its mirror image that lies in the first rows: 0, 1/2 or 1."""
        return 0.5 * ((rows < self.rows).to(self.weights.dtype) + (columns < self.rows).to(self.weights.dtype))

    def gradient(self, matrix: Tensor, weight: Tensor | float) -> Tensor:
        """weight * (dL/ds + its transpose) = what is added to `matrix` (n, n) + row 1^T + 1 row^T. To be called once.

        Returns:
            row (n,).
        """
        if self.rows < self.items:
            square = self.error.view(self.items, self.items)
            square[: self.rows, self.rows :] *= 0.5
            square[self.rows :, : self.rows] *= 0.5
            square[self.rows :, self.rows :] = 0.0
        scale = weight * (4.0 * self.options.slope / (self.rows * self.items))
        scatter = partial(_scatter, matrix.view(-1), self.items)
        scatter(self.masks.closest_rows, self.masks.closest_columns, self._of_closest() * scale)
        rows, columns, values = self._times_overlap()
        scatter(rows, columns, values * scale)
        of_matrix = self._of_weights() * scale
        self._scatter_shared(of_matrix, scatter)
        return self.overlap.per_row(self.neighbors, of_matrix, self.weights)

    def _of_closest(self) -> Tensor:
        """For (a, b) of N' off the diagonal: dR_ab + dR_ba, what N'_ba receives."""
        rows, columns = self.masks.closest_rows, self.masks.closest_columns
        first, second = torch.cat([rows, columns]), torch.cat([columns, rows])
        groups, places = expand(take(self.neighbors.starts, second), take(self.neighbors.sizes, second))
        keys = torch.add(take(self.neighbors.columns, places), take(first, groups), alpha=self.items)
        of_r = sums(take(self.error, keys).mul_(take(self.weights, places)), groups, len(first))
        if not self.options.detach_expansion_normalizer:
            along = take(self.error, self.w_keys).mul_(self.w_values)
            of_r -= take(sums(along, self.w_rows, self.items), first)
        of_r /= take(self.count, first)
        return of_r[: len(rows)] + of_r[len(rows) :]

    def _of_weights(self) -> Tensor:
        """U = (R/q)^T H at the entries of N."""
        rows, columns = self.neighbors.rows, self.neighbors.columns
        groups, places = expand(take(self.reciprocal.starts, rows), take(self.reciprocal.sizes, rows))
        through = take(self.reciprocal.columns, places)
        keys = torch.add(take(columns, groups), through, alpha=self.items)
        return sums(take(self.error, keys).div_(take(self.count, through)), groups, len(rows))

    def _times_overlap(self) -> tuple[Tensor, Tensor, Tensor]:
        """U * A as a list: H's list, carried along R, times A."""
        rows = torch.cat([self.w_rows, self.w_columns, self.same_class.rows])
        columns = torch.cat([self.w_columns, self.w_rows, self.same_class.columns])
        half = 0.5 * self.w_values
        values = torch.cat([half, half, half.new_full((len(self.y_keys),), -1.0)])
        values *= rows != columns
        if self.rows < self.items:
            values *= self._counted(rows, columns)
        values /= take(self.count, rows)
        groups, places = expand(take(self.reciprocal.starts, rows), take(self.reciprocal.sizes, rows))
        to, columns = take(self.reciprocal.columns, places), take(columns, groups)
        return to, columns, take(values, groups).mul_(self._overlap_at(to, columns))

    def _scatter_shared(self, of_matrix: Tensor, scatter: Scatter) -> None:
        """(B + B^T) N with B = c of_matrix, of_matrix (m,) at the entries of N, handed to `scatter` as lists."""
        if self.options.overlap == "none":
            return
        neighbors = self.neighbors
        scaled = take(self.overlap.scale, neighbors.rows).mul_(of_matrix)
        for rows, through in ((neighbors.rows, neighbors.columns), (neighbors.columns, neighbors.rows)):
            groups, places = expand(take(neighbors.starts, through), take(neighbors.sizes, through))
            scatter(take(rows, groups), take(neighbors.columns, places), take(scaled, groups))


def _scatter(matrix: Tensor, items: int, rows: Tensor, columns: Tensor, values: Tensor) -> None:
    """Add a list and its transpose to a flat (n, n) matrix."""
    matrix.index_add_(0, torch.add(columns, rows, alpha=items), values)
    matrix.index_add_(0, torch.add(rows, columns, alpha=items), values)
