"""Which classes an embedding confuses, from the nearest neighbor of each query."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Confusion:
    """Queries of one class whose nearest neighbor is of another, all of one pair of classes.

    `count` of the `queries` of class `label` have their nearest neighbor in class `other`; `query` and `neighbor`
    (indices into queries and gallery) are the most similar of these pairs.
    """

    label: int
    other: int
    count: int
    queries: int
    query: int
    neighbor: int


def most_confused(
    labels: npt.NDArray[np.int64],
    gallery_labels: npt.NDArray[np.int64],
    nearest: npt.NDArray[np.int64],
    similarities: npt.NDArray[np.float64],
    limit: int,
) -> list[Confusion]:
    """The pairs of classes between which most queries have their nearest neighbor on the wrong side.

    Args:
        labels: (q,) of the queries.
        gallery_labels: (g,) of what was searched.
        nearest: (q,) gallery index of each query's nearest neighbor.
        similarities: (q,) similarity to it.
        limit: most pairs.

    Returns:
        The pairs by number of queries, then by their share of the class, then by label.
    """
    wrong = np.flatnonzero(labels != gallery_labels[nearest])
    known, sizes = np.unique(labels, return_counts=True)
    size_of = dict(zip(known.tolist(), sizes.tolist(), strict=True))
    pairs = np.stack([labels[wrong], gallery_labels[nearest[wrong]]], axis=1)
    # Grouped by pair, the most similar query of a pair first.
    order = np.lexsort((wrong, -similarities[wrong], pairs[:, 1], pairs[:, 0]))
    wrong, pairs = wrong[order], pairs[order]
    first_of_pair = np.ones(len(wrong), dtype=bool)
    first_of_pair[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
    starts = np.flatnonzero(first_of_pair)
    ends = [*starts[1:], len(wrong)][: len(starts)]
    confusions = [
        Confusion(
            label=int(pairs[start, 0]),
            other=int(pairs[start, 1]),
            count=int(end - start),
            queries=size_of[int(pairs[start, 0])],
            query=int(wrong[start]),
            neighbor=int(nearest[wrong[start]]),
        )
        for start, end in zip(starts, ends, strict=True)
    ]
    confusions.sort(key=lambda pair: (-pair.count, -pair.count / pair.queries, pair.label, pair.other))
    return confusions[:limit]
