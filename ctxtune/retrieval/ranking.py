"""Exact scores of each query by counting over tiles of similarities, in bounded memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ctxtune.retrieval.embeddings import Block, Embeddings
from ctxtune.retrieval.matches import ClassMembers, Matches, class_members, find_matches
from ctxtune.retrieval.scores import QueryScores
from ctxtune.retrieval.similarity import exact_matrix, float32_error
from ctxtune.retrieval.tally import Tally
from ctxtune.retrieval.tiles import compute_tile

SAMPLE_SHARE = 0.1
SAMPLE_LIMITS = (256, 1024)
CROWDED_SHARE = 0.02
RESIDENT_BYTES = 2**27
# Matches of all queries held at once; each takes some 50 bytes while scores are computed.
SYMMETRIC_MATCHES = 2**23


@dataclass(frozen=True)
class Search:
    """What is searched in what. `own_left_out`: the two are one set, and no query finds itself.

    `cautious`: take no floor but one that R items surely reach.
    """

    queries: Embeddings
    gallery: Embeddings
    members: ClassMembers
    own_left_out: bool
    full_ranking: bool
    tile: int
    cautious: bool = False


def score_queries(
    queries: Embeddings, gallery: Embeddings, classes: int, *, own_left_out: bool, full_ranking: bool, tile: int
) -> QueryScores:
    """Per-query scores; `full_ranking` adds the average precision over the whole ranking."""
    members = class_members(gallery.classes, classes)
    search = Search(queries, gallery, members, own_left_out, full_ranking, tile)
    matches = members.size[queries.classes]
    if own_left_out and int(matches.sum()) <= SYMMETRIC_MATCHES:
        return _scores_of(search, _symmetric_tiles)
    parts = []
    for first, last in _query_groups(matches, tile, queries.dimension):
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


def _scores_of(search: Search, add_tiles: Callable[[Search, Tally, list[bool]], None]) -> QueryScores:
    matches = find_matches(search.queries, search.gallery, search.members, own_left_out=search.own_left_out)
    floor, crowded = _floors(search, matches)
    tally = Tally(matches, floor)
    add_tiles(search, tally, crowded)
    before = tally.before()
    scores = scores_from_counts(tally.matches, before, full_ranking=search.full_ranking)
    rows = tally.unsettled(before)
    if len(rows) == 0:
        return scores
    again = replace(search, queries=search.queries.select(rows), cautious=True)
    return scores.updated(rows.cpu().numpy(), _scores_of(again, _all_tiles))


def _blocks(source: Embeddings, size: int) -> list[Block]:
    return [source.block(start, start + size) for start in range(0, len(source), size)]


def _all_tiles(search: Search, tally: Tally, crowded: list[bool]) -> None:
    blocks = _blocks(search.queries, search.tile)
    for block, flag in zip(blocks, crowded, strict=True):
        block.crowded = flag
    for start in range(0, len(search.gallery), search.tile):
        gallery = search.gallery.block(start, start + search.tile)
        for block in blocks:
            _add(tally, block, gallery, both=False)


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
                _add(tally, block, column, both=block is not column)


def _add(tally: Tally, queries: Block, gallery: Block, *, both: bool) -> None:
    tile = compute_tile(queries, gallery)
    sides = [tile, tile.exchanged] if both else [tile]
    for side in sides:
        if not tally.add(side):
            exact = compute_tile(queries, gallery, exact=True)
            tally.add(exact if side is tile else exact.exchanged)


def _floors(search: Search, matches: Matches) -> tuple[Tensor, list[bool]]:
    """A similarity for each query that R of its gallery items (almost) surely reach; and whether a block is crowded."""
    least, most = SAMPLE_LIMITS
    size = min(max(least, min(most, int(SAMPLE_SHARE * len(search.gallery)))), len(search.gallery))
    picked = torch.linspace(0, len(search.gallery) - 1, size, device=search.queries.device).long()
    sample = search.gallery.select(picked).block(0, size)
    needed = matches.number
    if not search.cautious:
        # If more than R items lie above the floor, fewer than R of them are in the sample: about a share * R, and rarely
        # more than 3.5 standard deviations above that.
        expected = needed * (size / len(search.gallery))
        needed = needed.minimum((expected + 3.5 * expected.sqrt() + 1.5).ceil().long())
    floors, crowded = [], []
    for block in _blocks(search.queries, search.tile):
        rows = slice(block.start, block.stop)
        own = (search.queries.origin[rows, None] == picked) if search.own_left_out else None
        error = float32_error(search.queries.dimension)
        values = block.approximate @ sample.approximate.T
        floor = _reached(values, own, needed[rows]) - error
        crowded.append(_is_crowded(values, floor, error))
        if crowded[-1]:
            floor = _reached(exact_matrix(block.grid, sample.grid), own, needed[rows])
        floors.append(torch.full_like(floor, -torch.inf) if search.full_ranking else floor)
    return torch.cat(floors), crowded


def _reached(values: Tensor, own: Tensor | None, needed: Tensor) -> Tensor:
    """A value that at least needed (n,) of each row of values (n, m) reach, outside the mask `own`; float64.

    That is the needed-th greatest of the greatest values of groups, which is quick and not far below the
    needed-th greatest of all as long as the groups are many.
    """
    if own is not None:
        values[own] = -torch.inf
    number, size = values.shape
    reach = min(max(int(needed.max()), 1), size)
    groups = max(reach, min(size, 4 * reach, size // 2))
    members = size // groups
    if members > 1:
        values = values[:, : groups * members].view(number, members, groups).amax(dim=1)
    highest = values.topk(reach, dim=1).values.double()
    floor = highest.gather(1, (needed - 1).clamp(0, reach - 1)[:, None])[:, 0]
    return torch.where(needed <= reach, floor, -torch.inf)


def _is_crowded(values: Tensor, floor: Tensor, error: float) -> bool:
    """Whether many values (n, m) are too close to each other for an approximation off by `error`."""
    rows = slice(None, None, max(1, len(values) // 64))
    near = (values[rows].double() - floor[rows, None]).abs() <= 3 * error
    return bool(near.double().mean() > CROWDED_SHARE)


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
