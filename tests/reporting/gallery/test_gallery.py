"""The error gallery: it shows the queries and neighbors that it says, and needs nothing but itself."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from ctxtune.palette import COLORS
from ctxtune.reporting.gallery.confusion import most_confused
from ctxtune.reporting.gallery.embedding_map import embedding_map, flatten_embeddings, shown_points
from ctxtune.reporting.gallery.error_gallery import ErrorGallery, Side, error_gallery_page, worst_queries
from ctxtune.reporting.pages import fragment


class Page(HTMLParser):
    """Every element with its attributes, in order, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def numbered_image(index: int, size: int = 16) -> Image.Image:
    """An image whose color says which it is."""
    return Image.new("RGB", (size, size), (index // 256, index % 256, 77))


def number_of(source: str) -> int:
    red, green, _ = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).getpixel((8, 8))
    return red * 256 + green


def figures(page: str) -> list[tuple[str, int]]:
    """(kind, number of the image) of each figure of the page's first section."""
    section = page.partition("Classes confused most")[0]
    found, kind = [], ""
    for tag, attributes in Page(section).elements:
        if tag == "figure":
            kind = (attributes["class"] or "").removeprefix("retrieved ")
        elif tag == "img":
            found.append((kind, number_of(attributes["src"] or "")))
    return found


def brute_force(embeddings: np.ndarray, labels: np.ndarray, k: int):
    """Neighbors, average precision at R and rank of the first match, query by query."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    nearest, similarities, precisions, ranks = [], [], [], []
    for query in range(len(labels)):
        rates = [(-float(unit[query] @ unit[i]), i) for i in range(len(labels)) if i != query]
        order = [i for _, i in sorted(rates)]
        hits = [labels[i] == labels[query] for i in order]
        total = sum(hits)
        within = [sum(hits[: place + 1]) / (place + 1) for place in range(total) if hits[place]]
        precisions.append(sum(within) / total if total else float("nan"))
        ranks.append(hits.index(True) + 1 if total else 0)
        nearest.append(order[:k])
        similarities.append([-rate for rate, _ in sorted(rates)][:k])
    return np.array(nearest), np.array(similarities), np.array(precisions), np.array(ranks)


def content_of(seed: int = 0, images: int = 40, read=numbered_image, **options) -> ErrorGallery:
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.integers(0, 8, images))
    embeddings = rng.normal(size=(images, 6)).astype(np.float32)
    nearest, similarities, precision, ranks = brute_force(embeddings, labels, 5)
    given = {
        "title": "Errors",
        "facts": {"MAP@R": "0.1000"},
        "queries": Side(embeddings, labels, read),
        "gallery": None,
        "nearest": nearest,
        "similarities": similarities,
        "average_precision": precision,
        "first_match_rank": ranks,
        "worst": 6,
    }
    return ErrorGallery(**(given | options))


def test_each_of_the_worst_queries_stands_with_its_neighbors_right_and_wrong_ones_marked():
    content = content_of()
    labels = content.queries.labels
    expected = []
    for query in sorted(range(len(labels)), key=lambda q: (content.average_precision[q], q))[:6]:
        expected.append(("asked", query))
        expected += [("right" if labels[i] == labels[query] else "wrong", int(i)) for i in content.nearest[query]]
        if content.first_match_rank[query] > 5:
            unit = content.queries.embeddings / np.linalg.norm(content.queries.embeddings, axis=1, keepdims=True)
            mates = [i for i in range(len(labels)) if labels[i] == labels[query] and i != query]
            expected.append(("right later", max(mates, key=lambda i: float(unit[i] @ unit[query]))))
    assert figures(error_gallery_page(content)) == expected
    assert any(kind == "right later" for kind, _ in expected)


def test_right_and_wrong_differ_by_more_than_color():
    page = error_gallery_page(content_of())
    right = re.search(r"figure\.right \.frame \{[^}]*}", page)
    wrong = re.search(r"figure\.wrong \.frame \{[^}]*}", page)
    assert right and wrong and "solid" in right[0] and "dashed" in wrong[0]
    kinds = [kind.split()[0] for kind, _ in figures(page)]
    assert page.count('title="right">✓') == kinds.count("right")
    assert page.count('title="wrong">✗') == kinds.count("wrong")


def test_a_separate_gallery_is_where_neighbors_come_from():
    rng = np.random.default_rng(3)
    gallery = Side(rng.normal(size=(9, 4)), np.arange(9) % 3, lambda index: numbered_image(1000 + index))
    queries = Side(rng.normal(size=(4, 4)), np.array([0, 1, 2, 7]), numbered_image)
    nearest = np.tile(np.array([8, 7, 6]), (4, 1))
    content = ErrorGallery(
        "Errors", {}, queries, gallery, nearest, np.full((4, 3), 0.5), np.array([0.3, 0.2, 0.1, np.nan]),
        np.array([3, 2, 1, 0]), worst=10,
    )  # fmt: skip
    rows = figures(error_gallery_page(content))
    assert [number for kind, number in rows if kind == "asked"] == [2, 1, 0]  # the one without match is left out
    assert rows[:4] == [("asked", 2), ("right", 1008), ("wrong", 1007), ("wrong", 1006)]


def test_the_page_needs_nothing_but_itself_and_names_cannot_break_it():
    names = {label: f"<script>alert({label})</script> & 'x' \"y\"" for label in range(8)}
    page = error_gallery_page(content_of(class_names=names))
    parsed = Page(page)
    assert {"script", "link", "iframe"}.isdisjoint(tag for tag, _ in parsed.elements)
    for _, attributes in parsed.elements:
        assert all(value is None or value.startswith("data:") for key, value in attributes.items() if key == "src")
        assert "href" not in attributes
    assert not re.search(r"https?://|url\(|@import", page)
    assert sum("<script>alert(" in text for text in parsed.words) > 10


def test_images_that_cannot_be_read_leave_a_box():
    def broken(index: int) -> Image.Image:
        raise OSError("gone")

    page = error_gallery_page(content_of(read=broken))
    assert "<img" not in page
    assert page.partition("Classes confused most")[0].count("cannot be read") >= 6 * 6


def test_large_images_are_shrunk_and_small_ones_kept_exactly():
    page = error_gallery_page(content_of(read=lambda index: numbered_image(index, 700), worst=2))
    sizes = {
        Image.open(io.BytesIO(base64.b64decode((attributes["src"] or "").partition(",")[2]))).size
        for tag, attributes in Page(page).elements
        if tag == "img"
    }
    assert sizes == {(256, 256), (128, 128)}  # twice what they take on the page, in the grid and in the table


def test_queries_without_any_match_make_a_page_too():
    content = content_of(average_precision=np.full(40, np.nan), first_match_rank=np.zeros(40, dtype=np.int64))
    assert "No query has a match" in error_gallery_page(content)


def test_worst_queries_are_the_lowest_in_order_of_the_index():
    precision = np.array([0.5, 0.0, np.nan, 0.2, 0.0, 1.0])
    assert worst_queries(precision, 3).tolist() == [1, 4, 3]
    assert worst_queries(precision, 99).tolist() == [1, 4, 3, 0, 5]


@pytest.mark.parametrize("seed", range(20))
def test_confusions_are_those_counted_one_by_one(seed):
    rng = np.random.default_rng(seed)
    labels, others = rng.integers(0, 5, 60), rng.integers(0, 6, 25)
    nearest, similarities = rng.integers(0, 25, 60), rng.normal(size=60).round(1)
    found = most_confused(labels, others, nearest, similarities, 100)
    expected: dict[tuple[int, int], list[int]] = {}
    for query in range(60):
        pair = (int(labels[query]), int(others[nearest[query]]))
        if pair[0] != pair[1]:
            expected.setdefault(pair, []).append(query)
    assert {(c.label, c.other): c.count for c in found} == {pair: len(queries) for pair, queries in expected.items()}
    for confusion in found:
        queries = expected[confusion.label, confusion.other]
        assert confusion.query == min(queries, key=lambda query: (-similarities[query], query))
        assert confusion.neighbor == nearest[confusion.query]
        assert confusion.queries == int((labels == confusion.label).sum())
    assert [c.count for c in found] == sorted((c.count for c in found), reverse=True)
    assert most_confused(labels, others, nearest, similarities, 3) == found[:3]


def test_nothing_confused_is_said():
    labels = np.repeat(np.arange(4), 2)
    mates = np.array([1, 0, 3, 2, 5, 4, 7, 6])
    assert most_confused(labels, labels, mates, np.ones(8), 9) == []


def test_the_flat_map_is_that_of_the_singular_values():
    embeddings = np.random.default_rng(0).normal(size=(50, 7)) * np.arange(1, 8)
    points, words = flatten_embeddings(embeddings, "pca")
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    left, singular, _ = np.linalg.svd(unit - unit.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(points), np.abs(left[:, :2] * singular[:2]), atol=1e-10)
    assert f"{(singular[:2] ** 2).sum() / (singular**2).sum():.0%}" in words
    lengthened = embeddings * np.arange(1, 51)[:, None]  # only directions count
    np.testing.assert_allclose(flatten_embeddings(lengthened, "pca")[0], points, atol=1e-10)


@pytest.mark.parametrize("embeddings", [np.ones((5, 3)), np.arange(1.0, 6.0)[:, None], np.ones((1, 4))])
def test_degenerate_embeddings_have_a_map(embeddings):
    points, _ = flatten_embeddings(embeddings, "pca")
    assert points.shape == (len(embeddings), 2)
    assert np.isfinite(points).all()
    drawing = fragment("embedding_map.html.j2", "embedding_map", map=embedding_map(points, [0] * len(points), {}, [0]))
    assert drawing.count("<circle") == len(points) + 1


def test_a_map_of_many_points_keeps_those_of_the_colored_classes():
    wanted = np.zeros(10_000, dtype=bool)
    wanted[123:9000:777] = True
    shown = shown_points(10_000, wanted, 500)
    assert len(shown) == len(set(shown.tolist())) == 500
    assert set(np.flatnonzero(wanted)) <= set(shown.tolist())
    assert shown_points(40, wanted[:40], 500).tolist() == list(range(40))


def test_the_legend_has_as_many_classes_as_there_are_colors():
    points = np.random.default_rng(1).normal(size=(60, 2))
    labels = [index % 20 for index in range(60)]
    drawing = fragment("embedding_map.html.j2", "embedding_map", map=embedding_map(points, labels, {}, list(range(20))))
    assert drawing.count("<li>") == len(COLORS) + 1
    assert "all other classes" in drawing
    assert drawing.count("<title>") == 60
