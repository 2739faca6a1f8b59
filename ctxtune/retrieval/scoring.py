"""`score`: the one entry to the retrieval scores."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch

from ctxtune.float32_products import full_float32
from ctxtune.retrieval.backends import choose_backend
from ctxtune.retrieval.embeddings import Embeddings, read_embeddings
from ctxtune.retrieval.faiss_search import score_with_faiss
from ctxtune.retrieval.inputs import ArrayLike, check_recall_at, number_classes, working_device
from ctxtune.retrieval.matches import class_members
from ctxtune.retrieval.process_group import Processes
from ctxtune.retrieval.ranking import Search, score_queries
from ctxtune.retrieval.scores import RetrievalScores, summarize
from ctxtune.retrieval.threads import Workers
from ctxtune.retrieval.work_sizes import tile_rows

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def score(
    query_embeddings: ArrayLike,
    query_labels: ArrayLike | Sequence[int],
    gallery_embeddings: ArrayLike | None = None,
    gallery_labels: ArrayLike | Sequence[int] | None = None,
    *,
    recall_at: Iterable[int] = (1, 2, 4, 8),
    backend: str = "auto",
    chunk_size: int | None = None,
    full_map: bool = False,
    per_query: bool = False,
    per_class: bool = False,
    process_group: "ProcessGroup | None" = None,
) -> RetrievalScores:
    """Score retrieval by cosine similarity, exactly, in memory bounded by the chunk.

    For each query the gallery is ranked by the float64 cosine similarity (greatest first), ties by gallery index.
    Without a gallery, each query is searched in all others: its own index is left out, duplicates of it are not.

    query_embeddings, gallery_embeddings: (q, d) and (g, d), of any floating-point type, torch or numpy, need not be
        normalized. The work is done on the queries' GPU or else on the CPU; a gallery elsewhere is moved in chunks.
    query_labels, gallery_labels: (q,) and (g,) integers of any size.
    recall_at: the K of Recall@K, each at most the number of gallery items that a query is ranked against.
    backend: "torch", "faiss" or "auto"; all give the same scores. docs/retrieval.md says what auto goes by.
    chunk_size: queries and gallery items that are compared at once; memory grows with its square.
    full_map: also the mean average precision over the whole ranking, at the cost of counting before every match.
    per_query, per_class: also the scores of each query, and the means of each class.
    process_group: torch.distributed group whose ranks share the work. Every rank must call with the same arguments
        (checked) and gets the same scores. None: this process works alone.

    Raises ValueError for wrong shapes or types, embeddings that are not finite or are zero, a K out of range or an
    unknown backend; ImportError where faiss is asked for and not installed.
    """
    if (gallery_embeddings is None) != (gallery_labels is None):
        raise ValueError("gallery_embeddings and gallery_labels go together; only one of them was given")
    use_faiss = choose_backend(backend) == "faiss"
    device = working_device(query_embeddings)
    with torch.no_grad(), full_float32("cpu", "cuda"), Workers(device) as workers:
        classes = number_classes(query_labels, gallery_labels, device)
        queries = read_embeddings(query_embeddings, classes.queries, "query_embeddings", workers)
        gallery = queries
        if gallery_embeddings is not None:
            gallery = read_embeddings(gallery_embeddings, classes.gallery, "gallery_embeddings", workers)
        exclude_self = gallery is queries
        processes = Processes(process_group)
        _check_inputs(queries, gallery, processes)
        ks = check_recall_at(recall_at, len(gallery) - exclude_self)
        members = class_members(gallery.classes, len(classes.labels))
        tile = tile_rows(chunk_size, device, alone=process_group is None)
        search = Search(queries, gallery, members, exclude_self, full_map, tile, processes, workers)
        scores = score_with_faiss(search) if use_faiss else score_queries(search)
    numbers = classes.queries.cpu().numpy()
    return summarize(scores, ks, numbers, classes.labels, per_query=per_query, per_class=per_class)


def _check_inputs(queries: Embeddings, gallery: Embeddings, processes: Processes) -> None:
    if queries.dimension != gallery.dimension:
        raise ValueError(f"queries have {queries.dimension} dimensions, the gallery has {gallery.dimension}")
    if not processes.agree(queries.norms, queries.classes, gallery.norms, gallery.classes):
        raise ValueError("the ranks of process_group must all pass the same embeddings and labels")
