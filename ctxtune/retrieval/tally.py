"""Count, for each match of each query, the items of other classes that are ranked before it.

Counting needs no sorting: the rank of a query's j-th best match is j plus the number of other items before it. So one
comparison per pair gives Recall@K for any K, and tiles of similarities can be added in any order and from either side.
"""

import torch
from torch import Tensor

from ctxtune.retrieval.floors import Floors
from ctxtune.retrieval.matches import Matches
from ctxtune.retrieval.passes import count_above, list_between, list_ranked
from ctxtune.retrieval.similarity import exact_pairs, products_error
from ctxtune.retrieval.tiles import Tile

OPEN_SHARE = 0.01
PAIR_ELEMENTS = 2**21
# Similarities and their errors span less than this.
SEPARATION = 4.0


class Tally:
    """Running counts for the queries of `matches`. Each pair of query and gallery item is to be added once.

    `steps` (m,) is the state: the sum of a query's steps from a match's place to its last place is the number of
    items before that match. Tallies of different pairs are merged by adding their steps.
    """

    def __init__(self, matches: Matches, floors: Floors) -> None:
        """Holds each query's matches that reach its floor, at any rate the best one.

        A floor that at least R items reach leaves nothing out of the first R ranks. Whether it was so, `unsettled`
        says afterwards.
        """
        start, end = matches.start[:-1], matches.start[1:]
        some = end > start
        relevant = search(matches, start, end, floors.similarity, floors.item)
        # Where not even the best match reaches the floor, the items before it are counted without being listed.
        self.counted = some & (relevant == end)
        self.left_out = torch.where(self.counted, relevant - 1, relevant) - start
        self.matches = matches.without_worst(self.left_out)
        self.best = self.matches.start[1:] - 1
        self.best_similarity = _at(matches.similarities, end - 1, some)
        # Items are listed from the floor on where matches lie below it, to see whether it was right.
        self.floors = floors
        below = self.left_out > 0
        lowest = torch.where(below, floors.similarity, _at(matches.similarities, start, some))
        self.lowest = torch.where(some & ~self.counted, lowest, torch.inf)
        self.lowest_item = torch.where(below, floors.item, _at(matches.items.long(), start, some))
        self.reaching = self.matches.start[1:] - self.matches.start[:-1]
        self.steps = torch.zeros_like(self.matches.items)

    def add(self, tile: Tile) -> bool:
        """Count a tile. False, and nothing counted, if too many of its pairs are too close to call: make it exact."""
        limit = OPEN_SHARE * tile.values.numel() + 1000
        rows = slice(tile.queries.start, tile.queries.stop)
        queries, items, values = self._list(tile)
        certain, possible = self._places(tile, queries, items, values)
        if possible is not None and int((possible - certain).sum()) > limit:
            return False
        counted = self.counted[rows].nonzero()[:, 0]
        if len(counted):
            above, near_queries, near_items = self._count(tile, counted)
            if len(near_queries) > limit:
                return False
            self.steps.index_add_(0, self.best[rows][counted], above.int())
            self._settle(tile, near_queries, near_items, self.best[rows][near_queries])
        sure = queries[values >= self.floors.similarity[rows].index_select(0, queries) + tile.error]
        self.reaching[rows] += torch.bincount(sure, minlength=len(tile.queries))
        self._add_at((certain - 1)[certain > self.matches.start[rows].index_select(0, queries)])
        if possible is not None:
            self._settle_range(tile, queries, items, certain, possible)
        return True

    def before(self) -> Tensor:
        """Items of other classes before each match that is held, (m,) int64."""
        start = self.matches.start
        total = torch.zeros(len(self.steps) + 1, dtype=torch.int64, device=self.steps.device)
        total[1:] = self.steps.cumsum(0)
        return torch.repeat_interleave(total[start[1:]], start[1:] - start[:-1]) - total[:-1]

    def unsettled(self, before: Tensor) -> Tensor:
        """Queries (u,) whose left out matches might be among the first R after all."""
        reaching = self.reaching.clone()
        reaching[self.counted] = before[self.best[self.counted]] + 1
        return ((self.left_out > 0) & (reaching < self.matches.number)).nonzero()[:, 0]

    def _add_at(self, places: Tensor) -> None:
        self.steps.index_add_(0, places, torch.ones_like(places, dtype=self.steps.dtype))

    def _list(self, tile: Tile) -> tuple[Tensor, Tensor, Tensor]:
        """Pairs whose item may come before a match that is held: positions of query and item, and the similarity."""
        rows = slice(tile.queries.start, tile.queries.stop)
        if tile.error == 0:
            return list_ranked(tile.values, self.lowest[rows], self.lowest_item[rows], tile.gallery.start, tile.axis)
        return list_between(tile.values, self.lowest[rows] - tile.error, None, tile.axis)

    def _places(self, tile: Tile, queries: Tensor, items: Tensor, values: Tensor) -> tuple[Tensor, Tensor | None]:
        """The places up to which these items come before their query's matches: surely, and possibly if not the same."""
        start = self.matches.start[tile.queries.start : tile.queries.stop + 1]
        if tile.error == 0:
            return search(self.matches, start[queries], start[queries + 1], values, tile.gallery.start + items), None
        first = start[0]
        own = torch.repeat_interleave(start[1:] - start[:-1])
        keys = SEPARATION * own + self.matches.similarities[first : first + len(own)]
        values = values + SEPARATION * queries
        certain = torch.searchsorted(keys, values - tile.error)
        if len(keys) == 0:
            return certain + first, None
        follows = (keys[certain.clamp(max=len(keys) - 1)] <= values + tile.error).nonzero()[:, 0]
        possible = certain.clone()
        possible[follows] = torch.searchsorted(keys, values[follows] + tile.error, right=True)
        return certain + first, possible + first

    def _count(self, tile: Tile, counted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For the queries `counted` (c,): items surely before the best match; queries, items of pairs too close to call."""
        rows = tile.queries.start + counted
        similarity = self.best_similarity[rows]
        values = tile.values if len(counted) == len(tile.queries) else tile.values.index_select(tile.axis, counted)
        if tile.error == 0:
            index = torch.arange(tile.gallery.start, tile.gallery.stop, device=rows.device)
            match = self.matches.items[self.best[rows]]
            by_query = values if tile.axis == 0 else values.T
            before = (by_query > similarity[:, None]) | ((by_query == similarity[:, None]) & (index < match[:, None]))
            return before.sum(dim=1), counted[:0], counted[:0]
        scratch = torch.empty_like(values)
        above = count_above(values, similarity + tile.error, tile.axis, scratch)
        some = (count_above(values, similarity - tile.error, tile.axis, scratch) > above).nonzero()[:, 0]
        values, similarity = values.index_select(tile.axis, some), similarity[some]
        found = list_between(values, similarity - tile.error, similarity + tile.error, tile.axis)
        return above, counted[some[found[0]]], found[1]

    def _settle_range(self, tile: Tile, queries: Tensor, items: Tensor, certain: Tensor, possible: Tensor) -> None:
        """Settle pairs (p,) with the matches at the places certain .. possible - 1 of each."""
        pairs = (possible > certain).nonzero()[:, 0]
        first = certain[pairs]
        number = possible[pairs] - first
        source = torch.repeat_interleave(number)
        offset = torch.arange(len(source), device=source.device) - (number.cumsum(0) - number)[source]
        self._settle(tile, queries[pairs][source], items[pairs][source], first[source] + offset)

    def _settle(self, tile: Tile, queries: Tensor, items: Tensor, places: Tensor) -> None:
        """Compare pairs of the tile exactly with the matches at `places` and count those that come before."""
        step = max(1, PAIR_ELEMENTS // tile.queries.source.dimension)
        for begin in range(0, len(places), step):
            some = slice(begin, begin + step)
            before = self._comes_before(tile, queries[some], items[some], places[some])
            place = places[some][before]
            self._add_at(place)
            first = self.matches.start[tile.queries.start + queries[some][before]]
            earlier = place[place > first] - 1
            self.steps.index_add_(0, earlier, torch.full_like(earlier, -1, dtype=self.steps.dtype))

    def _comes_before(self, tile: Tile, queries: Tensor, items: Tensor, places: Tensor) -> Tensor:
        """Whether the items come before the matches at `places`, (p,) all."""
        target = self.matches.similarities[places]
        products = tile.queries.approximate[queries].mul_(tile.gallery.approximate[items])
        values = products.sum(dim=1, dtype=torch.float64)
        before = values > target
        unsure = ((values - target).abs() <= products_error(products.shape[1])).nonzero()[:, 0]
        if len(unsure):
            exact = exact_pairs(tile.queries.grid_rows(queries[unsure]), tile.gallery.grid_rows(items[unsure]))
            earlier_item = tile.gallery.start + items[unsure] < self.matches.items[places[unsure]]
            before[unsure] = (exact > target[unsure]) | ((exact == target[unsure]) & earlier_item)
        return before


def search(matches: Matches, low: Tensor, high: Tensor, similarity: Tensor, item: Tensor) -> Tensor:
    """First place from `low` (p,) on, below `high` (p,) or `high` itself, of a match that an item does not come before.

    The item has the `similarity` (p,) and the gallery index `item` (p,).
    """
    last_place = max(len(matches.items) - 1, 0)
    for _ in range(matches.longest.bit_length()):
        middle = (low + high) >> 1
        place = middle.clamp(max=last_place)
        found = matches.similarities[place]
        before = (found < similarity) | ((found == similarity) & (item < matches.items[place]))
        unfinished = low < high
        low = torch.where(unfinished & before, middle + 1, low)
        high = torch.where(unfinished & ~before, middle, high)
    return low


def _at(values: Tensor, places: Tensor, where: Tensor) -> Tensor:
    """values[places] where `where`, the greatest number of the type elsewhere."""
    greatest = torch.inf if values.is_floating_point() else torch.iinfo(values.dtype).max
    found = torch.full(places.shape, greatest, dtype=values.dtype, device=values.device)
    found[where] = values[places[where]]
    return found
