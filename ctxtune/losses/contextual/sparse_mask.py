"""A sparse 0/1 matrix as the list of its entries, and the operations on such lists."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SparseMask:
    """A sparse 0/1 matrix (n, n) as a list of its m entries, row by row.

    Attributes:
        rows, columns: (m,) int64, in ascending order of the rows.
        sizes: (n,) int64, entries of each row.
        starts: (n,) int64, where the entries of each row begin.
    """

    rows: Tensor
    columns: Tensor
    sizes: Tensor
    starts: Tensor

    @classmethod
    def of(cls, rows: Tensor, columns: Tensor, sizes: Tensor) -> "SparseMask":
        """From entries in row order and their number in each row."""
        return cls(rows, columns, sizes, sizes.cumsum(dim=0) - sizes)

    @property
    def items(self) -> int:
        """n."""
        return len(self.sizes)

    def keys(self, *, transposed: bool = False) -> Tensor:
        """Places of the entries, or of their mirror images, in the matrix laid out flat: (m,)."""
        first, second = (self.columns, self.rows) if transposed else (self.rows, self.columns)
        return torch.add(second, first, alpha=self.items)


def class_pairs(labels: Tensor) -> SparseMask:
    """All pairs of items that share their label, an item with itself included."""
    ordered, order = labels.sort()
    starts = torch.searchsorted(ordered, labels)
    sizes = torch.searchsorted(ordered, labels, right=True).sub_(starts)
    rows, places = expand(starts, sizes)
    return SparseMask.of(rows, take(order, places), sizes)


def expand(starts: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Count through several ranges at once: for groups (g,) the group and the position of each element, (t,) each."""
    groups = torch.repeat_interleave(counts)
    places = torch.arange(len(groups), device=counts.device)
    return groups, places.add_(take(starts + counts - counts.cumsum(dim=0), groups))


def take(values: Tensor, places: Tensor) -> Tensor:
    """values[places] for vectors: on a CPU several times quicker than by brackets."""
    return values.index_select(0, places)


def sums(values: Tensor, groups: Tensor, count: int) -> Tensor:
    """Sum of the values of each group: (t,), (t,) to (count,)."""
    return values.new_zeros(count).index_add_(0, groups, values)
