"""Copies and near-copies among images: each kind is made, found, and nothing else is."""

import shutil

from PIL import Image, ImageEnhance

from ctxtune.data.loading import load
from ctxtune.data.survey import survey
from tests.helpers import trees


def paths(group):
    return {each.path for each in group}


def test_each_kind_of_copy_is_found_and_nothing_else(tmp_path):
    for split, classes in (("train", range(4)), ("test", range(4, 8))):
        for label in classes:
            for image in range(12):
                trees.write_image(tmp_path / f"{split}/{label}/{image}.png", label * 100 + image, (90, 70))
    original = tmp_path / "train/0/0.png"
    shutil.copy(original, tmp_path / "train/0/twice.png")
    shutil.copy(tmp_path / "train/1/1.png", tmp_path / "test/4/leak.png")
    shutil.copy(tmp_path / "test/5/5.png", tmp_path / "test/6/wrong.png")
    with Image.open(tmp_path / "train/2/2.png") as image:
        image.resize((60, 47)).save(tmp_path / "test/7/smaller.jpg", quality=60)
    with Image.open(tmp_path / "train/3/3.png") as image:
        ImageEnhance.Brightness(image).enhance(1.02).save(tmp_path / "test/7/brighter.png")
    (tmp_path / "test/4/broken.png").write_bytes(b"PNG")
    for split in ("train", "test"):  # flat images are all alike, and say nothing
        Image.new("RGB", (90, 70), (200, 200, 200 + (split == "test"))).save(
            tmp_path / split / ("0" if split == "train" else "4") / "flat.png"
        )
    found = survey(load("class_folders", tmp_path), workers=2)
    assert [(name, path) for name, path, _ in found.unreadable] == [("test", "test/4/broken.png")]
    assert [paths(group) for group in found.across_splits()] == [{"train/1/1.png", "test/4/leak.png"}]
    assert {frozenset(paths(group)) for group in found.across_classes()} == {
        frozenset({"train/1/1.png", "test/4/leak.png"}),
        frozenset({"test/5/5.png", "test/6/wrong.png"}),
    }
    assert {"train/0/0.png", "train/0/twice.png"} in [paths(group) for group in found.copies] and len(found.copies) == 3
    assert {frozenset(paths(pair)) for pair in found.near_copies} == {
        frozenset({"train/2/2.png", "test/7/smaller.jpg"}),
        frozenset({"train/3/3.png", "test/7/brighter.png"}),
    }
