"""`nearest`: the exact nearest neighbors."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ctxtune.float32_products import full_float32
from ctxtune.retrieval.backends import choose_backend
from ctxtune.retrieval.embeddings import Block, Embeddings, read_embeddings
from ctxtune.retrieval.faiss_search import Fetch, faiss_fetch
from ctxtune.retrieval.inputs import ArrayLike, working_device
from ctxtune.retrieval.similarity import exact_matrix, exact_pairs, float32_error, float32_products
from ctxtune.retrieval.threads import Workers
from ctxtune.retrieval.work_sizes import tile_rows

# Candidates are compared exactly this many embedding elements at a time.
CANDIDATE_ELEMENTS = 2**21
SPARE = 8
WIDENING = 4


@dataclass(frozen=True)
class Neighbors:
    """Nearest gallery items of each query, nearest first: `indices` (q, k) int64, `similarities` (q, k) float64."""

    indices: np.ndarray
    similarities: np.ndarray


def nearest(
    query_embeddings: ArrayLike,
    gallery_embeddings: ArrayLike | None = None,
    *,
    k: int,
    backend: str = "auto",
    chunk_size: int | None = None,
) -> Neighbors:
    """The k gallery items of greatest cosine similarity to each query, exactly; ties go by gallery index.

    query_embeddings (q, d), gallery_embeddings (g, d): as for `score`. Without a gallery each query is searched in all
    others, its own index left out.
    k: from 1 to the number of gallery items that a query can find.
    backend, chunk_size: as for `score`.

    Raises ValueError for bad embeddings or a k out of range, ImportError where faiss is asked for and not installed.
    """
    device = working_device(query_embeddings)
    chunk = tile_rows(chunk_size, device)
    use_faiss = choose_backend(backend) == "faiss"
    # faiss has threads of its own.
    with torch.no_grad(), full_float32("cpu", "cuda"), Workers(device, alone=use_faiss) as workers:
        queries = _read(query_embeddings, "query_embeddings", workers, device)
        exclude_self = gallery_embeddings is None
        gallery = queries
        if gallery_embeddings is not None:
            gallery = _read(gallery_embeddings, "gallery_embeddings", workers, device)
        if queries.dimension != gallery.dimension:
            raise ValueError(f"queries have {queries.dimension} dimensions, the gallery has {gallery.dimension}")
        available = len(gallery) - exclude_self
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= available:
            raise ValueError(
                f"k must be an integer from 1 to {available}, the items that a query can find; found {k!r}"
            )
        fetch = faiss_fetch(gallery, chunk) if use_faiss else torch_fetch(gallery, chunk)
        items, similarities = _find(queries, gallery, int(k), chunk, fetch, workers, exclude_self=exclude_self)
    return Neighbors(items.cpu().numpy(), similarities.cpu().numpy())


def _read(embeddings: ArrayLike, name: str, workers: Workers, device: torch.device) -> Embeddings:
    number = len(embeddings) if np.ndim(embeddings) else 0
    return read_embeddings(embeddings, torch.zeros(number, dtype=torch.int64, device=device), name, workers)


def torch_fetch(gallery: Embeddings, chunk: int) -> Fetch:
    """A function that fetches a block's nearest items, as `faiss_fetch` makes one."""

    def fetch(queries: Block, number: int) -> tuple[Tensor, Tensor]:
        best = torch.empty(len(queries), 0, dtype=torch.float32, device=gallery.device)
        items = torch.empty(len(queries), 0, dtype=torch.int64, device=gallery.device)
        for block in gallery.blocks(max(chunk, number)):
            values = float32_products(queries.pieces, block.pieces)
            block.release()
            found = values.topk(min(number, values.shape[1]), dim=1)
            best = torch.cat([best, found.values], dim=1)
            items = torch.cat([items, found.indices + block.start], dim=1)
            if best.shape[1] > number:
                best, kept = best.topk(number, dim=1)
                items = items.gather(1, kept)
        return best.double(), items

    return fetch


def _find(
    queries: Embeddings,
    gallery: Embeddings,
    number: int,
    chunk: int,
    fetch: Fetch,
    workers: Workers,
    *,
    exclude_self: bool,
) -> tuple[Tensor, Tensor]:
    """Fetch a few more than needed, rank them exactly, more where the end of the list is open, and at last all."""
    device = queries.device
    items = torch.empty(len(queries), number, dtype=torch.int64, device=device)
    similarities = torch.empty(len(queries), number, dtype=torch.float64, device=device)
    rows = torch.arange(len(queries), device=device)
    needed = number + exclude_self
    for wanted in (needed + SPARE, WIDENING * (needed + SPARE)):
        is_open = torch.zeros(len(queries), dtype=torch.bool, device=device)

        def find(block: Block, rows: Tensor = rows, wanted: int = wanted, is_open: Tensor = is_open) -> None:
            place = rows[block.start : block.stop]
            fetched = fetch(block, min(wanted, len(gallery)))
            items[place], similarities[place], is_open[place] = _ranked(
                block, gallery, fetched, number, exclude_self=exclude_self
            )
            block.release()

        workers.each(find, queries.select(rows).blocks(chunk))
        rows = is_open.nonzero()[:, 0]
        if len(rows) == 0:
            return items, similarities

    def find_among_all(block: Block) -> None:
        place = rows[block.start : block.stop]
        items[place], similarities[place] = _nearest_in_blocks(block, gallery, number, chunk, exclude_self=exclude_self)
        block.release()

    workers.each(find_among_all, queries.select(rows).blocks(chunk))
    return items, similarities


def _ranked(
    block: Block, gallery: Embeddings, fetched: tuple[Tensor, Tensor], number: int, *, exclude_self: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The first of the candidates in exact order, their similarities, and which queries (n,) need more."""
    approximate, candidates = fetched
    candidates = candidates.sort(dim=1).values
    values = _exact(block, gallery, candidates)
    if exclude_self:
        values[candidates == block.origin[:, None]] = -torch.inf
    values, order = values.sort(dim=1, descending=True, stable=True)
    values, items = values[:, :number], candidates.gather(1, order[:, :number])
    # All that was not fetched is at most as similar as the last that was, give or take the error.
    last = approximate[:, -1] + float32_error(gallery.dimension)
    is_open = values[:, -1] <= last if candidates.shape[1] < len(gallery) else torch.zeros_like(last, dtype=torch.bool)
    return items, values, is_open


def _exact(block: Block, gallery: Embeddings, candidates: Tensor) -> Tensor:
    """Exact similarities of a block's queries with their candidates (n, c)."""
    flat = candidates.reshape(-1)
    owner = torch.arange(len(candidates), device=flat.device).repeat_interleave(candidates.shape[1])
    values = torch.empty(len(flat), dtype=torch.float64, device=flat.device)
    step = max(1, CANDIDATE_ELEMENTS // gallery.dimension)
    for start in range(0, len(flat), step):
        some = slice(start, start + step)
        values[some] = exact_pairs(block.normalized[owner[some]], gallery.rows(flat[some]))
    return values.view_as(candidates)


def _nearest_in_blocks(
    block: Block, gallery: Embeddings, number: int, chunk: int, *, exclude_self: bool
) -> tuple[Tensor, Tensor]:
    """The nearest items and their similarities, by comparing a block's queries exactly with the whole gallery."""
    best = torch.empty(len(block), 0, dtype=torch.float64, device=gallery.device)
    items = torch.empty(len(block), 0, dtype=torch.int64, device=gallery.device)
    for part in gallery.blocks(chunk):
        values = exact_matrix(block.normalized, part.normalized)
        part.release()
        index = torch.arange(part.start, part.stop, device=gallery.device).expand_as(values)
        if exclude_self:
            values[index == block.origin[:, None]] = -torch.inf
        # Earlier items come first, so that a stable sort leaves ties in order of their index.
        best, order = torch.cat([best, values], dim=1).sort(dim=1, descending=True, stable=True)
        best, items = best[:, :number], torch.cat([items, index], dim=1).gather(1, order[:, :number])
    return items, best
