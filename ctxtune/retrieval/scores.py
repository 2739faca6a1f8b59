"""Retrieval scores from the ranks of each query's matches."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class QueryScores:
    """What each query scored, in the order of the queries; all arrays are (queries,).

    `matches`: R, the number of other gallery items of the query's label.
    `first_match_rank`: rank of the best match, from 1; 0 for a query without match.
    `r_precision`, `average_precision_at_r`, `average_precision` (None unless asked for): NaN without match.
    """

    matches: np.ndarray
    first_match_rank: np.ndarray
    r_precision: np.ndarray
    average_precision_at_r: np.ndarray
    average_precision: np.ndarray | None

    def updated(self, rows: np.ndarray, other: "QueryScores") -> "QueryScores":
        """The same with the queries at `rows` (r,) taken from `other`, which has just them."""

        def put(mine: np.ndarray, others: np.ndarray) -> np.ndarray:
            mine = mine.copy()
            mine[rows] = others
            return mine

        full = None
        if self.average_precision is not None and other.average_precision is not None:
            full = put(self.average_precision, other.average_precision)
        return QueryScores(
            put(self.matches, other.matches),
            put(self.first_match_rank, other.first_match_rank),
            put(self.r_precision, other.r_precision),
            put(self.average_precision_at_r, other.average_precision_at_r),
            full,
        )

    def recall_at(self, cutoff: int) -> np.ndarray:
        """1.0 where one of the first `cutoff` items shares the query's label, 0.0 elsewhere."""
        return ((self.first_match_rank > 0) & (self.first_match_rank <= cutoff)).astype(np.float64)

    @property
    def reciprocal_rank(self) -> np.ndarray:
        """1 / rank of the best match; NaN for a query without match."""
        ranks = np.where(self.first_match_rank > 0, self.first_match_rank, 1).astype(np.float64)
        return np.where(self.first_match_rank > 0, 1.0 / ranks, np.nan)


@dataclass(frozen=True)
class ClassScores:
    """Means over the queries of each class; arrays are (classes of the queries,), in ascending order of `labels`.

    A class whose queries all lack a match has recall 0 and NaN elsewhere.
    """

    labels: np.ndarray
    queries: np.ndarray
    recall_at: dict[int, np.ndarray]
    r_precision: np.ndarray
    map_at_r: np.ndarray
    mean_reciprocal_rank: np.ndarray
    mean_average_precision: np.ndarray | None


@dataclass(frozen=True)
class RetrievalScores:
    """Means over all queries, each in [0, 1].

    Recall@K counts a query without match as 0. All other means leave such queries out (pytorch-metric-learning's
    rule) and are NaN where no query has a match. MAP@R, R-precision: Musgrave et al., "A Metric Learning Reality
    Check", ECCV 2020. `mean_average_precision` is over the full ranking, None unless asked for.
    """

    recall_at: dict[int, float]
    map_at_r: float
    r_precision: float
    mean_reciprocal_rank: float
    mean_average_precision: float | None
    queries: int
    queries_without_match: int
    per_query: QueryScores | None = None
    per_class: ClassScores | None = None


def summarize(
    scores: QueryScores,
    recall_at: tuple[int, ...],
    query_classes: np.ndarray,
    labels: np.ndarray,
    *,
    per_query: bool,
    per_class: bool,
) -> RetrievalScores:
    """Means of the per-query scores. `query_classes` (queries,) index `labels`."""
    full = scores.average_precision
    return RetrievalScores(
        recall_at={cutoff: float(scores.recall_at(cutoff).mean()) for cutoff in recall_at},
        map_at_r=_mean(scores.average_precision_at_r),
        r_precision=_mean(scores.r_precision),
        mean_reciprocal_rank=_mean(scores.reciprocal_rank),
        mean_average_precision=None if full is None else _mean(full),
        queries=len(scores.matches),
        queries_without_match=int((scores.matches == 0).sum()),
        per_query=scores if per_query else None,
        per_class=_class_means(scores, recall_at, query_classes, labels) if per_class else None,
    )


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _class_means(
    scores: QueryScores, recall_at: tuple[int, ...], query_classes: np.ndarray, labels: np.ndarray
) -> ClassScores:
    present, numbers, counts = np.unique(query_classes, return_inverse=True, return_counts=True)

    def means(values: np.ndarray) -> np.ndarray:
        known = ~np.isnan(values)
        totals = np.bincount(numbers[known], weights=values[known], minlength=len(present))
        items = np.bincount(numbers[known], minlength=len(present))
        return np.where(items > 0, totals / np.maximum(items, 1), np.nan)

    full = scores.average_precision
    return ClassScores(
        labels=labels[present],
        queries=counts,
        recall_at={cutoff: means(scores.recall_at(cutoff)) for cutoff in recall_at},
        r_precision=means(scores.r_precision),
        map_at_r=means(scores.average_precision_at_r),
        mean_reciprocal_rank=means(scores.reciprocal_rank),
        mean_average_precision=None if full is None else means(full),
    )
