"""The queries that a confirmation shows: drawn by labels alone, with the neighbors that brute force finds."""

import numpy as np
import pytest
import torch
from PIL import Image

from ctxtune.data import Split
from ctxtune.data.split import make_split
from ctxtune.retrieved_images import from_json, to_json
from ctxtune.training.shown_queries import NEIGHBORS, drawn_queries, shown_queries


class Numbered:
    """A source of images that are numbers; number 3 cannot be read."""

    image_size, grey = (90, 90), False

    def read(self, path: str) -> Image.Image:
        if path == "3":
            raise OSError("truncated")
        return Image.new("RGB", (90, 90), (int(path), 20, 30))


def split(labels: np.ndarray, first: int = 0) -> Split:
    return make_split("set/split", Numbered(), [str(first + i) for i in range(len(labels))], labels, None, {0: "apple"})


@pytest.mark.parametrize("count", [1, 5, 8, 13, 200])
def test_classes_take_turns_and_nothing_without_a_match_is_drawn(count: int) -> None:
    labels = np.random.default_rng(0).integers(0, 8, 60) * 10
    labels[7] = 999  # alone in its class
    drawn = drawn_queries(labels, None, count)
    assert len(drawn) == len(set(drawn.tolist())) == min(count, 59)
    assert 999 not in labels[drawn]
    for start in range(0, len(drawn) - 8 if count < 60 else 0, 8):
        assert len(set(labels[drawn[start : start + 8]].tolist())) == 8
    assert drawn_queries(labels, None, count).tolist() == drawn.tolist()


def test_with_a_gallery_only_classes_that_it_has_are_drawn() -> None:
    labels = np.array([0, 1, 2, 2, 3])
    drawn = drawn_queries(labels, np.array([2, 0, 0]), 10)
    assert sorted(labels[drawn].tolist()) == [0, 2, 2]


@pytest.mark.parametrize("asplit", [False, True])
def test_neighbors_are_those_of_brute_force(asplit: bool) -> None:
    generator = np.random.default_rng(1)
    labels = np.repeat(np.arange(6), 5)
    embeddings = generator.normal(size=(30, 4)).astype(np.float32)
    embeddings[:9] = embeddings[0]  # more duplicates than neighbors are shown: the query must still not find itself
    query = split(labels)
    gallery = split(labels[::-1].copy(), first=100) if asplit else None
    among = generator.normal(size=(30, 4)).astype(np.float32) if asplit else embeddings
    found = shown_queries(query, torch.from_numpy(embeddings), gallery, torch.from_numpy(among) if asplit else None, 30)
    assert len(found) == 30
    unit = [
        each / np.linalg.norm(each, axis=1, keepdims=True) for each in (embeddings.astype(float), among.astype(float))
    ]
    cosines = unit[0] @ unit[1].T
    if not asplit:
        np.fill_diagonal(cosines, -np.inf)
    others = labels if gallery is None else gallery.labels
    for shown in found:
        assert [each.similarity for each in shown.found] == pytest.approx(
            np.sort(cosines[shown.row])[::-1][:NEIGHBORS], abs=1e-6
        )
        if len(set(np.round(cosines[shown.row], 6))) == 30:  # no ties: the neighbors themselves are known
            order = np.argsort(-cosines[shown.row])[:NEIGHBORS]
            assert [each.right for each in shown.found] == (others[order] == labels[shown.row]).tolist()
        assert (shown.picture is None) == (query.path(shown.row) == "3")
        assert shown.class_name == ("apple" if labels[shown.row] == 0 else f"class {labels[shown.row]}")
    assert from_json(to_json(found)) == found


def test_pictures_are_small() -> None:
    labels = np.repeat(np.arange(3), 20)
    embeddings = torch.from_numpy(np.random.default_rng(2).normal(size=(60, 3)).astype(np.float32))
    text = to_json(shown_queries(split(labels), embeddings, None, None, 16))
    assert text.count("data:image/jpeg") > 100
    assert len(text) < 500_000
