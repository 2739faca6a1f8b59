"""Exact scores of each query by counting over tiles of similarities, in bounded memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from torch import Tensor

from ctxtune.retrieval.cutoffs import Sample, find_cutoffs, no_cutoffs
from ctxtune.retrieval.embeddings import Block, Embeddings
from ctxtune.retrieval.matches import ClassMembers, Matches, find_matches
from ctxtune.retrieval.process_group import Processes
from ctxtune.retrieval.rank_counter import RankCounter
from ctxtune.retrieval.scores import QueryScores
from ctxtune.retrieval.threads import Workers
from ctxtune.retrieval.tiles import compute_tile

RESIDENT_BYTES = 2**27
# Pairs of blocks whose tiles are to be counted, and what to call when that is done.
TileGroup = tuple[list[tuple[Block, Block]], Callable[[], None]]
# Matches of all queries held at once; each takes some 50 bytes while scores are computed.
SYMMETRIC_MATCHES = 2**23


@dataclass(frozen=True)
class Search:
    """What is searched in what, and how.

    `exclude_self`: the two are one set, and no query finds itself. `full_ranking`: score the average precision over
    the whole ranking too. `tile`: rows of a block. `cautious`: take no cutoff but one that R items surely reach.
    """

    queries: Embeddings
    gallery: Embeddings
    members: ClassMembers
    exclude_self: bool
    full_ranking: bool
    tile: int
    processes: Processes
    workers: Workers
    cautious: bool = False


def score_queries(search: Search) -> QueryScores:
    """Scores of every query."""
    queries = search.queries
    matches = search.members.size[queries.classes]
    if queries is search.gallery and int(matches.sum()) <= SYMMETRIC_MATCHES:
        return _scores_of(search, _half_the_tiles)
    parts = []
    for first, last in _query_groups(matches, search.tile, queries.dimension):
        parts.append(_scores_of(replace(search, queries=queries.select(slice(first, last))), _all_tiles))
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


def _scores_of(search: Search, groups: Callable[[Search, list[Block]], Iterator[TileGroup]]) -> QueryScores:
    queries, gallery, own, workers = search.queries, search.gallery, search.exclude_self, search.workers
    blocks = queries.blocks(search.tile)
    if search.full_ranking:
        cutoffs = no_cutoffs(len(queries), len(gallery), queries.device)
    else:
        sample = Sample(gallery, exclude_self=own)
        needed = sample.needed(search.members.size[queries.classes] - int(own), cautious=search.cautious)
        cutoffs = find_cutoffs(blocks, sample, needed, search.processes, workers)
    matches = find_matches(queries, gallery, search.members, cutoffs, workers, exclude_self=own)
    counter = RankCounter(queries, gallery, matches, cutoffs)
    workers.each_group(lambda pair: _count_tile(counter, *pair), _shared(groups(search, blocks), search.processes))
    counter.settle()
    search.processes.all_reduce(counter.steps)
    search.processes.all_reduce(counter.reached)
    before = counter.before()
    scores = scores_from_counts(counter.matches, before, full_ranking=search.full_ranking)
    rows = counter.unsettled(before)
    if search.cautious or len(rows) == 0:
        return scores
    again = replace(search, queries=queries.select(rows), cautious=True)
    return scores.updated(rows.cpu().numpy(), _scores_of(again, _all_tiles))


def _shared(groups: Iterator[TileGroup], processes: Processes) -> Iterator[TileGroup]:
    """The tiles that fall to this rank."""
    first = 0
    for tiles, finish in groups:
        yield list(processes.share(tiles, first)), finish
        first += len(tiles)


def _all_tiles(search: Search, blocks: list[Block]) -> Iterator[TileGroup]:
    for gallery in search.gallery.blocks(search.tile):
        yield [(block, gallery) for block in blocks], gallery.release


def _half_the_tiles(search: Search, blocks: list[Block]) -> Iterator[TileGroup]:
    """For a set searched in itself: the other half has the same similarities, with query and gallery exchanged."""
    size = max(1, RESIDENT_BYTES // (12 * search.tile * search.queries.dimension))
    for first in range(0, len(blocks), size):
        resident = blocks[first : first + size]
        for number in range(first, len(blocks)):
            column = blocks[number]
            released = [column] if number - first >= len(resident) else []
            if number == len(blocks) - 1:
                released = [column, *resident]
            yield [(block, column) for block in resident[: number - first + 1]], partial(_release, released)


def _release(blocks: list[Block]) -> None:
    for block in blocks:
        block.release()


def _count_tile(counter: RankCounter, queries: Block, gallery: Block) -> None:
    """Count a tile for its queries; where both blocks are of the counter's queries, also with their parts exchanged."""
    tile = compute_tile(queries, gallery)
    sides = [tile]
    if gallery.source is queries.source and gallery is not queries:
        sides.append(tile.exchanged)
    for side in sides:
        if not counter.add(side):
            exact = compute_tile(queries, gallery, exact=True)
            counter.add(exact if side is tile else exact.exchanged)


def scores_from_counts(matches: Matches, before: Tensor, *, full_ranking: bool) -> QueryScores:
    """Scores from the number of other items `before` (m,) each match that is held; the others rank below R.

    Sums are taken in rank order on the CPU, the same for every device.
    """
    start = matches.start.cpu().numpy()
    number = matches.number.cpu().numpy()
    owner = np.repeat(np.arange(len(number)), np.diff(start))
    position = start[1:][owner] - np.arange(len(owner))
    rank = before.cpu().numpy() + position
    some = number > 0
    first_rank = np.zeros(len(number), dtype=np.int64)
    first_rank[some] = rank[start[1:][some] - 1]

    def mean_over_matches(values: np.ndarray) -> np.ndarray:
        sums = np.bincount(owner, weights=values, minlength=len(number))
        return np.where(some, sums / np.maximum(number, 1), np.nan)

    within = rank <= number[owner]
    precision = position / rank
    return QueryScores(
        matches=number,
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
