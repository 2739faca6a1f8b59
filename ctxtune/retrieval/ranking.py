"""Exact scores of each query by counting over tiles of similarities, in bounded memory."""

import numpy as np
import torch
from torch import Tensor

from ctxtune.retrieval.inputs import Classes, EmbeddingRows
from ctxtune.retrieval.matches import class_members, find_matches
from ctxtune.retrieval.scores import QueryScores
from ctxtune.retrieval.similarity import exact_matrix, float32_error
from ctxtune.retrieval.tally import Tally, Tile

TILE = 1024
SAMPLE = 1024
SPARE = 16


def score_queries(
    queries: EmbeddingRows, gallery: EmbeddingRows, classes: Classes, *, own_left_out: bool, full_ranking: bool
) -> QueryScores:
    """Per-query scores; `full_ranking` adds the average precision over the whole ranking."""
    members = class_members(classes.gallery, len(classes.labels))
    parts = []
    for first in range(0, len(queries), TILE):
        last = min(first + TILE, len(queries))
        rows = queries.block(first, last)
        matches = find_matches(queries, gallery, classes, members, first, last, own_left_out=own_left_out)
        floor = torch.full((last - first,), -torch.inf, dtype=torch.float64, device=rows.device)
        if not full_ranking:
            floor = _floor(rows, first, gallery, matches.count, own_left_out=own_left_out)
        tally = Tally(matches, classes, floor, own_left_out=own_left_out)
        for start in range(0, len(gallery), TILE):
            columns = gallery.block(start, min(start + TILE, len(gallery)))
            add_exactly(tally, approximate_tile(rows, columns, first, start))
        parts.append(scores_from_counts(tally, full_ranking=full_ranking))
    return concatenate(parts)


def approximate_tile(queries: Tensor, gallery: Tensor, query_start: int, gallery_start: int) -> Tile:
    """Similarities in float32."""
    values = queries.float() @ gallery.float().T
    return Tile(values, float32_error(queries.shape[1]), queries, gallery, query_start, gallery_start)


def add_exactly(tally: Tally, tile: Tile) -> None:
    """Add a tile, computed again in exact arithmetic where the approximation leaves too much open."""
    if not tally.add(tile):
        values = exact_matrix(tile.queries, tile.gallery)
        tally.add(Tile(values, 0.0, tile.queries, tile.gallery, tile.query_start, tile.gallery_start))


def _floor(rows: Tensor, first: int, gallery: EmbeddingRows, matches: Tensor, *, own_left_out: bool) -> Tensor:
    """For each query a similarity that at least R of its gallery items reach, from a sample of the gallery."""
    size = min(SAMPLE, len(gallery))
    sample = torch.linspace(0, len(gallery) - 1, size, device=rows.device).long()
    values = rows.float() @ gallery.rows(sample).float().T
    if own_left_out:
        own = torch.arange(first, first + len(rows), device=rows.device)
        values[own[:, None] == sample] = -torch.inf
    needed = matches.clamp(min=SPARE)
    reach = min(int(needed.max()), size)
    highest = values.topk(reach, dim=1).values.double() - float32_error(rows.shape[1])
    floor = highest.gather(1, (needed - 1).clamp(max=reach - 1)[:, None])[:, 0]
    return torch.where(needed <= reach, floor, -torch.inf)


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
