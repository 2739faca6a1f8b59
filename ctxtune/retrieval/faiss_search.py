"""Search with faiss, whose float32 results are made exact: what its list leaves open is counted by the torch backend."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctxtune.retrieval.cutoffs import Cutoffs, no_cutoffs
from ctxtune.retrieval.embeddings import Block, Embeddings
from ctxtune.retrieval.matches import find_matches
from ctxtune.retrieval.process_group import Processes
from ctxtune.retrieval.rank_counter import Pairs, RankCounter
from ctxtune.retrieval.ranking import Search, score_queries, scores_from_counts
from ctxtune.retrieval.scores import QueryScores
from ctxtune.retrieval.similarity import float32_error

# Neighbors fetched beyond those needed, so that a tie at the end of the list seldom leaves a query open.
SPARE = 8
# The most neighbors that faiss finds on a GPU.
GPU_NEIGHBORS = 2048
OPEN_PAIRS = 64

Fetch = Callable[[Block, int], tuple[Tensor, Tensor]]


def faiss_fetch(gallery: Embeddings, chunk: int) -> Fetch:
    """Build an index of the gallery; the function returned fetches a block's nearest items.

    It returns similarities (n, k) in float64, off by at most `float32_error`, greatest first, and gallery indices
    (n, k). Raises ImportError where faiss is not installed.
    """
    index = _index(gallery, chunk)

    def fetch(queries: Block, number: int) -> tuple[Tensor, Tensor]:
        rows = queries.approximate.cpu().numpy()
        similarities, items = _for_number(index, number).search(rows, number)
        device = gallery.device
        return torch.from_numpy(similarities).to(device).double(), torch.from_numpy(items).to(device)

    return fetch


def _index(gallery: Embeddings, chunk: int) -> dict[str, object]:
    try:
        import faiss
    except ImportError as error:
        message = 'backend="faiss" needs faiss, which is not installed: pip install faiss-cpu, or use backend="torch"'
        raise ImportError(message) from error
    index = faiss.IndexFlatIP(gallery.dimension)
    for block in gallery.blocks(chunk):
        index.add(block.approximate.cpu().numpy())
        block.release()
    found: dict[str, Any] = {"cpu": index}
    if gallery.device.type == "cuda" and hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0:
        resources = faiss.StandardGpuResources()
        found["gpu"] = faiss.index_cpu_to_gpu(resources, gallery.device.index or 0, index)
    return found


def _for_number(index: dict[str, Any], number: int) -> Any:
    return index["gpu"] if "gpu" in index and number <= GPU_NEIGHBORS else index["cpu"]


def score_with_faiss(search: Search) -> QueryScores:
    """Scores of every query, the same as `score_queries` gives."""
    fetch = faiss_fetch(search.gallery, search.tile)
    alone = replace(search, processes=Processes())
    number = len(search.queries)
    columns = torch.zeros(5, number, dtype=torch.float64)
    for start in search.processes.share(range(0, number, search.tile)):
        rows = slice(start, min(start + search.tile, number))
        scores = _score_block(replace(alone, queries=search.queries.select(rows)), fetch)
        columns[0, rows] = torch.from_numpy(scores.matches.astype(np.float64))
        columns[1, rows] = torch.from_numpy(scores.first_match_rank.astype(np.float64))
        columns[2, rows] = torch.from_numpy(scores.r_precision)
        columns[3, rows] = torch.from_numpy(scores.average_precision_at_r)
        if scores.average_precision is not None:
            columns[4, rows] = torch.from_numpy(scores.average_precision)
    search.processes.all_reduce(columns)
    matches, first_rank, r_precision, at_r, full = columns.numpy()
    return QueryScores(
        matches.astype(np.int64), first_rank.astype(np.int64), r_precision, at_r, full if search.full_ranking else None
    )


def _score_block(search: Search, fetch: Fetch) -> QueryScores:
    if search.full_ranking:
        return score_queries(search)
    queries, gallery = search.queries, search.gallery
    longest = int(search.members.size[queries.classes].max())
    number = min(longest + SPARE, len(gallery))
    block = Block(queries, 0, len(queries))
    similarities, items = fetch(block, number)
    error = float32_error(queries.dimension)
    cutoffs = no_cutoffs(len(queries), len(gallery), queries.device)
    if number < len(gallery):
        # What is not in the list is at most as similar as its last item, give or take the error.
        cutoffs = Cutoffs(similarities[:, -1] + error, torch.full_like(cutoffs.item, -1))
    exclude_self = search.exclude_self
    matches = find_matches(queries, gallery, search.members, cutoffs, search.workers, exclude_self=exclude_self)
    counter = RankCounter(queries, gallery, matches, cutoffs)
    others = gallery.classes[items] != queries.classes[:, None]
    rows, columns = others.nonzero(as_tuple=True)
    pairs = Pairs(
        block, Block(gallery, 0, len(gallery)), rows, items[rows, columns], similarities[rows, columns], error
    )
    if not counter.add_listed(pairs, OPEN_PAIRS * len(queries)):
        return score_queries(search)
    counter.settle()
    before = counter.before()
    scores = scores_from_counts(counter.matches, before, full_ranking=False)
    is_open = counter.counted
    is_open[counter.unsettled(before)] = True
    open_rows = is_open.nonzero()[:, 0]
    if len(open_rows) == 0:
        return scores
    again = replace(search, queries=queries.select(open_rows))
    return scores.updated(open_rows.cpu().numpy(), score_queries(again))
