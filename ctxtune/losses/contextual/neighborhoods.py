"""One pass over the similarity matrix, row block by row block, that keeps what the sparse contextual loss needs of it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ctxtune.losses.contextual.options import SimilarityOptions

# Entries of the similarity matrix that are held at once.
_BLOCK_ENTRIES = {"cpu": 1 << 20, "cuda": 1 << 25}


class TooDense(Exception):
    """The masks are too dense for lists to pay; with the similarities (n, n), where all of them were at hand."""

    def __init__(self, similarities: Tensor | None = None) -> None:
        super().__init__()
        self.similarities = similarities


def list_limit(items: int) -> int:
    """Length of a list beyond which it is quicker, or takes less memory, to gather rows."""
    return items * items // 8


def mask_limit(items: int) -> int:
    """Entries of a mask beyond which dense products are quicker than to gather rows."""
    return items * items // 10


@dataclass(frozen=True)
class Pairs:
    """A sparse 0/1 matrix (n, n) as a list of its entries, row by row.

    Attributes:
        rows, columns: (m,) int64, rows in ascending order.
        sizes: (n,) int64, entries of each row.
        starts: (n,) int64, where the entries of each row begin.
    """

    rows: Tensor
    columns: Tensor
    sizes: Tensor
    starts: Tensor

    @classmethod
    def of(cls, rows: Tensor, columns: Tensor, sizes: Tensor) -> "Pairs":
        """From entries in row order and their number in each row."""
        return cls(rows, columns, sizes, sizes.cumsum(dim=0) - sizes)

    def keys(self, *, transposed: bool = False) -> Tensor:
        """Places of the entries, or of their mirror images, in the matrix laid out flat: (m,)."""
        first, second = (self.columns, self.rows) if transposed else (self.rows, self.columns)
        return torch.add(second, first, alpha=len(self.sizes))


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


def class_pairs(labels: Tensor) -> Pairs:
    """All pairs of items that share their label, an item with itself included."""
    ordered, order = labels.sort()
    starts = torch.searchsorted(ordered, labels)
    sizes = torch.searchsorted(ordered, labels, right=True).sub_(starts)
    rows, places = expand(starts, sizes)
    return Pairs.of(rows, take(order, places), sizes)


@dataclass(frozen=True)
class Margins:
    """The contrastive term: its margins, and the pairs that count, (rows, n) bool or None for all."""

    positive: float
    negative: float
    allowed: Tensor | None


@dataclass(frozen=True)
class Active:
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


@dataclass(frozen=True)
class Scan:
    """What is kept of the similarity matrix.

    Attributes:
        neighbours: the mask N.
        closest: (m,) bool, which of its entries are in N' too.
        active: of the contrastive term, if there is one.
    """

    neighbours: Pairs
    closest: Tensor
    active: Active | None


def scan(units: Tensor, same_class: Pairs, options: SimilarityOptions, margins: Margins | None, rows: int) -> Scan:
    """Neighbourhoods and active pairs of normalised embeddings (n, d).

    Raises:
        TooDense: there are too many neighbours, or pairs of a class, for lists to pay.
    """
    items = len(units)
    limit = mask_limit(items)
    if len(same_class.rows) > limit:
        raise TooDense
    block = max(1, min(items, _BLOCK_ENTRIES.get(units.device.type, 1 << 25) // items))
    buffer = units.new_empty(block, items)
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    tally = None if margins is None else _Tally(same_class, margins, units, rows)
    total = 0
    for start in range(0, items, block):
        stop = min(items, start + block)
        similarities = torch.mm(units[start:stop], units.T, out=buffer[: stop - start])
        similarities.diagonal(start).fill_(1.0)
        inside, near_edge = _neighbourhoods(similarities, options)
        found.append(_entries(similarities, inside, near_edge))
        total += len(found[-1][0])
        if total > limit:
            raise TooDense(similarities if block == items else None)
        found[-1][0].add_(start)
        if tally is not None and start < rows:
            tally.add(similarities[: rows - start], start)
    neighbour_rows, columns, closest, sizes = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Scan(Pairs.of(neighbour_rows, columns, sizes), closest, None if tally is None else tally.result())


def _neighbourhoods(similarities: Tensor, options: SimilarityOptions) -> tuple[Tensor, Tensor]:
    """The mask N of a block (b, n), as bool, and the similarities (b,) from which an item is in N' too."""
    nearest = similarities.topk(options.k, dim=1).values.clamp_(max=1.0)
    edge = nearest[:, options.k - 1 :] - 0.5 * options.epsilon
    return similarities >= edge, nearest[:, options.k // 2 - 1] - 0.5 * options.epsilon


def _entries(similarities: Tensor, inside: Tensor, near_edge: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows, columns and nearness (in N' or not) of the entries of N in a block, and their number in each row."""
    places = inside.view(-1).nonzero().view(-1)
    rows = torch.div(places, similarities.shape[1], rounding_mode="floor")
    columns = places - rows * similarities.shape[1]
    closest = take(similarities.view(-1), places) >= take(near_edge, rows)
    return rows, columns, closest, torch.bincount(rows, minlength=len(similarities))


def reciprocal_pairs(found: Scan, buffer: Tensor) -> tuple[tuple[Tensor, Tensor], Pairs]:
    """The entries of N' off the diagonal, rows and columns; and R = N' * N'^T.

    Args:
        found: the masks.
        buffer: (n * n,) zeros, which they are again afterwards.
    """
    items = len(found.neighbours.sizes)
    inside = found.closest.nonzero().view(-1)
    rows, columns = take(found.neighbours.rows, inside), take(found.neighbours.columns, inside)
    keys = torch.add(columns, rows, alpha=items)
    buffer.index_fill_(0, keys, 1.0)
    mutual = take(buffer, torch.add(rows, columns, alpha=items)).nonzero().view(-1)
    buffer.index_fill_(0, keys, 0.0)
    others = (rows != columns).nonzero().view(-1)
    rows_of_r = take(rows, mutual)
    sizes = torch.bincount(rows_of_r, minlength=items)
    return (take(rows, others), take(columns, others)), Pairs.of(rows_of_r, take(columns, mutual), sizes)


class _Tally:
    """Collects the active pairs of the contrastive term block by block."""

    def __init__(self, same_class: Pairs, margins: Margins, units: Tensor, rows: int) -> None:
        self.same_class, self.margins = same_class, margins
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
        if self.margins.allowed is not None:
            active &= self.margins.allowed[rows, columns]
            negatives *= self.margins.allowed[start:stop]
        chosen = active.nonzero().view(-1)
        self.positives.append((take(rows, chosen), take(columns, chosen)))
        self.counts.append((active.sum(), negatives.sum()))
        self.totals.append((take(positive, chosen).sum(), torch.dot(similarities.view(-1), negatives.view(-1))))

    def result(self) -> Active:
        """All that was taken in."""
        rows, columns = (torch.cat(parts) for parts in zip(*self.positives, strict=True))
        count, total = (_summed(parts, self.negatives) for parts in (self.counts, self.totals))
        return Active(self.negatives, rows, columns, count, total)


def _summed(parts: list[tuple[Tensor, Tensor]], like: Tensor) -> Tensor:
    """Sums of the first and of the second numbers: (2,)."""
    return torch.stack([value.to(like.dtype) for pair in parts for value in pair]).view(-1, 2).sum(dim=0)


def contrastive_value(count: Tensor, total: Tensor, positive_margin: float, negative_margin: float) -> Tensor:
    """The contrastive loss from number and sum of the active positives and negatives: (2,) and (2,)."""
    mean = total / count.clamp(min=1.0)
    some = count.clamp(max=1.0)
    return positive_margin * some[0] - mean[0] + mean[1] - negative_margin * some[1]


def active_gradient(active: Active, weight: float, *, symmetric: bool) -> tuple[Tensor, Tensor]:
    """weight * (C + C^T) for the gradient C of the contrastive term, in units of its weight of a negative.

    With `symmetric` (a whole batch, no pairs left out) C is its own transpose and the mask of the negatives is reused.

    Returns:
        (n, n) matrix and the unit (scalar) that it is to be multiplied by.
    """
    per_positive, per_negative = weight / active.count.clamp(min=1.0)
    rows, items = active.negatives.shape
    if symmetric:
        matrix, unit, lists = active.negatives, 2.0 * per_negative, 1
    else:
        matrix = active.negatives.new_zeros(items, items)
        matrix[:rows] = active.negatives
        matrix[:, :rows] += active.negatives.T
        unit, lists = per_negative, 2
    ends = (active.positive_rows, active.positive_columns)
    value = -per_positive / per_negative
    for first, second in (ends, ends[::-1])[:lists]:
        matrix.view(-1).index_add_(0, first * items + second, value.expand(len(first)))
    return matrix, unit
