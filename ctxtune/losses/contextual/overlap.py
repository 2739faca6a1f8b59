"""The constants of A, the overlap of two neighborhoods, and what a row of N receives through them.

The same for dense and sparse masks; the formulas are in docs/contextual_loss.md.
"""

import torch
from torch import Tensor

from ctxtune.losses.contextual.options import SimilarityOptions
from ctxtune.losses.contextual.sparse_mask import SparseMask, sums, take


class Overlap:
    """A = (c N - v) N^T + v o.

    Args:
        sizes: (n,) r, the size of each neighborhood, as floating point numbers.
        options: which overlaps count, and whether their normalizers are detached.

    Attributes:
        scale: (n,) c.
        outside, outside_scale: (n,) o and v; with `overlap="both"` only.
    """

    def __init__(self, sizes: Tensor, options: SimilarityOptions) -> None:
        self.sizes, self.options, self.items = sizes, options, len(sizes)
        self.scale = sizes.reciprocal()
        if options.overlap == "both":
            self.outside = self.items - sizes
            # 1/(2 o), and 0 where nothing is outside (0 / 0 counts as 0).
            self.outside_scale = 0.5 * self.outside / self.outside.square().clamp_(min=1.0)
            self.scale = torch.add(self.outside_scale, self.scale, alpha=0.5)

    def of_shared(self, shared: Tensor) -> Tensor:
        """A in place of N N^T: (n, n) to (n, n)."""
        shared *= self.scale.unsqueeze(1)
        if self.options.overlap == "both":
            shared += (self.outside_scale * self.outside).unsqueeze(1)
            shared.addr_(self.outside_scale, self.sizes, alpha=-1.0)
        return shared

    def at(self, shared: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """A at the given places, from N N^T laid out flat: (n * n,), (m,), (m,) to (m,)."""
        values = take(shared, torch.add(columns, rows, alpha=self.items)).mul_(take(self.scale, rows))
        if self.options.overlap == "both":
            values += take(self.outside_scale * self.outside, rows)
            values -= take(self.outside_scale, rows).mul_(take(self.sizes, columns))
        return values

    def per_row(self, neighbors: SparseMask, of_matrix: Tensor, matrix: Tensor) -> Tensor:
        """What a row's size receives, the same for every entry of the row: d of docs/contextual_loss.md.

        Args:
            neighbors: the mask N.
            of_matrix: (m,) gradient of A at the entries of N; it is 0 elsewhere.
            matrix: (m,) A itself there.

        Returns:
            (n,).
        """
        rows, columns = neighbors.rows, neighbors.columns
        total = self.sizes.new_zeros(self.items)
        if self.options.overlap == "none":
            return total
        by_row = sums(of_matrix, rows, self.items)
        if self.options.overlap == "both":
            by_column = sums(take(self.outside_scale, rows).mul_(of_matrix), columns, self.items)
            total = self.through_sizes(by_row, by_column)
        if self.options.detach_overlap_normalizer:
            return total
        times_matrix = sums(of_matrix * matrix, rows, self.items)
        times_sizes = sums(take(self.sizes, columns).mul_(of_matrix), rows, self.items)
        return total + self.through_normalizers(by_row, times_matrix, times_sizes)

    def through_sizes(self, by_row: Tensor, by_column: Tensor) -> Tensor:
        """Through the row sums that the second overlap subtracts, from dA 1 and dA^T v: (n,)."""
        return torch.addcmul(by_column, self.outside_scale, by_row).neg_()

    def through_normalizers(self, by_row: Tensor, times_matrix: Tensor, times_sizes: Tensor) -> Tensor:
        """Through the denominators r and o, if they are not detached, from dA 1, (dA * A) 1 and dA r: (n,)."""
        if self.options.overlap == "shared":
            return -times_matrix / self.sizes
        outside_only = by_row * self.outside - times_sizes
        of_shared = (times_matrix - self.outside_scale * outside_only) / self.scale
        of_outside = outside_only + of_shared
        return 2.0 * self.outside_scale.square() * of_outside - 0.5 * of_shared / self.sizes.square()
