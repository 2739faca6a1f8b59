"""glyphs and omniglot, through `load`, and images for training and evaluation from them."""

import subprocess
import sys
import unicodedata

import numpy as np
import pytest
import torch

from ctxtune.data import (
    EvaluationImages,
    ImageSettings,
    SamplerSettings,
    TrainingImages,
    build_sampler,
    load,
)
from ctxtune.data.layouts.glyphs import catalog, work_out_catalog
from ctxtune.data.layouts.omniglot import TEST_ALPHABETS, TRAIN_ALPHABETS
from ctxtune.errors import ConfigError, DataError
from tests.helpers.trees import OMNIGLOT_ZIP, omniglot_folders, zipped

SMALL = ImageSettings(train_crop=32, min_scale=0.5, flip=False, test_resize=None, test_crop=None)


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTXTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def glyphs():
    return load("glyphs")


def test_glyphs_have_about_1300_classes_of_12_to_16_images_and_disjoint_sides(glyphs):
    counts = []
    for split in (glyphs.train, glyphs.test):
        labels, images = np.unique(split.labels, return_counts=True)
        assert images.min() >= 12 and images.max() <= 16
        counts.append(len(labels))
    assert 1200 <= sum(counts) <= 1400
    assert min(counts) > 550
    assert not set(glyphs.train.labels) & set(glyphs.test.labels)
    assert not set(glyphs.train.super_labels) & set(glyphs.test.super_labels)


def test_glyph_sides_share_no_decomposed_letter(glyphs):
    def letters(split):
        # Independent of the loader: first letter of the canonical decomposition, without case.
        found = set()
        for label in split.class_names:
            for item in catalog().classes:
                if ord(item.characters[0]) == label:
                    found |= {unicodedata.normalize("NFD", c)[0].casefold() for c in item.characters}
        return found

    assert not letters(glyphs.train) & letters(glyphs.test)


def test_glyph_look_alikes_are_one_class_and_accents_are_not():
    class_of = {letter: item.characters for item in catalog().classes for letter in item.characters}
    assert class_of["A"] == class_of["Α"] == class_of["А"] == "AΑА"
    assert len({class_of[letter] for letter in "aàâãäå"}) == 6
    assert class_of["A"] != class_of["a"]


def test_no_two_glyph_images_of_one_font_are_equal_in_half_of_it(glyphs):
    split = glyphs.test
    seen: dict[tuple[str, bytes], int] = {}
    clashes: dict[tuple[int, int], int] = {}
    for index in range(len(split)):
        key = (split.path(index).split("/")[0], np.asarray(split.read(index)).tobytes())
        other = seen.setdefault(key, int(split.labels[index]))
        if other != split.labels[index]:
            pair = (other, int(split.labels[index]))
            clashes[pair] = clashes.get(pair, 0) + 1
    assert all(count <= 8 for count in clashes.values()), clashes


def test_glyphs_are_the_same_in_another_process(glyphs):
    code = "from ctxtune.data import load; b = load('glyphs'); print(b.train.fingerprint(), b.test.fingerprint())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [glyphs.train.fingerprint(), glyphs.test.fingerprint()]


def test_kept_classes_are_those_worked_out(tmp_path, monkeypatch):
    monkeypatch.setenv("CTXTUNE_CACHE", str(tmp_path))
    found = work_out_catalog()
    for _ in range(2):
        catalog.cache_clear()
        assert catalog() == found
    (file,) = tmp_path.glob("glyphs-classes-*.json")
    file.write_text(file.read_text().replace("latin", "LATIN", 1))
    catalog.cache_clear()
    assert catalog() == found


def test_test_glyphs_are_neither_rendered_nor_cached_before_they_are_asked_for(glyphs, tmp_path):
    cache = tmp_path / "only"
    EvaluationImages(glyphs.train, SMALL, cache_dir=cache)
    assert [path.name[:12] for path in cache.iterdir() if path.is_dir()] == ["glyphs-train"]


def test_evaluation_images_are_the_normalized_pixels_in_order(glyphs):
    split = glyphs.train.select(np.arange(100), "some")
    batches = list(EvaluationImages(split, SMALL).batches(64))
    images = torch.cat([images for images, _ in batches])
    assert torch.cat([indices for _, indices in batches]).tolist() == list(range(100))
    pixels = np.stack([np.asarray(split.read(i)) for i in range(100)]).transpose(0, 3, 1, 2) / 255.0
    mean = np.array([0.485, 0.456, 0.406])[None, :, None, None]
    deviation = np.array([0.229, 0.224, 0.225])[None, :, None, None]
    np.testing.assert_allclose(images.numpy(), (pixels - mean) / deviation, atol=1e-5)


def test_training_batches_are_a_pure_function_of_seed_epoch_and_number(glyphs):
    split = glyphs.train
    batches = build_sampler(SamplerSettings(batches_per_epoch=4), split.labels, split.super_labels, 0).epoch(3)
    whole = list(TrainingImages(split, SMALL, seed=5).batches(batches, epoch=3))
    resumed = list(TrainingImages(split, SMALL, seed=5).batches(batches, epoch=3, first_batch=2))
    assert len(resumed) == 2
    for (images, indices), (again, indices_again) in zip(whole[2:], resumed, strict=True):
        assert torch.equal(images, again)
        assert torch.equal(indices, indices_again)
        assert images.shape == (64, 3, 32, 32) and images.dtype == torch.float32
    other = next(iter(TrainingImages(split, SMALL, seed=6).batches(batches, epoch=3)))[0]
    assert not torch.equal(other, whole[0][0])


def test_a_damaged_cache_is_made_again(glyphs, tmp_path):
    cache = tmp_path / "damaged"
    first = next(iter(EvaluationImages(glyphs.train, SMALL, cache_dir=cache).batches(32)))[0]
    (file,) = cache.glob("*/data.bin")
    content = bytearray(file.read_bytes())
    content[5000] ^= 255
    file.write_bytes(content)
    again = next(iter(EvaluationImages(glyphs.train, SMALL, cache_dir=cache).batches(32)))[0]
    assert torch.equal(first, again)


@pytest.mark.parametrize("form", ["folder", "zip", "folder with zip", "torchvision"])
def test_omniglot_forms(form, tmp_path):
    tree = tmp_path / "tree"
    omniglot_folders(tree, TRAIN_ALPHABETS + TEST_ALPHABETS)
    root = tree
    if form == "zip":
        root = zipped(tree, tmp_path / "o.zip")
    elif form == "folder with zip":
        root = zipped(tree, tmp_path / "o.zip").parent / "holder"
        root.mkdir()
        (tmp_path / "o.zip").rename(root / "o.zip")
    elif form == "torchvision":
        root = tmp_path / "torchvision"
        halves = TRAIN_ALPHABETS[:2] + TEST_ALPHABETS[:2], TRAIN_ALPHABETS[2:] + TEST_ALPHABETS[2:]
        for folder, alphabets in zip(("images_background", "images_evaluation"), halves, strict=True):
            for alphabet in alphabets:
                (root / "omniglot-py" / folder).mkdir(parents=True, exist_ok=True)
                (tree / alphabet).rename(root / "omniglot-py" / folder / alphabet)
    benchmark = load("omniglot", root, image_size=28)
    for split, alphabets in ((benchmark.train, TRAIN_ALPHABETS), (benchmark.test, TEST_ALPHABETS)):
        assert len(split) == 4 * 3 * 4
        assert len(split.classes()) == 12
        assert {split.class_names[label].split("/")[0] for label in split.labels} == set(alphabets)
        assert split.read(0).size == (28, 28) and split.read(0).mode == "RGB"
    assert not set(benchmark.train.labels) & set(benchmark.test.labels)


@pytest.mark.skipif(not OMNIGLOT_ZIP.exists(), reason="needs ../shared/data/omniglot")
def test_the_real_omniglot_has_its_official_counts():
    benchmark = load("omniglot", OMNIGLOT_ZIP)
    found = [(len(split.classes()), len(split)) for split in (benchmark.train, benchmark.test)]
    assert found == [(110, 2200), (132, 2640)]


def test_missing_data_and_unknown_names_are_one_clear_message(tmp_path):
    with pytest.raises(DataError, match=r"(?s)no such file or folder.*Accepted.*dataset\.root"):
        load("omniglot", tmp_path / "nowhere")
    with pytest.raises(ConfigError, match='did you mean "glyphs"'):
        load("glyhps")
    with pytest.raises(ConfigError, match="no such option"):
        load("glyphs", None, image_sise=3)
