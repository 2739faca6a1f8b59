"""The matches of each query (other gallery items of its class) with their similarities, worst first."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ctxtune.retrieval.cutoffs import Cutoffs
from ctxtune.retrieval.embeddings import Embeddings
from ctxtune.retrieval.similarity import exact_matrix
from ctxtune.retrieval.threads import Workers
from ctxtune.retrieval.work_sizes import class_elements

PIECE = 1024
# Queries with more matches than this are spared those that cannot count.
SORTED_WHOLE = 256


@dataclass(frozen=True)
class ClassMembers:
    """Gallery items by class: class c holds `items[start[c]:start[c + 1]]`, greatest gallery index first."""

    items: Tensor
    start: Tensor
    size: Tensor


def class_members(classes: Tensor, number: int) -> ClassMembers:
    """Group items (g,) by their class numbers, which are below `number`."""
    size = torch.bincount(classes, minlength=number)
    descending = torch.arange(len(classes) - 1, -1, -1, device=classes.device)
    items = descending[torch.sort(classes.flip(0), stable=True).indices]
    return ClassMembers(items, _starts(size), size)


@dataclass(frozen=True)
class Matches:
    """The best matches of q queries: those of query i at places `start[i]` .. `start[i + 1] - 1`.

    `items` (m,) int32 gallery indices and `similarities` (m,) exact, in reverse order of rank: similarity ascending,
    then gallery index descending. `start` (q + 1,) int64. `number` (q,): R, all of a query's matches, of which the
    worst may have been left out.
    """

    start: Tensor
    items: Tensor
    similarities: Tensor
    number: Tensor

    @cached_property
    def longest(self) -> int:
        """Most matches that are held of any query."""
        return int((self.start[1:] - self.start[:-1]).max()) if len(self.start) > 1 else 0

    def without_worst(self, number: Tensor) -> "Matches":
        """Each query's matches but for this number (q,) of the worst."""
        if not bool(number.any()):
            return self
        owner = torch.repeat_interleave(self.start[1:] - self.start[:-1])
        kept = torch.arange(len(self.items), device=owner.device) >= (self.start[:-1] + number)[owner]
        start = self.start.clone()
        start[1:] -= number.cumsum(0)
        return Matches(start, self.items[kept], self.similarities[kept], self.number)


def find_matches(
    queries: Embeddings,
    gallery: Embeddings,
    members: ClassMembers,
    cutoffs: Cutoffs,
    workers: Workers,
    *,
    exclude_self: bool,
) -> Matches:
    """The matches of all queries, or of large classes at least those that reach the cutoff, and the best.

    With `exclude_self` no query is its own match.
    """
    device = queries.device
    size = members.size[queries.classes]
    start = _starts(size)
    similarities = torch.empty(int(start[-1]), dtype=torch.float64, device=device)
    order = members.items if queries is gallery else torch.sort(queries.classes, stable=True).indices

    def compare(batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
        query_rows, items, offsets, used = batch
        stack = _stack(queries, query_rows)
        same = queries is gallery and torch.equal(query_rows, items)
        block = exact_matrix(stack, stack if same else _stack(gallery, items))
        place = start[query_rows][:, :, None] + offsets[:, None, :]
        if bool(used.all()):
            similarities[place] = block
        else:
            similarities[place[used]] = block[used]

    workers.each(compare, _class_batches(queries.classes, order, members, queries.dimension))
    owner = torch.repeat_interleave(size)
    items = members.items[
        torch.arange(len(owner), device=device) + (members.start[queries.classes] - start[:-1])[owner]
    ]
    if exclude_self:
        kept = items != queries.origin[owner]
        owner, items, similarities = owner[kept], items[kept], similarities[kept]
        size = size - 1
    number = size
    if len(size) and int(size.max()) > SORTED_WHOLE:
        kept = _is_needed(owner, items, similarities, cutoffs)
        owner, items, similarities = owner[kept], items[kept], similarities[kept]
        size = torch.bincount(owner, minlength=len(size))
    start = _starts(size)
    _sort_by_rank(start, items, similarities, workers)
    return Matches(start, items.int(), similarities, number)


def _is_needed(owner: Tensor, items: Tensor, similarities: Tensor, cutoffs: Cutoffs) -> Tensor:
    """Which matches (m,) reach their owner's cutoff or are as similar as its best."""
    best = torch.full_like(cutoffs.similarity, -torch.inf).scatter_reduce(0, owner, similarities, "amax")
    cutoff = cutoffs.similarity[owner]
    return (
        (similarities > cutoff)
        | ((similarities == cutoff) & (items <= cutoffs.item[owner]))
        | (similarities == best[owner])
    )


def _starts(sizes: Tensor) -> Tensor:
    start = torch.zeros(len(sizes) + 1, dtype=torch.int64, device=sizes.device)
    start[1:] = sizes.cumsum(0)
    return start


def _stack(source: Embeddings, indices: Tensor) -> Tensor:
    return source.rows(indices.reshape(-1)).view(*indices.shape, source.dimension)


def _class_batches(
    query_classes: Tensor, order: Tensor, members: ClassMembers, dimension: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Blocks of queries x gallery items of one class, blocks of like sizes batched together.

    `order` are the queries by class. Yields query rows (b, n), gallery items (b, m), the items' offsets within the
    class (b, m) and the mask of what is no padding (b, n, m).
    """
    device = query_classes.device
    query_count = torch.bincount(query_classes, minlength=len(members.size))
    query_start = (query_count.cumsum(0) - query_count).tolist()
    class_table = zip(query_count.tolist(), members.size.tolist(), query_start, members.start.tolist(), strict=False)
    pieces = [
        (min(PIECE, queries - q), min(PIECE, items - g), query_from + q, item_from + g, g)
        for queries, items, query_from, item_from in class_table
        for q in range(0, queries, PIECE)
        for g in range(0, items, PIECE)
    ]
    pieces.sort()
    for begin, end in _batches([max(piece[:2]) * dimension for piece in pieces], class_elements(device)):
        queries, items, query_from, item_from, offset = torch.tensor(pieces[begin:end], device=device).T[:, :, None]
        along_queries = torch.arange(int(queries.max()), device=device)[None]
        along_items = torch.arange(int(items.max()), device=device)[None]
        used = (along_queries < queries)[:, :, None] & (along_items < items)[:, None, :]
        along_queries, along_items = along_queries.minimum(queries - 1), along_items.minimum(items - 1)
        yield order[query_from + along_queries], members.items[item_from + along_items], offset + along_items, used


def _batches(widths: list[int], most: int) -> Iterator[tuple[int, int]]:
    """Runs of consecutive rows that, padded to the widest of the run, hold at most so many elements, or are one row."""
    begin, widest = 0, 0
    for end, width in enumerate(widths):
        widest = max(widest, width)
        if end > begin and (end + 1 - begin) * widest > most:
            yield begin, end
            begin, widest = end, width
    if begin < len(widths):
        yield begin, len(widths)


def _sort_by_rank(start: Tensor, items: Tensor, similarities: Tensor, workers: Workers) -> None:
    """Sort each query's matches in place; they come in descending index, which a stable sort keeps among ties."""
    count = start[1:] - start[:-1]
    widths = count.tolist()

    def sort(batch: tuple[int, int]) -> None:
        begin, end = batch
        along = torch.arange(max(widths[begin:end]), device=start.device)[None]
        used = along < count[begin:end, None]
        first = start[begin:end, None]
        places = slice(int(start[begin]), int(start[end]))
        padded = torch.where(used, similarities[(first + along).clamp(max=len(items) - 1)], torch.inf)
        ordered, order = torch.sort(padded, dim=1, stable=True)
        similarities[places] = ordered[used]
        items[places] = items[(first + order)[used]]

    workers.each(sort, _batches(widths, class_elements(start.device)))
