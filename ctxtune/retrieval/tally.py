"""Count, for each match of each query, the items of other classes that are ranked before it.

Counting needs no sorting: the rank of a query's j-th best match is j plus the number of other items before it. So one
comparison per pair gives Recall@K for any K, and tiles of similarities can be added in any order and from either side.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ctxtune.retrieval.embeddings import Block
from ctxtune.retrieval.matches import Matches
from ctxtune.retrieval.passes import count_above, list_between
from ctxtune.retrieval.similarity import exact_pairs, float64_error

OPEN_SHARE = 0.01
PAIR_ELEMENTS = 2**21


@dataclass(frozen=True)
class Tile:
    """Similarities of a block of queries with a block of the gallery.

    `values` are off by at most `error` (0: exact, float64); queries lie along `axis`, gallery items along the other.
    """

    values: Tensor
    error: float
    queries: Block
    gallery: Block
    axis: int = 0

    @property
    def exchanged(self) -> "Tile":
        """The same pairs with the parts of query and gallery exchanged, for a set searched in itself."""
        return Tile(self.values, self.error, self.gallery, self.queries, 1 - self.axis)


@dataclass(frozen=True)
class Pairs:
    """Pairs of a tile: positions of query and gallery item in their blocks, (p,) each."""

    queries: Tensor
    items: Tensor

    def at(self, where: Tensor) -> "Pairs":
        """Some of the pairs."""
        return Pairs(self.queries[where], self.items[where])


class Tally:
    """Running counts for the queries of `matches`. Each pair of query and gallery item is to be added once.

    `steps` is the state: the sum of a query's steps from a match's place to its last place is the number of items
    before that match. Tallies of different pairs are merged by adding their steps.
    """

    def __init__(self, matches: Matches, query_classes: Tensor, gallery_classes: Tensor, floor: Tensor) -> None:
        """Counts are complete for matches at least as similar as their query's `floor` (q,), and for the best match."""
        self.matches = matches
        self.query_classes = query_classes
        self.gallery_classes = gallery_classes
        start, end = matches.start[:-1], matches.start[1:]
        some = end > start
        self.best = torch.where(some, end - 1, torch.zeros_like(end))
        self.best_similarity = _at(matches.similarities, self.best, some)
        # Where even the best match lies below the floor, the items before it are counted without being listed.
        self.counted = some & (self.best_similarity < floor)
        relevant = search(matches, start, end, floor, None)
        self.complete_from = torch.where(self.counted, self.best, relevant)
        self.lowest = _at(matches.similarities, relevant, some & ~self.counted)
        self.steps = torch.zeros_like(matches.items)

    def add(self, tile: Tile) -> bool:
        """Count a tile. False, and nothing counted, if too many of its pairs are too close to call: make it exact."""
        limit = OPEN_SHARE * tile.values.numel() + 1000
        pairs, certain, possible = self._list(tile)
        if tile.error > 0 and int((possible - certain).sum()) > limit:
            return False
        counted = self.counted[tile.queries.start : tile.queries.stop].nonzero()[:, 0]
        if len(counted):
            above, near = self._count(tile, counted)
            if len(near.queries) > limit:
                return False
            best = self.best[tile.queries.start + counted]
            self.steps.index_add_(0, best, above.int())
            self._settle(tile, near, self.best[tile.queries.start + near.queries])
        low = self.matches.start[tile.queries.start + pairs.queries]
        self._add_at((certain - 1)[certain > low])
        number = possible - certain
        source = torch.repeat_interleave(number)
        offset = torch.arange(len(source), device=source.device) - (number.cumsum(0) - number)[source]
        self._settle(tile, pairs.at(source), certain[source] + offset)
        return True

    def before(self) -> Tensor:
        """Items of other classes before each match, (m,) int64; -1 where the count is not complete."""
        start = self.matches.start
        total = torch.zeros(len(self.steps) + 1, dtype=torch.int64, device=self.steps.device)
        total[1:] = self.steps.cumsum(0)
        owner = torch.repeat_interleave(self.matches.count)
        place = torch.arange(len(self.steps), device=self.steps.device)
        return torch.where(place >= self.complete_from[owner], total[start[1:]][owner] - total[:-1], -1)

    def _add_at(self, places: Tensor) -> None:
        self.steps.index_add_(0, places, torch.ones_like(places, dtype=self.steps.dtype))

    def _others(self, tile: Tile, pairs: Pairs) -> Pairs:
        """The pairs of different classes."""
        query_class = self.query_classes[tile.queries.start : tile.queries.stop][pairs.queries]
        item_class = self.gallery_classes[tile.gallery.start : tile.gallery.stop][pairs.items]
        return pairs.at((query_class != item_class).nonzero()[:, 0])

    def _list(self, tile: Tile) -> tuple[Pairs, Tensor, Tensor]:
        """Pairs whose item may come before a relevant match, the place up to which it does and may do."""
        rows = slice(tile.queries.start, tile.queries.stop)
        found = list_between(tile.values, self.lowest[rows] - tile.error, None, tile.axis)
        pairs = self._others(tile, Pairs(found[tile.axis], found[1 - tile.axis]))
        values = tile.values[_in_order(pairs, tile.axis)].double()
        low = self.matches.start[rows][pairs.queries]
        high = self.matches.start[tile.queries.start + 1 : tile.queries.stop + 1][pairs.queries]
        if tile.error == 0:
            certain = search(self.matches, low, high, values, tile.gallery.start + pairs.items)
            return pairs, certain, certain
        certain = search(self.matches, low, high, values - tile.error, None)
        return pairs, certain, search(self.matches, certain, high, values + tile.error, -1)

    def _count(self, tile: Tile, counted: Tensor) -> tuple[Tensor, Pairs]:
        """For the queries of these rows: items surely before the best match, and pairs too close to call."""
        rows = tile.queries.start + counted
        similarity = self.best_similarity[rows]
        values = tile.values if len(counted) == len(tile.queries) else tile.values.index_select(tile.axis, counted)
        if tile.error == 0:
            return self._count_exactly(tile, values, rows), Pairs(counted[:0], counted[:0])
        scratch = torch.empty_like(values)
        above = count_above(values, similarity + tile.error, tile.axis, scratch)
        some = (count_above(values, similarity - tile.error, tile.axis, scratch) > above).nonzero()[:, 0]
        values = values.index_select(tile.axis, some)
        found = list_between(values, similarity[some] - tile.error, similarity[some] + tile.error, tile.axis)
        return above, self._others(tile, Pairs(counted[some[found[tile.axis]]], found[1 - tile.axis]))

    def _count_exactly(self, tile: Tile, values: Tensor, rows: Tensor) -> Tensor:
        values = values if tile.axis == 0 else values.T
        similarity = self.best_similarity[rows][:, None]
        index = torch.arange(tile.gallery.start, tile.gallery.stop, device=rows.device)
        match = self.matches.items[self.best[rows]][:, None]
        before = (values > similarity) | ((values == similarity) & (index < match))
        before &= self.query_classes[rows][:, None] != self.gallery_classes[index]
        return before.sum(dim=1)

    def _settle(self, tile: Tile, pairs: Pairs, places: Tensor) -> None:
        """Compare the pairs exactly with the matches at `places` and count those that come before."""
        step = max(1, PAIR_ELEMENTS // tile.queries.source.dimension)
        low = self.matches.start[tile.queries.start + pairs.queries]
        for begin in range(0, len(places), step):
            some = slice(begin, begin + step)
            before = _comes_before(
                tile.queries.grid[pairs.queries[some]],
                tile.gallery.grid[pairs.items[some]],
                tile.gallery.start + pairs.items[some],
                self.matches.similarities[places[some]],
                self.matches.items[places[some]],
            )
            place = places[some][before]
            self._add_at(place)
            earlier = place[place > low[some][before]] - 1
            self.steps.index_add_(0, earlier, torch.full_like(earlier, -1, dtype=self.steps.dtype))


def search(matches: Matches, low: Tensor, high: Tensor, similarity: Tensor, item: Tensor | int | None) -> Tensor:
    """First place from `low` (p,) on, below `high` (p,) or `high` itself, of a match that an item does not come before.

    The item has the `similarity` (p,) and the gallery index `item`: None places it after all of the same similarity,
    -1 before them.
    """
    last_place = max(len(matches.items) - 1, 0)
    for _ in range(matches.longest.bit_length()):
        middle = (low + high) >> 1
        place = middle.clamp(max=last_place)
        found = matches.similarities[place]
        before = found < similarity
        if item is not None:
            before |= (found == similarity) & (item < matches.items[place])
        unfinished = low < high
        low = torch.where(unfinished & before, middle + 1, low)
        high = torch.where(unfinished & ~before, middle, high)
    return low


def _at(values: Tensor, places: Tensor, where: Tensor) -> Tensor:
    """values[places] where `where`, infinity elsewhere."""
    found = torch.full(places.shape, torch.inf, dtype=values.dtype, device=values.device)
    found[where] = values[places[where]]
    return found


def _in_order(pairs: Pairs, axis: int) -> tuple[Tensor, Tensor]:
    return (pairs.queries, pairs.items) if axis == 0 else (pairs.items, pairs.queries)


def _comes_before(queries: Tensor, gallery: Tensor, items: Tensor, similarity: Tensor, match: Tensor) -> Tensor:
    """Whether gallery items (p,) come before matches (p,) of a known exact similarity. Rows (p, d) on the grid."""
    values = torch.einsum("pd,pd->p", queries, gallery)
    before = values > similarity
    unsure = ((values - similarity).abs() <= float64_error(queries.shape[1])).nonzero()[:, 0]
    exact = exact_pairs(queries[unsure], gallery[unsure])
    target = similarity[unsure]
    before[unsure] = (exact > target) | ((exact == target) & (items[unsure] < match[unsure]))
    return before
