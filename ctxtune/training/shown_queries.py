"""A few queries with the pictures of what a model retrieves for them."""

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ctxtune.data import Split
from ctxtune.embedded_image import EmbeddedImage, embedded_image
from ctxtune.retrieval import nearest
from ctxtune.retrieved_images import RetrievedImage, ShownQuery

NEIGHBORS = 8
"""Gallery images shown of each query."""
SIDE = 56
"""Pixels of a thumbnail on the page; twice as many are kept, for dense screens."""
DRAW_SEED = 20230721


def drawn_queries(
    labels: npt.NDArray[np.int64], gallery_labels: npt.NDArray[np.int64] | None, count: int
) -> npt.NDArray[np.int64]:
    """Which queries to show: drawn by the labels alone, so that every model of these data shows the same ones.

    Args:
        labels: (q,) of the queries.
        gallery_labels: (g,) of what is searched; None: the queries among themselves.
        count: most queries.

    Returns:
        Up to `count` rows: one of each class in a drawn order, then a second one of each, and so on. Queries that have no
        match are left out.
    """
    classes, inverse, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    matched = sizes > 1 if gallery_labels is None else np.isin(classes, gallery_labels)
    generator = np.random.default_rng(DRAW_SEED)
    place = generator.permutation(len(classes))[inverse]
    order = generator.permutation(len(labels))
    seen: dict[int, int] = {}
    turns = np.zeros(len(labels), dtype=np.int64)
    for row in order.tolist():
        turns[row] = seen.get(label := int(inverse[row]), 0)
        seen[label] = int(turns[row]) + 1
    drawn = np.lexsort((place, turns))
    return drawn[matched[inverse[drawn]]][:count]


def shown_queries(
    query: Split, embeddings: Tensor, gallery: Split | None, gallery_embeddings: Tensor | None, count: int
) -> tuple[ShownQuery, ...]:
    """The nearest images of up to `count` queries, with pictures.

    Args:
        query, gallery: what was embedded, image by image; no gallery: the queries are searched among themselves.
        embeddings: (q, d); `gallery_embeddings` (g, d) alike.
    """
    rows = drawn_queries(query.labels, None if gallery is None else gallery.labels, count)
    if not len(rows):
        return ()
    searched = query if gallery is None else gallery
    among = embeddings if gallery_embeddings is None else gallery_embeddings
    wanted = NEIGHBORS + (gallery is None)  # one more: the query finds itself
    found = nearest(embeddings[rows], among, k=min(wanted, len(searched)))
    queries = []
    for row, items, similarities in zip(rows.tolist(), found.indices, found.similarities, strict=True):
        neighbors = [
            RetrievedImage(
                class_name=_class_name(searched, item),
                similarity=float(similarity),
                right=bool(searched.labels[item] == query.labels[row]),
                picture=_picture(searched, item),
            )
            for item, similarity in zip(items.tolist(), similarities, strict=True)
            if gallery is not None or item != row
        ]
        shown = ShownQuery(
            row=row,
            class_name=_class_name(query, row),
            picture=_picture(query, row),
            found=tuple(neighbors[:NEIGHBORS]),
        )
        queries.append(shown)
    return tuple(queries)


def _class_name(split: Split, index: int) -> str:
    label = int(split.labels[index])
    return split.class_names.get(label, f"class {label}")


def _picture(split: Split, index: int) -> EmbeddedImage | None:
    try:
        return embedded_image(split.read(index), _class_name(split, index), SIDE)
    except (OSError, ValueError):
        return None
