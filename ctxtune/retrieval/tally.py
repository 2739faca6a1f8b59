"""Count, for each match of each query, the items of other classes that are ranked before it.

Counting needs no sorting: the rank of a query's j-th best match is j plus the number of other items before it. So one
comparison per pair gives Recall@K for any K, and tiles of similarities can be added in any order and from any side.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ctxtune.retrieval.inputs import Classes
from ctxtune.retrieval.matches import Matches
from ctxtune.retrieval.similarity import exact_pairs, float64_error

OPEN_SHARE = 0.02
PAIR_ELEMENTS = 2**21


@dataclass(frozen=True)
class Tile:
    """Similarities of some queries with some gallery items, and where they lie.

    `values` (n, m), off by at most `error` (0: exact, float64). `queries` (n, d), `gallery` (m, d): the embeddings on
    the similarity grid. The first query and the first item have the global indices `query_start`, `gallery_start`.
    """

    values: Tensor
    error: float
    queries: Tensor
    gallery: Tensor
    query_start: int
    gallery_start: int

    @property
    def transposed(self) -> "Tile":
        """The same pairs with queries and gallery exchanged, for a set searched in itself."""
        return Tile(self.values.T, self.error, self.gallery, self.queries, self.gallery_start, self.query_start)


@dataclass(frozen=True)
class _Pairs:
    """Pairs of a tile with a place in the flat list of matches each: rows, columns (p,) in the tile, places (p,)."""

    rows: Tensor
    columns: Tensor
    places: Tensor


class Tally:
    """Running counts for the queries of `matches`. Each pair of query and gallery item is to be added once."""

    def __init__(self, matches: Matches, classes: Classes, floor: Tensor, *, own_left_out: bool) -> None:
        """Counts are complete for matches at least as similar as their query's `floor` (q,), and for the best match."""
        self.matches = matches
        self.classes = classes
        self.own_left_out = own_left_out
        start, end = matches.start[:-1], matches.start[1:]
        some = end > start
        self.best = torch.where(some, end - 1, torch.zeros_like(end))
        self.best_similarity = _at(matches.similarities, self.best, some)
        # Where even the best match lies below the floor, items before it are counted without being listed.
        self.counted = some & (self.best_similarity < floor)
        relevant = search(matches, start, end, floor, -1)
        self.complete_from = torch.where(self.counted, self.best, relevant)
        self.lowest = _at(matches.similarities, relevant, some & ~self.counted)
        # An item before the matches at places up to p and no further adds 1 to steps[p].
        self.steps = torch.zeros_like(matches.items)
        self.single = torch.zeros_like(matches.items)

    def add(self, tile: Tile) -> bool:
        """Count a tile. False, and nothing counted, if too many of its pairs are too close to call: make it exact."""
        if self.own_left_out:
            _blank_own(tile)
        first = tile.query_start - self.matches.first
        last = first + tile.values.shape[0]
        listed, open_listed = self._list(tile, first, last)
        rows, above, open_counted = self._count(tile, first, last)
        open_pairs = len(open_listed.rows) + len(open_counted.rows)
        if tile.error > 0 and open_pairs > OPEN_SHARE * tile.values.numel() + PAIR_ELEMENTS // tile.queries.shape[1]:
            return False
        self.steps.index_add_(0, listed, torch.ones_like(listed))
        self.steps.index_add_(0, self.best[first + rows], above)
        for pairs in (open_listed, open_counted):
            self._settle(tile, pairs)
        return True

    def before(self) -> Tensor:
        """Items of other classes before each match, (m,) int64; not known, and -1, where incomplete."""
        start = self.matches.start
        total = torch.zeros(len(self.steps) + 1, dtype=torch.int64, device=self.steps.device)
        total[1:] = self.steps.cumsum(0)
        owner = torch.repeat_interleave(self.matches.count)
        place = torch.arange(len(self.steps), device=self.steps.device)
        number = total[start[1:]][owner] - total[place] + self.single
        return torch.where(place >= self.complete_from[owner], number, -1)

    def _other_class(self, tile: Tile, rows: Tensor, columns: Tensor) -> Tensor:
        return self.classes.queries[tile.query_start + rows] != self.classes.gallery[tile.gallery_start + columns]

    def _list(self, tile: Tile, first: int, last: int) -> tuple[Tensor, _Pairs]:
        """Last places that listed items come before, and the pairs still open."""
        bound = (self.lowest[first:last] - tile.error).to(tile.values.dtype)
        rows, columns = (tile.values >= bound[:, None]).nonzero(as_tuple=True)
        other = self._other_class(tile, rows, columns)
        rows, columns = rows[other], columns[other]
        values = tile.values[rows, columns].double()
        low, high = self.matches.start[first + rows], self.matches.start[first + rows + 1]
        if tile.error == 0:
            certain = search(self.matches, low, high, values, tile.gallery_start + columns)
            possible = certain
        else:
            certain = search(self.matches, low, high, values - tile.error, None)
            possible = search(self.matches, certain, high, values + tile.error, -1)
        number = possible - certain
        source = torch.repeat_interleave(number)
        offset = torch.arange(len(source), device=source.device) - (number.cumsum(0) - number)[source]
        open_pairs = _Pairs(rows[source], columns[source], certain[source] + offset)
        return (certain - 1)[certain > low], open_pairs

    def _count(self, tile: Tile, first: int, last: int) -> tuple[Tensor, Tensor, _Pairs]:
        """Rows that are only counted, their numbers of items surely before the best match, and the pairs still open."""
        rows = self.counted[first:last].nonzero()[:, 0]
        best = self.best[first + rows]
        if len(rows) == 0:
            return rows, best, _Pairs(rows, rows, best)
        values = tile.values if len(rows) == last - first else tile.values[rows]
        similarity = self.best_similarity[first + rows][:, None]
        if tile.error == 0:
            columns = torch.arange(tile.gallery_start, tile.gallery_start + values.shape[1], device=rows.device)
            before = (values > similarity) | ((values == similarity) & (columns < self.matches.items[best][:, None]))
            before &= self.classes.queries[tile.query_start + rows][:, None] != self.classes.gallery[columns]
            return rows, before.sum(dim=1), _Pairs(rows[:0], rows[:0], best[:0])
        above = values > (similarity + tile.error).to(values.dtype)
        near = (values >= (similarity - tile.error).to(values.dtype)) ^ above
        picked, columns = near.nonzero(as_tuple=True)
        other = self._other_class(tile, rows[picked], columns)
        picked, columns = picked[other], columns[other]
        return rows, above.sum(dim=1), _Pairs(rows[picked], columns, best[picked])

    def _settle(self, tile: Tile, pairs: _Pairs) -> None:
        step = max(1, PAIR_ELEMENTS // tile.queries.shape[1])
        for begin in range(0, len(pairs.rows), step):
            rows, columns = pairs.rows[begin : begin + step], pairs.columns[begin : begin + step]
            places = pairs.places[begin : begin + step]
            before = _comes_before(
                tile.queries[rows],
                tile.gallery[columns],
                tile.gallery_start + columns,
                self.matches.similarities[places],
                self.matches.items[places],
            )
            self.single.index_add_(0, places, before.long())


def search(matches: Matches, low: Tensor, high: Tensor, similarity: Tensor, item: Tensor | int | None) -> Tensor:
    """First place from `low` (p,) on, below `high` (p,) or `high` itself, of a match that an item does not come before.

    The item has the `similarity` (p,) and the gallery index `item`: None places it after all of the same similarity,
    -1 before them.
    """
    longest = int((high - low).max()) if len(low) else 0
    last_place = max(len(matches.items) - 1, 0)
    for _ in range(longest.bit_length()):
        middle = (low + high) // 2
        unfinished = low < high
        place = middle.clamp(max=last_place)
        found = matches.similarities[place]
        before = found < similarity
        if item is not None:
            before |= (found == similarity) & (item < matches.items[place])
        low = torch.where(unfinished & before, middle + 1, low)
        high = torch.where(unfinished & ~before, middle, high)
    return low


def _at(values: Tensor, places: Tensor, where: Tensor) -> Tensor:
    """values[places] where `where`, infinity elsewhere."""
    found = torch.full(places.shape, torch.inf, dtype=values.dtype, device=values.device)
    found[where] = values[places[where]]
    return found


def _blank_own(tile: Tile) -> None:
    """Make no query find itself: the pairs with equal global indices get a similarity below all others."""
    offset = tile.query_start - tile.gallery_start
    if -tile.values.shape[0] < offset < tile.values.shape[1]:
        tile.values.diagonal(offset).fill_(-2.0)


def _comes_before(queries: Tensor, gallery: Tensor, items: Tensor, similarity: Tensor, match: Tensor) -> Tensor:
    """Whether gallery items (p,) come before matches (p,) of a known exact similarity. Rows (p, d) on the grid."""
    values = torch.einsum("pd,pd->p", queries, gallery)
    before = values > similarity
    unsure = ((values - similarity).abs() <= float64_error(queries.shape[1])).nonzero()[:, 0]
    exact = exact_pairs(queries[unsure], gallery[unsure])
    target = similarity[unsure]
    before[unsure] = (exact > target) | ((exact == target) & (items[unsure] < match[unsure]))
    return before
