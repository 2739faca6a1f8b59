"""`score`: the one entry to the retrieval scores."""

from collections.abc import Iterable, Sequence

import torch

from ctxtune.retrieval.embeddings import read_embeddings
from ctxtune.retrieval.inputs import ArrayLike, check_recall_at, number_classes
from ctxtune.retrieval.precision import full_float32
from ctxtune.retrieval.ranking import score_queries
from ctxtune.retrieval.scores import RetrievalScores, summarise


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
) -> RetrievalScores:
    """Retrieval scores by cosine similarity, exact."""
    if (gallery_embeddings is None) != (gallery_labels is None):
        raise ValueError("gallery_embeddings and gallery_labels go together; only one of them was given")
    device = query_embeddings.device if isinstance(query_embeddings, torch.Tensor) else torch.device("cpu")
    with torch.no_grad(), full_float32():
        classes = number_classes(query_labels, gallery_labels, device)
        queries = read_embeddings(query_embeddings, classes.queries, "query_embeddings")
        own_left_out = gallery_embeddings is None
        gallery = queries
        if gallery_embeddings is not None:
            gallery = read_embeddings(gallery_embeddings, classes.gallery, "gallery_embeddings")
        cutoffs = check_recall_at(recall_at, len(gallery) - own_left_out)
        scores = score_queries(
            queries,
            gallery,
            len(classes.labels),
            own_left_out=own_left_out,
            full_ranking=full_map,
            tile=chunk_size or 1024,
        )
    return summarise(
        scores, cutoffs, classes.queries.cpu().numpy(), classes.labels, per_query=per_query, per_class=per_class
    )
