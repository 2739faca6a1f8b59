"""All backends, chunk sizes and numbers of processes give the same numbers; nearest neighbors are exact."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch.distributed as distributed

from ctxtune.retrieval import nearest, score
from tests.helpers.ranks import on_two_ranks

FIELDS = ("matches", "first_match_rank", "r_precision", "average_precision_at_r", "average_precision")


def points_of(kind, number, dimension, seed):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, max(2, number // 15), number)
    points = generator.standard_normal((labels.max() + 1, dimension))[labels]
    points = points + 1.5 * generator.standard_normal((number, dimension))
    if kind == "ties":
        points = generator.integers(-1, 2, (number, dimension)).astype(np.float64)
        points[(points == 0).all(axis=1)] = 1.0
    if kind == "duplicates":
        points = points[generator.integers(0, number // 2, number)]
    if kind == "collapsed":
        points = 1.0 + 1e-6 * points
    if kind == "one point":
        points = np.ones_like(points)
    return points.astype(np.float32), labels


def arguments(kind, number, separate, seed=0):
    points, labels = points_of(kind, number, 12, seed)
    if separate:
        half = number // 2
        return points[:half], labels[:half], points[half:], labels[half:]
    return points, labels


def assert_same(found, expected):
    for field in FIELDS:
        np.testing.assert_array_equal(
            getattr(found.per_query, field), getattr(expected.per_query, field), err_msg=field
        )
    assert found.recall_at == expected.recall_at
    assert (found.map_at_r, found.r_precision) == (expected.map_at_r, expected.r_precision)


KINDS = ("random", "ties", "duplicates", "collapsed", "one point")


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_faiss_gives_the_same_numbers(kind, separate):
    pytest.importorskip("faiss")
    splits = arguments(kind, 1500, separate)
    expected = score(*splits, backend="torch", per_query=True)
    assert_same(score(*splits, backend="faiss", per_query=True), expected)


def test_faiss_gives_the_same_full_ranking():
    pytest.importorskip("faiss")
    splits = arguments("ties", 300, separate=False)
    expected = score(*splits, backend="torch", full_map=True, per_query=True)
    assert_same(score(*splits, backend="faiss", full_map=True, per_query=True), expected)


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_chunk_size_does_not_matter(kind, separate):
    splits = arguments(kind, 500, separate)
    expected = score(*splits, per_query=True, full_map=True)
    for chunk_size in (41, 4096) if kind == "random" else (100,):
        assert_same(score(*splits, per_query=True, full_map=True, chunk_size=chunk_size), expected)


def test_missing_faiss_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    splits = arguments("random", 50, separate=False)
    assert score(*splits) == score(*splits, backend="torch")
    with pytest.raises(ImportError, match="pip install faiss-cpu"):
        score(*splits, backend="faiss")


def test_importing_the_room_leaves_faiss_alone():
    code = "import sys, ctxtune.retrieval; sys.exit('faiss' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_nearest_is_exact(kind, separate):
    points, _ = points_of(kind, 700, 6, seed=3)
    queries, gallery = (points[:200], points[200:]) if separate else (points, None)
    others = points if gallery is None else gallery
    exact = [split.astype(np.float64) for split in (queries, others)]
    exact = [split / np.linalg.norm(split, axis=1, keepdims=True) for split in exact]
    similarities = exact[0] @ exact[1].T
    if gallery is None:
        np.fill_diagonal(similarities, -np.inf)
    expected = np.argsort(-np.round(similarities, 13), axis=1, kind="stable")
    backends = ["torch", "faiss"] if importlib.util.find_spec("faiss") else ["torch"]
    for k in (1, 10, others.shape[0] - (gallery is None)):
        found = [nearest(queries, gallery, k=k, backend=backend) for backend in backends]
        for other in (*found, nearest(queries, gallery, k=k, chunk_size=50)):
            np.testing.assert_array_equal(other.indices, found[0].indices)
            np.testing.assert_array_equal(other.similarities, found[0].similarities)
        picked = np.take_along_axis(similarities, found[0].indices, axis=1)
        np.testing.assert_allclose(found[0].similarities, picked, rtol=0, atol=1e-14)
        if kind != "collapsed":  # the oracle's rounding makes ties of what is close
            np.testing.assert_array_equal(found[0].indices, expected[:, :k])


def test_nearest_refuses_bad_input():
    points, _ = points_of("random", 10, 3, seed=0)
    for k in (0, 10, 1.0, True):
        with pytest.raises(ValueError, match="k must be an integer from 1 to 9"):
            nearest(points, k=k)
    with pytest.raises(ValueError, match="query_embeddings must be finite"):
        nearest(points * np.nan, k=1)
    with pytest.raises(ValueError, match="3 dimensions, the gallery has 2"):
        nearest(points, points[:, :2], k=1)
    with pytest.raises(ValueError, match="shape"):
        nearest(points[0], k=1)


def score_on_rank(rank):
    group = distributed.group.WORLD
    for number, (kind, separate) in enumerate(CASES):
        splits = arguments(kind, 700, separate)
        options = {"full_map": number % 2 == 0, "per_query": True, "chunk_size": 100}
        backend = "faiss" if kind == "duplicates" else "torch"
        shared = score(*splits, process_group=group, backend=backend, **options)
        assert_same(shared, score(*splits, **options))
    points, labels = arguments("random", 100, separate=False)
    with pytest.raises(ValueError, match="same embeddings"):
        score(points + rank, labels, process_group=group)
    return "done"


CASES = [(kind, separate) for kind in ("random", "duplicates", "one point") for separate in (False, True)]


def test_two_processes_share_the_work(tmp_path):
    assert on_two_ranks(score_on_rank, tmp_path) == ["done", "done"]
