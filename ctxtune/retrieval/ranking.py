"""Exact scores of each query by counting over tiles of similarities, in bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ctxtune.retrieval.embeddings import Block, Embeddings
from ctxtune.retrieval.inputs import Classes
from ctxtune.retrieval.matches import ClassMembers, Matches, class_members, find_matches
from ctxtune.retrieval.scores import QueryScores
from ctxtune.retrieval.similarity import exact_matrix, float32_error
from ctxtune.retrieval.tally import Tally, Tile

SAMPLE = 1024
CROWDED_SHARE = 0.02
RESIDENT_BYTES = 2**27
# Matches of all queries held at once; each takes some 50 bytes while scores are computed.
SYMMETRIC_MATCHES = 2**23


@dataclass(frozen=True)
class Search:
    """What is searched in what. `own_left_out`: the two are one set, and no query finds itself."""

    queries: Embeddings
    gallery: Embeddings
    query_classes: Tensor
    gallery_classes: Tensor
    members: ClassMembers
    own_left_out: bool
    full_ranking: bool
    tile: int

    def select(self, rows: Tensor | slice) -> "Search":
        """Some of the queries, the whole gallery."""
        return Search(
            self.queries.select(rows),
            self.gallery,
            self.query_classes[rows],
            self.gallery_classes,
            self.members,
            self.own_left_out,
            self.full_ranking,
            self.tile,
        )


def score_queries(
    queries: Embeddings, gallery: Embeddings, classes: Classes, *, own_left_out: bool, full_ranking: bool, tile: int
) -> QueryScores:
    """Per-query scores; `full_ranking` adds the average precision over the whole ranking."""
    members = class_members(classes.gallery, len(classes.labels))
    search = Search(
        queries, gallery, classes.queries, classes.gallery, members, own_left_out, full_ranking, tile
    )
    matches = members.size[classes.queries]
    if own_left_out and int(matches.sum()) <= SYMMETRIC_MATCHES:
        return _scores_of(search, _symmetric_tiles)
    parts = []
    for first, last in _query_groups(matches, tile, queries.dimension):
        parts.append(_scores_of(search.select(slice(first, last)), _all_tiles))
    return concatenate(parts)


def _query_groups(matches: Tensor, tile: int, dimension: int) -> Iterator[tuple[int, int]]:
    """Runs of queries whose blocks and matches may be held at once."""
    limit = tile * max(1, RESIDENT_BYTES // (12 * tile * dimension))
    sums = matches.cumsum(0).cpu().numpy()
    first = 0
    while first < len(sums):
        reach = SYMMETRIC_MATCHES + (sums[first - 1] if first else 0)
        last = int(np.searchsorted(sums, reach, side="right"))
        last = min(max(last, first + 1), first + limit, len(sums))
        yield first, last
        first = last


def _scores_of(search: Search, tiles) -> QueryScores:
    matches = find_matches(
        search.queries, search.query_classes, search.gallery, search.members, own_left_out=search.own_left_out
    )
    floor, crowded = _floors(search, matches)
    tally = Tally(matches, search.query_classes, search.gallery_classes, floor)
    tiles(search, tally, crowded)
    return scores_from_counts(tally, full_ranking=search.full_ranking)


def _blocks(source: Embeddings, size: int) -> list[Block]:
    return [source.block(start, start + size) for start in range(0, len(source), size)]


def _all_tiles(search: Search, tally: Tally, crowded: list[bool]) -> None:
    blocks = _blocks(search.queries, search.tile)
    for block, flag in zip(blocks, crowded, strict=True):
        block.crowded = flag
    for start in range(0, len(search.gallery), search.tile):
        gallery = search.gallery.block(start, start + search.tile)
        for block in blocks:
            _add(tally, block, gallery, own_left_out=search.own_left_out, both=False)


def _symmetric_tiles(search: Search, tally: Tally, crowded: list[bool]) -> None:
    """Half of the tiles, each counted for its rows and for its columns."""
    starts = range(0, len(search.queries), search.tile)
    group = max(1, RESIDENT_BYTES // (12 * search.tile * search.queries.dimension))

    def block_at(number: int) -> Block:
        block = search.queries.block(starts[number], starts[number] + search.tile)
        block.crowded = crowded[number]
        return block

    for first in range(0, len(starts), group):
        resident = [block_at(number) for number in range(first, min(first + group, len(starts)))]
        for number in range(first, len(starts)):
            within = number - first < len(resident)
            column = resident[number - first] if within else block_at(number)
            for block in resident[: number - first + 1]:
                _add(tally, block, column, own_left_out=True, both=block is not column)


def _add(tally: Tally, queries: Block, gallery: Block, *, own_left_out: bool, both: bool) -> None:
    tile = _tile(queries, gallery, exact=queries.crowded or gallery.crowded, own_left_out=own_left_out)
    sides = [tile, tile.exchanged] if both else [tile]
    for side in sides:
        if not tally.add(side):
            exact = _tile(queries, gallery, exact=True, own_left_out=own_left_out)
            tally.add(exact if side is tile else exact.exchanged)


def _tile(queries: Block, gallery: Block, *, exact: bool, own_left_out: bool) -> Tile:
    if exact:
        tile = Tile(exact_matrix(queries.grid, gallery.grid), 0.0, queries, gallery)
    else:
        values = queries.approximate @ gallery.approximate.T
        tile = Tile(values, float32_error(values.shape[1]), queries, gallery)
        tile = Tile(values, float32_error(queries.source.dimension), queries, gallery)
    if own_left_out:
        own = queries.origin
        rows = ((own >= gallery.start) & (own < gallery.stop)).nonzero()[:, 0]
        tile.values[rows, own[rows] - gallery.start] = -2.0
    return tile


def _floors(search: Search, matches: Matches) -> tuple[Tensor, list[bool]]:
    """A similarity for each query that at least R of its gallery items reach; and whether a block is crowded."""
    floor = torch.full((len(search.queries),), -torch.inf, dtype=torch.float64, device=search.queries.device)
    size = min(SAMPLE, len(search.gallery))
    picked = torch.linspace(0, len(search.gallery) - 1, size, device=floor.device).long()
    sample = search.gallery.select(picked).block(0, size)
    needed = matches.count
    reach = min(matches.longest, size)
    crowded = []
    for block in _blocks(search.queries, search.tile):
        rows = slice(block.start, block.stop)
        values = (block.approximate @ sample.approximate.T).double()
        error = float32_error(search.queries.dimension)
        for attempt in range(2):
            if search.own_left_out:
                values[block.origin[:, None] == picked] = -torch.inf
            highest = values.topk(max(reach, 1), dim=1).values - error
            found = highest.gather(1, (needed[rows] - 1).clamp(0, max(reach, 1) - 1)[:, None])
            near = ((values - found).abs() <= 3 * error).double().mean()
            if attempt == 0:
                crowded.append(bool(near > CROWDED_SHARE))
                if not crowded[-1]:
                    break
                values, error = exact_matrix(block.grid, sample.grid), 0.0
        if not search.full_ranking:
            floor[rows] = torch.where(needed[rows] <= reach, found[:, 0], -torch.inf)
    return floor, crowded


def scores_from_counts(tally: Tally, *, full_ranking: bool) -> QueryScores:
    """Scores of the tally's queries. Sums are taken in rank order on the CPU, the same for every device."""
    start = tally.matches.start.cpu().numpy()
    before = tally.before().cpu().numpy()
    count = np.diff(start)
    owner = np.repeat(np.arange(len(count)), count)
    position = start[1:][owner] - np.arange(len(before))
    rank = np.where(before >= 0, before + position, np.iinfo(np.int64).max)
    some = count > 0
    first_rank = np.zeros(len(count), dtype=np.int64)
    first_rank[some] = rank[start[1:][some] - 1]

    def mean_over_matches(values: np.ndarray) -> np.ndarray:
        sums = np.bincount(owner, weights=values, minlength=len(count))
        return np.where(some, sums / np.maximum(count, 1), np.nan)

    within = rank <= count[owner]
    precision = position / rank
    return QueryScores(
        matches=count,
        first_match_rank=first_rank,
        r_precision=mean_over_matches(within.astype(np.float64)),
        average_precision_at_r=mean_over_matches(np.where(within, precision, 0.0)),
        average_precision=mean_over_matches(precision) if full_ranking else None,
    )


def concatenate(parts: list[QueryScores]) -> QueryScores:
    """Scores of consecutive queries, joined."""
    full = [part.average_precision for part in parts if part.average_precision is not None]
    return QueryScores(
        matches=np.concatenate([part.matches for part in parts]),
        first_match_rank=np.concatenate([part.first_match_rank for part in parts]),
        r_precision=np.concatenate([part.r_precision for part in parts]),
        average_precision_at_r=np.concatenate([part.average_precision_at_r for part in parts]),
        average_precision=np.concatenate(full) if full else None,
    )
