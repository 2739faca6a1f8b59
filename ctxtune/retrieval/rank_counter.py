"""Count, for each match of each query, the items of other classes that are ranked before it.

Counting needs no sorting: the rank of a query's j-th best match is j plus the number of other items before it. So one
comparison per pair gives Recall@K for any K, and tiles of similarities can be added in any order and from either side.
"""

from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor

from ctxtune.retrieval.cutoffs import Cutoffs
from ctxtune.retrieval.embeddings import Block, Embeddings
from ctxtune.retrieval.matches import Matches
from ctxtune.retrieval.similarity import exact_pairs, products_error
from ctxtune.retrieval.tile_ops import count_above, list_between, list_ranked
from ctxtune.retrieval.tiles import Tile
from ctxtune.retrieval.work_sizes import pair_elements

# Of a tile's pairs, so many may be compared one by one; the first is a share.
OPEN_SHARE = 0.05
LEAST_LIMIT = 1000
# Similarities and their errors span less than this.
SEPARATION = 4.0


@dataclass(frozen=True)
class Pairs:
    """Some pairs of different classes: positions (p,) in their blocks and similarities (p,), off by at most `error`."""

    query_block: Block
    gallery_block: Block
    queries: Tensor
    items: Tensor
    values: Tensor
    error: float

    def at(self, where: Tensor | slice) -> "Pairs":
        """Some of them."""
        return Pairs(
            self.query_block,
            self.gallery_block,
            self.queries[where],
            self.items[where],
            self.values[where],
            self.error,
        )


class RankCounter:
    """Running counts for the queries of `matches`. Each pair of query and gallery item is to be added once.

    The state is `steps` (m,) and `reached` (q,). The sum of a query's steps from a match's place to its last place is
    the number of items before that match; `reached` are the items of other classes seen at or above its cutoff.
    Tallies of different pairs are merged by adding up both, after `settle`.
    """

    def __init__(self, queries: Embeddings, gallery: Embeddings, matches: Matches, cutoffs: Cutoffs) -> None:
        """Holds each query's matches that reach its cutoff, at any rate the best one.

        A cutoff that at least R items reach leaves nothing out of the first R ranks. Whether it was so, `unsettled`
        says afterwards.
        """
        self.queries, self.gallery = queries, gallery
        start, end = matches.start[:-1], matches.start[1:]
        some = end > start
        relevant = search(matches, start, end, cutoffs.similarity, cutoffs.item)
        # Where not even the best match reaches the cutoff, the items before it are counted without being listed.
        self.counted = some & (relevant == end)
        self.matches = matches.without_worst(torch.where(self.counted, relevant - 1, relevant) - start)
        self.left_out = self.matches.number - (self.matches.start[1:] - self.matches.start[:-1])
        self.best = self.matches.start[1:] - 1
        self.best_similarity = _at(matches.similarities, end - 1, some)
        # Items are listed from the cutoff on where matches lie below it, to see whether it was right.
        self.cutoffs = cutoffs
        below = self.left_out > 0
        lowest = torch.where(below, cutoffs.similarity, _at(matches.similarities, start, some))
        self.lowest = torch.where(some & ~self.counted, lowest, torch.inf)
        self.lowest_item = torch.where(below, cutoffs.item, _at(matches.items.long(), start, some))
        self.reached = torch.zeros_like(matches.number)
        self.steps = torch.zeros_like(self.matches.items)
        # Tiles are added by several threads; adding to a tensor is not atomic.
        self._lock = Lock()
        # Pairs to be compared exactly, of several tiles: a few at a time would cost more in calls than in arithmetic.
        self._together = max(1, pair_elements(queries.device) // queries.dimension)
        self._open: list[Tensor] = []
        self._open_number = 0

    def add(self, tile: Tile) -> bool:
        """Count a tile. False, and nothing counted, if too many of its pairs are too close to call: make it exact."""
        limit = int(OPEN_SHARE * tile.values.numel()) + LEAST_LIMIT
        rows = slice(tile.queries.start, tile.queries.stop)
        counted = self.counted[rows].nonzero()[:, 0]
        above, near = self._count(tile, counted) if len(counted) else (counted, None)
        if near is not None and len(near.queries) > limit:
            return False
        if not self.add_listed(self._list(tile), limit if tile.error else None):
            return False
        self._add_at(self.best[rows][counted], above)
        if near is not None:
            self._settle_later(near, self.best[rows][near.queries])
        return True

    def add_listed(self, pairs: Pairs, limit: int | None) -> bool:
        """Count listed pairs. False, and nothing counted, if more than `limit` comparisons are too close to call."""
        certain, possible = self._places(pairs)
        if limit is not None and int((possible - certain).sum()) > limit:
            return False
        rows = slice(pairs.query_block.start, pairs.query_block.stop)
        cutoff = self.cutoffs.similarity[rows].index_select(0, pairs.queries)
        sure = pairs.queries[pairs.values >= cutoff + pairs.error]
        reached = torch.bincount(sure, minlength=len(pairs.query_block))
        with self._lock:
            self.reached[rows] += reached
        self._add_at((certain - 1)[certain > self.matches.start[rows].index_select(0, pairs.queries)])
        open_pairs = (possible > certain).nonzero()[:, 0]
        first = certain[open_pairs]
        number = possible[open_pairs] - first
        source = torch.repeat_interleave(number)
        offset = torch.arange(len(source), device=source.device) - (number.cumsum(0) - number)[source]
        self._settle_later(pairs.at(open_pairs[source]), first[source] + offset)
        return True

    def settle(self) -> None:
        """Compare what is still open: until then some pairs are not counted."""
        waiting, self._open, self._open_number = self._open, [], 0
        if waiting:
            self._settle(torch.cat(waiting, dim=1))

    def before(self) -> Tensor:
        """Items of other classes before each match that is held, (m,) int64."""
        start = self.matches.start
        total = torch.zeros(len(self.steps) + 1, dtype=torch.int64, device=self.steps.device)
        total[1:] = self.steps.cumsum(0)
        return torch.repeat_interleave(total[start[1:]], start[1:] - start[:-1]) - total[:-1]

    def unsettled(self, before: Tensor) -> Tensor:
        """Queries (u,) whose left out matches might be among the first R after all."""
        reached = self.reached + (self.matches.start[1:] - self.matches.start[:-1])
        reached[self.counted] = before[self.best[self.counted]] + 1
        return ((self.left_out > 0) & (reached < self.matches.number)).nonzero()[:, 0]

    def _add_at(self, places: Tensor, steps: Tensor | int = 1) -> None:
        if isinstance(steps, int):
            steps = torch.full_like(places, steps)
        with self._lock:
            self.steps.index_add_(0, places, steps.to(self.steps.dtype))

    def _list(self, tile: Tile) -> Pairs:
        """Pairs whose item may come before a match that is held."""
        rows = slice(tile.queries.start, tile.queries.stop)
        if tile.error == 0:
            found = list_ranked(tile.values, self.lowest[rows], self.lowest_item[rows], tile.gallery.start, tile.axis)
        else:
            found = list_between(tile.values, self.lowest[rows] - tile.error, None, tile.axis)
        return Pairs(tile.queries, tile.gallery, *found, tile.error)

    def _places(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """The places up to which the items come before their query's matches: surely, and possibly."""
        block = pairs.query_block
        start = self.matches.start[block.start : block.stop + 1]
        if pairs.error == 0:
            items = pairs.gallery_block.start + pairs.items
            certain = search(self.matches, start[pairs.queries], start[pairs.queries + 1], pairs.values, items)
            return certain, certain
        first = start[0]
        own = torch.repeat_interleave(start[1:] - start[:-1])
        keys = SEPARATION * own + self.matches.similarities[first : first + len(own)]
        values = pairs.values + SEPARATION * pairs.queries
        certain = torch.searchsorted(keys, values - pairs.error)
        possible = certain.clone()
        if len(keys):
            follows = (keys[certain.clamp(max=len(keys) - 1)] <= values + pairs.error).nonzero()[:, 0]
            possible[follows] = torch.searchsorted(keys, values[follows] + pairs.error, right=True)
        return certain + first, possible + first

    def _count(self, tile: Tile, counted: Tensor) -> tuple[Tensor, Pairs | None]:
        """For the queries `counted` (c,): items surely before the best match, (c,), and pairs too close to call."""
        rows = tile.queries.start + counted
        similarity = self.best_similarity[rows]
        values = tile.values if len(counted) == len(tile.queries) else tile.values.index_select(tile.axis, counted)
        if tile.error == 0:
            index = torch.arange(tile.gallery.start, tile.gallery.stop, device=rows.device)
            match = self.matches.items[self.best[rows]]
            by_query = values if tile.axis == 0 else values.T
            before = (by_query > similarity[:, None]) | ((by_query == similarity[:, None]) & (index < match[:, None]))
            return before.sum(dim=1), None
        scratch = torch.empty_like(values)
        above = count_above(values, similarity + tile.error, tile.axis, scratch)
        some = (count_above(values, similarity - tile.error, tile.axis, scratch) > above).nonzero()[:, 0]
        values, similarity = values.index_select(tile.axis, some), similarity[some]
        found, items, near = list_between(values, similarity - tile.error, similarity + tile.error, tile.axis)
        return above, Pairs(tile.queries, tile.gallery, counted[some[found]], items, near, tile.error)

    def _settle_later(self, pairs: Pairs, places: Tensor) -> None:
        """Compare pairs exactly with the matches at `places` (p,), and count those that come before, many at a time."""
        found = torch.stack([pairs.query_block.start + pairs.queries, pairs.gallery_block.start + pairs.items, places])
        with self._lock:
            self._open.append(found)
            self._open_number += len(places)
            if self._open_number < self._together:
                return
            waiting, self._open, self._open_number = self._open, [], 0
        self._settle(torch.cat(waiting, dim=1))

    def _settle(self, open_pairs: Tensor) -> None:
        """The same at once for queries, gallery items and places, (3, p)."""
        for queries, items, places in zip(*(part.split(self._together) for part in open_pairs), strict=True):
            before = self._come_before(queries, items, places)
            place = places[before]
            self._add_at(place)
            first = self.matches.start[queries[before]]
            self._add_at(place[place > first] - 1, -1)

    def _come_before(self, queries: Tensor, items: Tensor, places: Tensor) -> Tensor:
        """Whether items of the gallery come before their queries' matches at `places`, all (p,)."""
        target = self.matches.similarities[places]
        products = self.queries.approximate_rows(queries).mul_(self.gallery.approximate_rows(items))
        values = products.sum(dim=1, dtype=torch.float64)
        before = values > target
        unsure = ((values - target).abs() <= products_error(products.shape[1])).nonzero()[:, 0]
        if len(unsure):
            exact = exact_pairs(self.queries.rows(queries[unsure]), self.gallery.rows(items[unsure]))
            earlier_item = items[unsure] < self.matches.items[places[unsure]]
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
