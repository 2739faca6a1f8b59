"""Caches: made once, checked, rebuilt when stale or damaged, shared by processes, bounded in size."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from ctxtune.data import ImageSettings, TrainingImages, load
from ctxtune.data import cache as cache_module
from ctxtune.data.stores import (
    Building,
    DecodedReader,
    EncodedReader,
    FileReader,
    decoded_store,
    encoded_store,
    open_reader,
    short_side,
)
from ctxtune.errors import DataError
from tests.helpers import trees
from tests.helpers.processes import PATIENCE

SETTINGS = ImageSettings(train_crop=32, min_scale=0.25, test_resize=40, test_crop=32)


@pytest.fixture
def table(tmp_path):
    trees.class_folders(tmp_path / "data", {"train": 4, "test": 2}, images=5, size=(90, 60))
    return load("class_folders", tmp_path / "data").train.table


@pytest.fixture
def building(tmp_path):
    return Building(tmp_path / "cache", workers=2)


def reads(table, monkeypatch):
    """Counts the images that are read from now on."""
    seen = []
    read = type(table.source).read
    monkeypatch.setattr(type(table.source), "read", lambda self, path: (seen.append(path), read(self, path))[1])
    return seen


def test_a_cache_is_made_once(table, building, monkeypatch):
    seen = reads(table, monkeypatch)
    first = decoded_store(table, SETTINGS, building)
    made = len(seen)
    again = decoded_store(table, SETTINGS, building)
    assert made >= 20 and len(seen) == made
    assert np.array_equal(first.data, again.data)


def test_decoded_pixels_are_shrunk_only_as_far_as_the_recipe_allows(table, building, tmp_path):
    # The smallest crop of a square: 32 = side * sqrt(0.25 * 0.75).
    assert short_side(SETTINGS) == 74
    reader = DecodedReader(table, decoded_store(table, SETTINGS, building))
    assert reader.pixels(3).shape == (60, 90, 3)
    assert np.array_equal(reader.pixels(3), np.asarray(table.source.read(table.paths[3])))
    small = SETTINGS.model_copy(update={"cache_short_side": 40})
    assert DecodedReader(table, decoded_store(table, small, building)).pixels(3).shape == (40, 60, 3)
    pair = SETTINGS.model_copy(update={"train_resize": (30, 30)})
    assert DecodedReader(table, decoded_store(table, pair, building)).pixels(3).shape == (30, 30, 3)
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 3


def test_encoded_bytes_are_the_files(table, building):
    store = encoded_store(table, SETTINGS, building)
    for row, path in enumerate(table.paths):
        offset, length = store.index[row]
        assert store.data[offset : offset + length].tobytes() == (table.source.root / path).read_bytes()


@pytest.mark.parametrize("harm", ["flip", "cut", "index", "no meta", "bad meta"])
def test_a_damaged_cache_is_made_again(table, building, harm):
    store = decoded_store(table, SETTINGS, building)
    expected, path = np.array(store.data), store.path
    if harm == "flip":
        content = bytearray((path / "data.bin").read_bytes())
        content[len(content) // 2] ^= 1
        (path / "data.bin").write_bytes(content)
    elif harm == "cut":
        os.truncate(path / "data.bin", 1000)
    elif harm == "index":
        index = np.load(path / "index.npy")
        index[3, 1] += 1
        np.save(path / "index.npy", index)
    elif harm == "no meta":
        (path / "meta.json").unlink()
    else:
        (path / "meta.json").write_text("{")
    again = decoded_store(table, SETTINGS, building)
    assert np.array_equal(again.data, expected)


def test_a_stale_cache_is_made_again(table, building):
    before = np.array(DecodedReader(table, decoded_store(table, SETTINGS, building)).pixels(7))
    open_before = decoded_store(table, SETTINGS, building)
    trees.write_image(table.source.root / table.paths[7], 12345, (90, 60))
    after = DecodedReader(table, decoded_store(table, SETTINGS, building)).pixels(7)
    assert not np.array_equal(before, after)
    assert np.array_equal(after, np.asarray(table.source.read(table.paths[7])))
    # Whoever had the old one open still reads the old one.
    assert np.array_equal(DecodedReader(table, open_before).pixels(7), before)


def test_what_a_killed_builder_left_is_cleared_away(table, building):
    path = decoded_store(table, SETTINGS, building).path
    left = path.with_name(f"{path.name}.99999.tmp")
    path.rename(left)
    decoded_store(table, SETTINGS, building)
    assert path.is_dir() and not left.exists()


BUILDER = """
import sys, time, warnings
from pathlib import Path
from ctxtune.data import ImageSettings, load
from ctxtune.data.sources import FolderSource
from ctxtune.data.stores import Building, decoded_store
read, seen = FolderSource.read, []
def slow(self, path):
    seen.append(path)
    time.sleep(0.05)
    if sys.argv[3] == "dies" and len(seen) == 8:
        import os; os._exit(9)
    return read(self, path)
FolderSource.read = slow
table = load("class_folders", sys.argv[1]).train.table
settings = ImageSettings(train_crop=32, min_scale=0.25, test_resize=40, test_crop=32)
print(decoded_store(table, settings, Building(Path(sys.argv[2]), workers=1)).data.sum(), len(seen))
"""


def builder(table, building, how="lives"):
    root = table.source.root
    arguments = [sys.executable, "-c", BUILDER, str(root), str(building.directory), how]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def test_of_two_processes_one_builds_and_the_other_waits(table, building):
    outputs = [
        process.communicate(timeout=PATIENCE)[0].split() for process in [builder(table, building) for _ in range(2)]
    ]
    sums, counts = zip(*outputs, strict=True)
    assert sums[0] == sums[1]
    assert sorted(map(int, counts))[0] == 0 and max(map(int, counts)) >= 20


def test_when_a_builder_dies_the_next_one_builds(table, building):
    process = builder(table, building, "dies")
    process.wait(timeout=PATIENCE)
    assert process.returncode == 9
    store = decoded_store(table, SETTINGS, building)
    assert len(store.index) == 20
    assert not list(building.directory.glob("*.tmp"))


def test_a_cache_too_large_is_refused_by_name_and_replaced_under_auto(table, building, caplog):
    little = SETTINGS.model_copy(update={"cache_limit_gib": 20 * 60 * 90 * 3 / 2**30 * 0.9})
    with pytest.raises(DataError, match=r"more than the limit \(image.cache_limit_gib\).*cache=none"):
        open_reader(table, little.model_copy(update={"cache": "decoded"}), building)
    assert isinstance(open_reader(table, little, building), EncodedReader)
    assert "not used" in caplog.text
    none = SETTINGS.model_copy(update={"cache_limit_gib": 1e-9})
    assert isinstance(open_reader(table, none, Building(building.directory / "other")), FileReader)
    assert isinstance(open_reader(table, none, building), EncodedReader)  # it is there already
    assert isinstance(open_reader(table, SETTINGS, building), DecodedReader)
    assert isinstance(open_reader(table, SETTINGS.model_copy(update={"exact": True}), building), FileReader)


def test_a_full_disk_counts(table, building, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DataError, match="free on the disk"):
        open_reader(table, SETTINGS.model_copy(update={"cache": "decoded"}), building)


def test_a_folder_that_cannot_be_written_is_one_clear_message(table, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="CTXTUNE_CACHE"):
        open_reader(table, SETTINGS, Building(tmp_path / "file"))


def test_exact_and_decoded_exclude_each_other():
    with pytest.raises(ValidationError, match="choose cache auto, encoded or none"):
        ImageSettings(exact=True, cache="decoded")


def test_blocks_are_summed_across_images(table, building, monkeypatch):
    monkeypatch.setattr(cache_module, "BLOCK", 1000)
    store = decoded_store(table, SETTINGS, building)
    meta = json.loads((store.path / "meta.json").read_text())
    assert len(meta["checksums"]) == -(-store.data.size // 1000)
    assert cache_module.is_sound(store.path, table)
    content = bytearray((store.path / "data.bin").read_bytes())
    content[1500] ^= 1
    (store.path / "data.bin").write_bytes(content)
    assert not cache_module.is_sound(store.path, table)


def test_training_part_leaves_the_test_part_alone(tmp_path, building):
    trees.class_folders(tmp_path / "d", {"train": 2, "test": 2})
    benchmark = load("class_folders", tmp_path / "d")
    for path in (tmp_path / "d" / "test").rglob("*.jpg"):
        path.write_bytes(b"not to be opened")
    TrainingImages(benchmark.train, SETTINGS, cache_dir=building.directory).close()
    assert all("train" in path.name for path in building.directory.iterdir())
