"""Scores against a naive oracle that sorts the whole gallery for every query."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxtune.retrieval import score


def naive_scores(queries, query_labels, gallery=None, gallery_labels=None):
    """(R, rank of the first match, R-precision, AP@R, AP) of each query, in float64.

    Similarities are rounded to 13 digits: those that differ by rounding of the last bits are ties.
    """
    own_left_out = gallery is None
    if own_left_out:
        gallery, gallery_labels = queries, query_labels
    queries, gallery = queries.astype(np.float64), gallery.astype(np.float64)
    queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    gallery = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    similarities = np.round(queries @ gallery.T, 13)
    rows = []
    for index in range(len(queries)):
        items = np.arange(len(gallery))
        if own_left_out:
            items = np.delete(items, index)
        ranking = items[np.argsort(-similarities[index, items], kind="stable")]
        relevant = gallery_labels[ranking] == query_labels[index]
        matches = int(relevant.sum())
        if matches == 0:
            rows.append((0, 0, np.nan, np.nan, np.nan))
            continue
        precision = np.cumsum(relevant) / np.arange(1, len(relevant) + 1)
        hits = precision * relevant
        rows.append(
            (
                matches,
                int(np.argmax(relevant)) + 1,
                relevant[:matches].sum() / matches,
                hits[:matches].sum() / matches,
                hits.sum() / matches,
            )
        )
    return np.array(rows)


def table(scores):
    query = scores.per_query
    columns = [query.matches, query.first_match_rank, query.r_precision, query.average_precision_at_r]
    if query.average_precision is not None:
        columns.append(query.average_precision)
    return np.stack(columns, axis=1)


def embeddings(kind, generator, number, dimension):
    if kind == "random":
        return generator.standard_normal((number, dimension))
    values = generator.integers(-1, 2, (number, dimension)).astype(np.float64)
    values[(values == 0).all(axis=1)] = 1.0
    if kind == "duplicates":
        values = values[generator.integers(0, max(1, number // 3), number)]
    if kind == "one point":
        values = np.repeat(values[:1], number, axis=0)
    return values


@settings(max_examples=250, deadline=None)
@given(
    kind=st.sampled_from(["random", "ties", "duplicates", "one point"]),
    number=st.integers(2, 40),
    gallery=st.integers(0, 40),
    dimension=st.integers(1, 6),
    classes=st.integers(1, 12),
    precision=st.sampled_from([np.float32, np.float64]),
    full_map=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_naive_oracle(kind, number, gallery, dimension, classes, precision, full_map, seed):
    generator = np.random.default_rng(seed)
    queries = embeddings(kind, generator, number, dimension).astype(precision)
    query_labels = generator.integers(0, classes, number)
    other = ()
    if gallery:
        other = (
            embeddings(kind, generator, gallery, dimension).astype(precision),
            generator.integers(0, classes, gallery),
        )
    expected = naive_scores(queries, query_labels, *other)
    scores = score(queries, query_labels, *other, recall_at=(1,), full_map=full_map, per_query=True)
    if not full_map:
        assert scores.mean_average_precision is None
        expected = expected[:, :4]
    np.testing.assert_allclose(table(scores), expected, rtol=0, atol=1e-12)
    without = int((expected[:, 0] == 0).sum())
    assert (scores.queries, scores.queries_without_match) == (number, without)
    assert scores.recall_at == {1: pytest.approx(float((expected[:, 1] == 1).mean()))}
    if without == number:
        assert np.isnan([scores.map_at_r, scores.r_precision, scores.mean_reciprocal_rank]).all()
    else:
        matched = expected[expected[:, 0] > 0]
        assert scores.map_at_r == pytest.approx(matched[:, 3].mean())
        assert scores.r_precision == pytest.approx(matched[:, 2].mean())
        if full_map:
            assert scores.mean_average_precision == pytest.approx(matched[:, 4].mean())
        assert scores.mean_reciprocal_rank == pytest.approx((1 / matched[:, 1]).mean())


def test_larger_than_a_tile():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 60, 1300)
    points = (generator.standard_normal((60, 8))[labels] + 1.5 * generator.standard_normal((1300, 8))).astype("f4")
    points[1010:1040] = points[3]
    scores = score(torch.from_numpy(points), torch.from_numpy(labels), full_map=True, per_query=True)
    np.testing.assert_allclose(table(scores), naive_scores(points, labels), rtol=0, atol=1e-12)
