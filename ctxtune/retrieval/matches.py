"""The matches of each query (other gallery items of its class) with their similarities, worst first."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ctxtune.retrieval.inputs import Classes, EmbeddingRows
from ctxtune.retrieval.similarity import exact_matrix

PIECE = 1024
BATCH_ELEMENTS = 2**20


@dataclass(frozen=True)
class ClassMembers:
    """Gallery items by class: class c holds `items[start[c]:start[c + 1]]`, greatest gallery index first."""

    items: Tensor
    start: Tensor
    size: Tensor


def class_members(classes: Tensor, number: int) -> ClassMembers:
    """Group items (g,) by their class numbers below `number`."""
    size = torch.bincount(classes, minlength=number)
    descending = torch.arange(len(classes) - 1, -1, -1, device=classes.device)
    items = descending[torch.sort(classes.flip(0), stable=True).indices]
    start = torch.zeros(number + 1, dtype=torch.int64, device=classes.device)
    start[1:] = size.cumsum(0)
    return ClassMembers(items, start, size)


@dataclass(frozen=True)
class Matches:
    """Matches of queries `first` .. `first + q - 1`.

    Query number i (from `first`) has those at `start[i]` .. `start[i + 1] - 1`: `items` (m,) gallery indices and
    `similarities` (m,) float64 exact, in reverse order of rank: similarity ascending, then gallery index descending.
    """

    first: int
    start: Tensor
    items: Tensor
    similarities: Tensor

    @property
    def count(self) -> Tensor:
        """R of each query, (q,)."""
        return self.start[1:] - self.start[:-1]


def find_matches(
    queries: EmbeddingRows,
    gallery: EmbeddingRows,
    classes: Classes,
    members: ClassMembers,
    first: int,
    last: int,
    *,
    own_left_out: bool,
) -> Matches:
    """Matches of the queries first .. last - 1; with `own_left_out` query i is not its own match."""
    device = classes.queries.device
    query_classes = classes.queries[first:last]
    size = members.size[query_classes]
    start = torch.zeros(last - first + 1, dtype=torch.int64, device=device)
    start[1:] = size.cumsum(0)
    total = int(start[-1])
    similarities = torch.empty(total, dtype=torch.float64, device=device)
    for query_rows, member_rows, offsets, used in _class_batches(query_classes, members, queries.dimension):
        items = members.items[member_rows]
        block = exact_matrix(_stack(queries, query_rows + first), _stack(gallery, items))
        place = start[query_rows][:, :, None] + offsets[:, None, :]
        similarities[place[used]] = block[used]
    owner = torch.repeat_interleave(size)
    offset = torch.arange(total, device=device) - start[owner]
    items = members.items[members.start[query_classes][owner] + offset]
    if own_left_out:
        kept = items != owner + first
        items, similarities = items[kept], similarities[kept]
        start = start - torch.arange(len(start), device=device)
    return _sorted_by_rank(Matches(first, start, items, similarities))


def _stack(rows: EmbeddingRows, indices: Tensor) -> Tensor:
    return rows.rows(indices.reshape(-1)).view(*indices.shape, rows.dimension)


def _class_batches(
    query_classes: Tensor, members: ClassMembers, dimension: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Blocks of queries x gallery items of one class, blocks of like sizes batched together.

    Yields query rows (b, n), positions in `members.items` (b, m), their offsets within the class (b, m) and the mask
    of what is no padding (b, n, m).
    """
    device = query_classes.device
    order = torch.sort(query_classes, stable=True).indices
    query_count = torch.bincount(query_classes, minlength=len(members.size))
    query_start = (query_count.cumsum(0) - query_count).tolist()
    pieces = [
        (min(PIECE, queries - q), min(PIECE, items - g), query_start[number] + q, start + g, g)
        for number, (queries, items, start) in enumerate(
            zip(query_count.tolist(), members.size.tolist(), members.start.tolist(), strict=False)
        )
        if queries and items
        for q in range(0, queries, PIECE)
        for g in range(0, items, PIECE)
    ]
    pieces.sort()
    begin = 0
    while begin < len(pieces):
        end, widest = begin, 0
        while end < len(pieces):
            widest = max(widest, pieces[end][1])
            if end > begin and (end + 1 - begin) * max(pieces[end][0], widest) * dimension > BATCH_ELEMENTS:
                break
            end += 1
        table = torch.tensor(pieces[begin:end], device=device)
        begin = end
        queries, items, query_from, item_from, offset = table.T[:, :, None]
        along_queries = torch.arange(int(queries.max()), device=device)[None]
        along_items = torch.arange(int(items.max()), device=device)[None]
        used = (along_queries < queries)[:, :, None] & (along_items < items)[:, None, :]
        along_queries, along_items = along_queries.minimum(queries - 1), along_items.minimum(items - 1)
        yield order[query_from + along_queries], item_from + along_items, offset + along_items, used


def _sorted_by_rank(matches: Matches) -> Matches:
    """Sort each query's matches; they come in descending gallery index, which a stable sort keeps among ties."""
    count = matches.count
    widths = count.tolist()
    begin = 0
    items, similarities = torch.empty_like(matches.items), torch.empty_like(matches.similarities)
    while begin < len(widths):
        end, widest = begin, 0
        while end < len(widths):
            widest = max(widest, widths[end])
            if end > begin and (end + 1 - begin) * widest > BATCH_ELEMENTS:
                break
            end += 1
        along = torch.arange(widest, device=count.device)[None]
        used = along < count[begin:end, None]
        place = (matches.start[begin:end, None] + along)[used]
        padded = torch.full(used.shape, torch.inf, dtype=torch.float64, device=count.device)
        padded[used] = matches.similarities[place]
        ordered, order = torch.sort(padded, dim=1, stable=True)
        similarities[place] = ordered[used]
        items[place] = matches.items[(matches.start[begin:end, None] + order)[used]]
        begin = end
    return Matches(matches.first, matches.start, items, similarities)
