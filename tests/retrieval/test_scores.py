"""Scores against a naive oracle that sorts the whole gallery for every query."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

from ctxtune.retrieval import score
from tests.helpers.precision import reduced_products


def naive_scores(queries, query_labels, gallery=None, gallery_labels=None):
    """(R, rank of the first match, R-precision, AP@R, AP) of each query, in float64.

    Similarities are rounded to 13 digits: those that differ by rounding of the last bits are ties.
    """
    exclude_self = gallery is None
    if exclude_self:
        gallery, gallery_labels = queries, query_labels
    queries, gallery = queries.astype(np.float64), gallery.astype(np.float64)
    queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    gallery = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    similarities = np.round(queries @ gallery.T, 13)
    rows = []
    for index in range(len(queries)):
        items = np.arange(len(gallery))
        if exclude_self:
            items = np.delete(items, index)
        ranking = items[np.argsort(-similarities[index, items], kind="stable")]
        relevant = gallery_labels[ranking] == query_labels[index]
        matches = int(relevant.sum())
        if matches == 0:
            rows.append((0, 0, np.nan, np.nan, np.nan))
            continue
        precision = np.cumsum(relevant) / np.arange(1, len(relevant) + 1)
        hits = precision * relevant
        first = int(np.argmax(relevant)) + 1
        of_first = relevant[:matches].sum() / matches, hits[:matches].sum() / matches
        rows.append((matches, first, *of_first, hits.sum() / matches))
    return np.array(rows)


def table(scores):
    """The per-query values in the columns of `naive_scores`."""
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


def clusters(number, classes, dimension, noise, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, number)
    centers = generator.standard_normal((classes, dimension))
    return (centers[labels] + noise * generator.standard_normal((number, dimension))).astype(np.float32), labels


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
        points = embeddings(kind, generator, gallery, dimension).astype(precision)
        other = (points, generator.integers(0, classes, gallery))
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
        return
    matched = expected[expected[:, 0] > 0]
    assert scores.map_at_r == pytest.approx(matched[:, 3].mean())
    assert scores.r_precision == pytest.approx(matched[:, 2].mean())
    assert scores.mean_reciprocal_rank == pytest.approx((1 / matched[:, 1]).mean())
    if full_map:
        assert scores.mean_average_precision == pytest.approx(matched[:, 4].mean())


@pytest.mark.parametrize("full_map", [False, True])
@pytest.mark.parametrize("noise", [0.7, 1.5, 6.0])
def test_several_tiles(noise, full_map):
    points, labels = clusters(1300, 60, 8, noise)
    points[1010:1040] = points[3]
    scores = score(points, labels, full_map=full_map, per_query=True)
    expected = naive_scores(points, labels)[:, : 5 if full_map else 4]
    np.testing.assert_allclose(table(scores), expected, rtol=0, atol=1e-12)


def test_separate_gallery_of_several_tiles():
    points, labels = clusters(2500, 40, 8, 1.2)
    splits = points[:1200], labels[:1200], points[1200:], labels[1200:]
    np.testing.assert_allclose(table(score(*splits, per_query=True)), naive_scores(*splits)[:, :4], rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-3, 1e-5, 1e-7])
def test_collapsed_embeddings_are_told_apart_in_float64(scale):
    generator = np.random.default_rng(1)
    points, labels = clusters(700, 20, 8, 1.0)
    # Around one point, far closer together than float32 products can resolve.
    points = 1.0 + scale * points.astype(np.float64)
    queries = generator.standard_normal((300, 8))
    query_labels = generator.integers(0, 20, 300)
    splits = queries, query_labels, points, labels
    np.testing.assert_allclose(table(score(*splits, per_query=True)), naive_scores(*splits)[:, :4], rtol=0, atol=1e-12)


def test_neighbors_that_only_the_sample_sees():
    """The scores stay exact where an estimate from equally spaced gallery items misleads."""
    number, sampled = 3000, np.linspace(0, 2999, 300).astype(int)
    generator = np.random.default_rng(2)
    angle = generator.uniform(0.5, 3.0, number)
    angle[sampled] = generator.uniform(-0.01, 0.01, len(sampled))
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    labels = np.zeros(number, dtype=int)
    labels[sampled] = 1 + np.arange(300) % 3
    queries, query_labels = points[:50] * [1, 0.001], np.zeros(50, dtype=int)
    splits = queries, query_labels, points, labels
    np.testing.assert_allclose(table(score(*splits, per_query=True)), naive_scores(*splits)[:, :4], rtol=0, atol=1e-12)


@pytest.mark.parametrize("separate", [False, True])
def test_equals_pytorch_metric_learning(separate):
    points, labels = clusters(400, 40, 16, 2.0)
    labels[:5] = np.arange(100, 105)  # alone in their classes; the calculator leaves them out of everything
    points, labels = torch.from_numpy(points), torch.from_numpy(labels)
    splits = (points[:150], labels[:150], points[150:], labels[150:]) if separate else (points, labels)
    include = (
        "precision_at_1",
        "r_precision",
        "mean_average_precision",
        "mean_average_precision_at_r",
        "mean_reciprocal_rank",
    )
    calculator = AccuracyCalculator(include=include, device=torch.device("cpu"))
    theirs = calculator.get_accuracy(
        *(torch.nn.functional.normalize(split) if split.ndim == 2 else split for split in splits)
    )
    ours = score(*splits, recall_at=(1,), full_map=True)
    assert ours.queries_without_match == 5
    assert ours.r_precision == pytest.approx(theirs["r_precision"], abs=1e-9)
    assert ours.map_at_r == pytest.approx(theirs["mean_average_precision_at_r"], abs=1e-9)
    assert ours.mean_average_precision == pytest.approx(theirs["mean_average_precision"], abs=1e-9)
    assert ours.mean_reciprocal_rank == pytest.approx(theirs["mean_reciprocal_rank"], abs=1e-6)
    counted = (ours.queries - ours.queries_without_match) / ours.queries
    assert ours.recall_at[1] == pytest.approx(theirs["precision_at_1"] * counted)


def test_one_point_does_not_score_well():
    labels = np.repeat(np.arange(50), 4)
    np.random.default_rng(0).shuffle(labels)
    scores = score(np.ones((200, 8), dtype=np.float32), labels, per_query=True)
    # All tie, so that item 0 comes first for all others and item 1 for item 0.
    expected = [labels[1] == labels[0], *(labels[1:] == labels[0])]
    np.testing.assert_array_equal(scores.per_query.recall_at(1), expected)
    assert scores.recall_at[1] < 0.05


def test_own_index_is_left_out_and_duplicates_are_not():
    # Item 2 equals item 0: each finds the other first, although 0 comes before 2 in the ranking of both.
    points = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.6, 0.8]])
    processes = score(points, np.array([0, 1, 1, 0]), recall_at=(1,), per_query=True).per_query.first_match_rank
    # 0: ranking 2, 3, 1. 1: 3, then 0 and 2 tie, 0 first. 2: 0, 3, 1. 3: 1, then 0 and 2 tie.
    assert processes.tolist() == [2, 3, 3, 2]


def test_a_large_class_and_every_cutoff():
    points, labels = clusters(1500, 2, 4, 3.0)
    every = tuple(range(1, 1500))
    scores = score(points, labels, recall_at=every, per_query=True)
    expected = naive_scores(points, labels)
    assert scores.per_query.matches.min() > 600
    np.testing.assert_allclose(table(scores), expected[:, :4], rtol=0, atol=1e-12)
    assert scores.recall_at == {k: pytest.approx((expected[:, 1] <= k).mean()) for k in every}


def test_per_class_means():
    points, labels = clusters(300, 12, 4, 2.0)
    labels = labels * 1000 - 5000
    labels[0] = 77
    scores = score(points, labels, recall_at=(1, 3), full_map=True, per_query=True, per_class=True)
    of_class, query = scores.per_class, scores.per_query
    assert of_class.labels.tolist() == sorted(set(labels))
    for place, label in enumerate(of_class.labels):
        mine = labels == label
        assert of_class.queries[place] == mine.sum()
        assert of_class.recall_at[3][place] == pytest.approx(query.recall_at(3)[mine].mean())
        if label != 77:
            assert of_class.map_at_r[place] == pytest.approx(query.average_precision_at_r[mine].mean())
            assert of_class.r_precision[place] == pytest.approx(query.r_precision[mine].mean())
            assert of_class.mean_reciprocal_rank[place] == pytest.approx(query.reciprocal_rank[mine].mean())
            assert of_class.mean_average_precision[place] == pytest.approx(query.average_precision[mine].mean())
    alone = of_class.labels.tolist().index(77)
    assert of_class.recall_at[1][alone] == 0
    assert np.isnan(of_class.map_at_r[alone])


def test_large_labels_stay_apart():
    points, labels = clusters(60, 6, 4, 1.0)
    expected = score(points, labels)
    for huge in (2**53, 2**62, -(2**62)):
        assert score(points, labels + huge) == expected
        assert score(points, torch.from_numpy(labels + huge)) == expected
    assert score(points, labels.astype(np.uint64) + np.uint64(2**64 - 10)) == expected
    assert score(points, [int(label) + 2**80 for label in labels]) == expected
    mixed = score(points, labels.astype(np.int64), points, labels.astype(np.uint64))
    assert mixed == score(points, labels, points, labels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_floating_type(dtype):
    points, labels = clusters(200, 10, 8, 1.5)
    points = torch.from_numpy(points).to(dtype)
    expected = naive_scores(points.double().numpy(), labels)
    scores = score(points, labels, per_query=True)
    np.testing.assert_allclose(table(scores), expected[:, :4], rtol=0, atol=1e-12)


def test_scale_and_layout_do_not_matter():
    points, labels = clusters(200, 10, 8, 1.5)
    expected = score(points, labels)
    assert score(points.astype(np.float64) * 2.0**900, labels) == expected
    assert score(points.astype(np.float64) * 2.0**-900, labels) == expected
    assert score(points * np.float32(2.0**100), labels) == expected
    assert score(points.astype(">f4"), labels) == expected
    assert score(np.asfortranarray(points), labels) == expected
    frozen = points.copy()
    frozen.flags.writeable = False
    assert score(frozen, labels) == expected
    assert score(torch.from_numpy(points).requires_grad_(), labels) == expected
    rows = np.random.default_rng(0).uniform(0.1, 10, (200, 1))
    assert score(points.astype(np.float64) * rows, labels).map_at_r == pytest.approx(expected.map_at_r)


def test_settings_of_training_do_not_matter():
    points, labels = clusters(300, 10, 64, 4.0)
    expected = score(points, labels)
    with reduced_products(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert score(points, labels) == expected


POINTS = np.eye(4, dtype=np.float32)
LABELS = np.array([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.full((4, 4), np.nan), LABELS), {}, "must be finite; row 0"),
        ((np.where(np.eye(4) > 0, np.inf, 1.0), LABELS), {}, "must be finite; row 0"),
        ((POINTS * [[1], [1], [0], [1]], LABELS), {}, "zero vectors.* row 2"),
        ((POINTS, LABELS, np.zeros((4, 4)), LABELS), {}, "gallery_embeddings must hold no zero vectors"),
        ((POINTS[0], LABELS), {}, r"shape \(items, dimensions\)"),
        ((POINTS[:0], LABELS[:0]), {}, r"shape \(items, dimensions\)"),
        ((POINTS.astype(int), LABELS), {}, "floating-point"),
        (([[1.0]], [1]), {}, "torch tensor or a numpy array"),
        ((POINTS, LABELS[:3]), {}, "holds 4 items, but there are 3 labels"),
        ((POINTS, LABELS[:, None]), {}, r"query_labels must have the shape \(items,\)"),
        ((POINTS, LABELS * 1.0), {}, "query_labels must be integers"),
        ((POINTS, LABELS > 0), {}, "query_labels must be integers"),
        ((POINTS, LABELS, POINTS), {}, "go together"),
        ((POINTS, LABELS, None, LABELS), {}, "go together"),
        ((POINTS, LABELS, POINTS[:, :2] + 1, LABELS), {}, "4 dimensions, the gallery has 2"),
        ((POINTS, LABELS), {"recall_at": (1, 4)}, "holds 4, but a query has only 3"),
        ((POINTS, LABELS, POINTS, LABELS), {"recall_at": (5,)}, "holds 5, but a query has only 4"),
        ((POINTS, LABELS), {"recall_at": (0,)}, "positive integers, found 0"),
        ((POINTS, LABELS), {"recall_at": (1.5,)}, "positive integers, found 1.5"),
        ((POINTS, LABELS), {"recall_at": (True,)}, "positive integers, found True"),
        ((POINTS, LABELS), {"recall_at": 4}, "recall_at must be a sequence"),
        ((POINTS, LABELS), {"recall_at": (1,), "backend": "cupy"}, "'torch' or 'faiss', found 'cupy'"),
        ((POINTS, LABELS), {"recall_at": (1,), "chunk_size": 0}, "chunk_size must be an integer from 1"),
    ],
)
def test_bad_input_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        score(*arguments, **options)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("chunk_size", [None, 4096])
@pytest.mark.parametrize("noise", [0.5, 1.5])
def test_gpu_gives_the_same_numbers(noise, chunk_size):
    points, labels = clusters(9000, 300, 32, noise)
    points, labels = torch.from_numpy(points), torch.from_numpy(labels)
    for splits in ((points, labels), (points[:3000], labels[:3000], points[3000:], labels[3000:])):
        expected = score(*splits, full_map=True, per_query=True)
        there = (split.cuda() for split in splits)
        found = score(*there, full_map=True, per_query=True, chunk_size=chunk_size)
        np.testing.assert_array_equal(table(found), table(expected))
        assert found.recall_at == expected.recall_at


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_scores_nearly_equal_points_as_the_cpu_does():
    """Similarities that differ in their last bits only: float64 sums in another order rank some of them otherwise."""
    points, labels = clusters(9000, 300, 32, 1.5)
    points, labels = torch.from_numpy(1.0 + 1e-6 * points), torch.from_numpy(labels)
    expected = score(points, labels, full_map=True)
    found = score(points.cuda(), labels.cuda(), full_map=True)
    assert found.map_at_r == pytest.approx(expected.map_at_r, abs=1e-4)
    assert found.recall_at == pytest.approx(expected.recall_at, abs=1e-3)
