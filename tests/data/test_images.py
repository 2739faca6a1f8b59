"""Images from disk: every way of keeping them gives the same batches, and bad files are skipped and counted."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from ctxtune.data import EvaluationImages, ImageSettings, TrainingImages, load
from ctxtune.data.augmentation import draw_crops, place_crops
from ctxtune.data.batching import PackingBatcher
from ctxtune.data.reading import Unreadable
from ctxtune.data.stores import Building, DecodedReader, decoded_store
from ctxtune.data.threads import SpreadOver
from ctxtune.errors import DataError
from tests.helpers import trees

SETTINGS = ImageSettings(train_crop=32, min_scale=0.2, test_resize=40, test_crop=32)
BATCHES = np.arange(24).reshape(3, 8)


@pytest.fixture
def split(tmp_path):
    """24 JPEGs in 8 classes, of three sizes, both upright and wide."""
    for label in range(8):
        for image in range(3):
            size = ((90, 60), (50, 70), (300, 200))[image]
            trees.write_image(tmp_path / "data" / "train" / f"c{label}" / f"{image}.jpg", label * 10 + image, size)
    trees.class_folders(tmp_path / "data", {"test": 2})
    return load("class_folders", tmp_path / "data", max_unreadable=0.1).train


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def training(split, cache, settings=SETTINGS, epoch=2, first=0, workers=2, device="cpu", **options):
    images = TrainingImages(split, settings, seed=7, cache_dir=cache, workers=workers, device=device, **options)
    try:
        return list(images.batches(BATCHES, epoch, first))
    finally:
        images.close()


def gray_levels(one, other):
    """Greatest difference in gray levels between two normalized batches."""
    return float((one - other).abs().max() * 0.229 * 255)


def variant(**changes):
    return SETTINGS.model_copy(update=changes)


def test_exact_batches_are_what_torchvision_makes_of_the_same_crops(split, cache):
    found = training(split, cache, variant(exact=True))
    for number, (images, indices) in enumerate(found):
        assert indices.tolist() == BATCHES[number].tolist()
        draws = draw_crops(8, SETTINGS, np.random.default_rng((7, 2, number)))
        for position, index in enumerate(indices.tolist()):
            image = split.read(index)
            crop = place_crops(draws.row(position), np.array([image.height]), np.array([image.width]), SETTINGS.ratio)
            box = [int(value[0]) for value in (crop.top, crop.left, crop.height, crop.width)]
            expected = v2.functional.resized_crop(image, *box, size=[32, 32])
            if crop.flip[0]:
                expected = v2.functional.horizontal_flip(expected)
            expected = v2.functional.to_dtype(v2.functional.to_image(expected), torch.float32, scale=True)
            expected = v2.functional.normalize(expected, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
            torch.testing.assert_close(images[position], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kept", ["decoded", "encoded", "none", "auto"])
@pytest.mark.parametrize("workers", [0, 3])
def test_every_way_of_keeping_images_gives_the_same_batches(split, cache, kept, workers):
    reference = training(split, cache, variant(exact=True))
    # The images are smaller than the cache would shrink them to, so only rounding differs.
    found = training(split, cache, variant(cache=kept, cache_short_side=500), workers=workers)
    for (images, indices), (expected, same) in zip(found, reference, strict=True):
        assert torch.equal(indices, same)
        assert images.shape == (8, 3, 32, 32) and images.dtype == torch.float32
        assert gray_levels(images, expected) <= 1.2


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("half", [False, True])
def test_the_way_to_a_gpu_gives_the_same_batches(split, cache, half, interpolation):
    """The packed path is device-independent code; here it runs on the CPU."""
    reference = training(split, cache, variant(exact=True, interpolation=interpolation))
    table = split.table
    chosen = variant(cache_short_side=500, interpolation=interpolation)
    reader = DecodedReader(table, decoded_store(table, chosen, Building(cache)))
    batcher = PackingBatcher(table, reader, chosen, torch.device("cpu"), SpreadOver(2), Unreadable(table), half=half)
    for number, (expected, _) in enumerate(reference):
        batch = batcher.host(split.rows[BATCHES[number]], np.random.default_rng((7, 2, number)))
        assert gray_levels(batcher.device(batch), expected) <= 1.2


@pytest.mark.gpu
@pytest.mark.parametrize("kept", ["decoded", "encoded", "none"])
def test_batches_on_a_gpu_are_those_on_the_cpu(split, cache, kept):
    reference = training(split, cache, variant(exact=True))
    found = training(split, cache, variant(cache=kept, cache_short_side=500), device="cuda")
    for (images, _), (expected, _) in zip(found, reference, strict=True):
        assert images.device.type == "cuda"
        assert gray_levels(images.cpu(), expected) <= 1.2


def test_an_epoch_resumed_in_its_middle_goes_on_with_the_same_images(split, cache):
    whole = training(split, cache)
    resumed = training(split, cache, first=1)
    assert len(resumed) == 2
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(whole[1:], resumed, strict=True))
    assert not torch.equal(training(split, cache, epoch=3)[0][0], whole[0][0])


def test_memory_of_a_batch_is_used_again_only_when_nobody_holds_it(split, cache):
    images = TrainingImages(split, SETTINGS, cache_dir=cache, workers=2)
    order = np.resize(np.arange(24), (40, 8))
    kept, copies, places = [], [], set()
    for number, (batch, _) in enumerate(images.batches(order, 0)):
        places.add(batch.data_ptr())
        if number % 10 == 0:
            view = batch[3, 1]  # a view keeps the whole batch
            kept.append(view)
            copies.append(view.clone())
        del batch
    images.close()
    assert all(torch.equal(view, copy) for view, copy in zip(kept, copies, strict=True))
    assert len(places) < 20


def test_a_batch_that_autograd_holds_is_left_alone(split, cache):
    weight = torch.ones(3, requires_grad=True)
    images = TrainingImages(split, SETTINGS, cache_dir=cache, workers=0)
    losses, sums = [], []
    for batch, _ in images.batches(np.resize(np.arange(24), (12, 8)), 0):
        sums.append(batch.double().sum((0, 2, 3)))
        losses.append((batch * weight[None, :, None, None]).sum())
        del batch
    torch.stack(losses).sum().backward()
    torch.testing.assert_close(weight.grad.double(), torch.stack(sums).sum(0), rtol=1e-4, atol=1e-2)


def test_train_resize_comes_before_the_crop(split, cache):
    for kept in ("decoded", "encoded", "none"):
        chosen = variant(train_resize=(40, 40), cache=kept)
        found = training(split, cache, chosen)
        draws = draw_crops(8, chosen, np.random.default_rng((7, 2, 0)))
        resized = split.read(2).resize((40, 40), Image.Resampling.BILINEAR)
        crop = place_crops(draws.row(2), np.array([40]), np.array([40]), chosen.ratio)
        box = [int(value[0]) for value in (crop.top, crop.left, crop.height, crop.width)]
        expected = np.asarray(v2.functional.resized_crop(resized, *box, size=[32, 32])).astype(float)
        expected = expected[:, ::-1] if crop.flip[0] else expected
        mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        pixels = (found[0][0][2].permute(1, 2, 0).numpy() * deviation + mean) * 255
        assert np.abs(pixels - expected).max() <= 1.01


@pytest.mark.parametrize("kept", ["auto", "none"])
@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_images_are_torchvisions(split, cache, kept, workers):
    transform = v2.Compose([v2.Resize(40), v2.CenterCrop(32), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    transform = v2.Compose([transform, v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
    some = split.select([20, 3, 3, 8, 0], "some")
    images = EvaluationImages(some, variant(cache=kept), cache_dir=cache, workers=workers)
    for _ in range(2):
        batches = list(images.batches(2))
        assert [indices.tolist() for _, indices in batches] == [[0, 1], [2, 3], [4]]
        expected = torch.stack([transform(some.read(index)) for index in range(5)])
        torch.testing.assert_close(torch.cat([found for found, _ in batches]), expected, atol=1e-5, rtol=1e-5)
    images.close()


def test_views_of_different_sizes_make_no_batch(split, cache):
    with pytest.raises(DataError, match=r"different sizes after test_resize 40.*set image\.test_crop"):
        EvaluationImages(split, variant(test_crop=None), cache_dir=cache)
    square = variant(test_crop=None, test_resize=(40, 48))
    assert next(iter(EvaluationImages(split, square, cache_dir=cache).batches(4)))[0].shape == (4, 3, 40, 48)


@pytest.mark.parametrize("kept", ["decoded", "encoded", "none"])
@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "gone"])
def test_unreadable_images_are_skipped_and_counted(split, cache, kept, damage):
    path = split.table.source.root / split.path(9)
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"truncated": content[: len(content) // 2], "garbage": b"x" * 500, "empty": b""}[damage])
    images = TrainingImages(split, variant(cache=kept), cache_dir=cache, workers=2)
    if damage == "gone" and kept == "encoded":
        assert split.path(9) in images.unreadable
    batches = list(images.batches(BATCHES, 0))
    assert [len(indices) for _, indices in batches] == [8, 7, 8]
    assert 9 not in batches[1][1].tolist() and len(batches[1][0]) == 7
    assert list(images.unreadable) == [split.path(9)]
    evaluation = EvaluationImages(split, variant(cache="none" if kept == "none" else "auto"), cache_dir=cache)
    assert sum(len(indices) for _, indices in evaluation.batches(5)) == 23
    assert list(evaluation.unreadable) == [split.path(9)]


@pytest.mark.parametrize("kept", ["decoded", "none"])
def test_too_many_unreadable_images_are_an_error_that_names_them(split, cache, kept):
    for index in (2, 9, 15):
        (split.table.source.root / split.path(index)).write_bytes(b"broken")
    with pytest.raises(DataError) as caught:
        training(split, cache, variant(cache=kept))
    message = str(caught.value)
    assert "3 unreadable of 24 images, at most 2 are skipped (dataset.max_unreadable 0.1)" in message
    assert all(split.path(index) in message for index in (2, 9, 15))


def test_an_abandoned_epoch_leaves_no_thread_behind(split, cache):
    import threading

    images = TrainingImages(split, variant(cache="none"), cache_dir=cache, workers=2)
    before = threading.active_count()
    batches = images.batches(BATCHES, 0)
    next(batches)
    batches.close()
    images.close()
    assert threading.active_count() <= before


WARNINGS = """
import sys, warnings
from ctxtune.data import ImageSettings, TrainingImages, load
split = load("class_folders", sys.argv[1], train_classes=2).train
images = TrainingImages(split, ImageSettings(train_crop=16, cache="none"), workers=8, cache_dir=sys.argv[2])
list(images.batches([list(range(len(split)))], 0))  # what is imported only now may add filters of its own
before = list(warnings.filters)
for _ in images.batches([list(range(len(split)))] * 100, 1):
    pass
assert warnings.filters == before, warnings.filters
warnings.warn("still heard")
"""


def test_threads_leave_the_warnings_of_the_process_alone_and_say_nothing_of_broken_exif(tmp_path):
    trees.class_folders(tmp_path / "data", {"": 4}, images=5, size=(20, 20))
    for path in (tmp_path / "data").rglob("*.jpg"):
        with Image.open(path) as image:
            image.save(path, exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01")
    arguments = [sys.executable, "-c", WARNINGS, str(tmp_path / "data"), str(tmp_path / "cache")]
    run = subprocess.run(arguments, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "still heard" in run.stderr and "EXIF" not in run.stderr


MEMORY = """
import resource, sys
import numpy as np
from ctxtune.data import ImageSettings, TrainingImages, load
import warnings; warnings.simplefilter("ignore")
split = load("class_folders", sys.argv[1], train_classes=int(sys.argv[3])).train
settings = ImageSettings(train_crop=16, cache="none", test_crop=16)
images = TrainingImages(split, settings, workers=8, cache_dir=sys.argv[2])
order = np.random.default_rng(0).permutation(len(split))
batches = order[: len(split) // 64 * 64].reshape(-1, 64)
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
for number, _ in enumerate(images.batches(batches, 0)):
    if number == len(batches) // 10:
        early = resident()
print(number * 64 + 64, early, resident())
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_memory_of_8_workers_over_120000_images_stays_flat(tmp_path):
    """Real paths (hard links to a few files), each image read once by 8 workers."""
    trees.class_folders(tmp_path / "seed", {"": 20}, images=5, size=(20, 20))
    files = sorted((tmp_path / "seed").rglob("*.jpg"))
    for label in range(1201):
        folder = tmp_path / "many" / f"class{label:05d}"
        folder.mkdir(parents=True)
        for image in range(100):
            os.link(files[(label + image) % 100], folder / f"image_with_a_long_name_{image:06d}.jpg")
    arguments = [sys.executable, "-c", MEMORY, str(tmp_path / "many"), str(tmp_path / "cache"), "1200"]
    run = subprocess.run(arguments, capture_output=True, text=True, check=True)
    count, early, late = map(float, run.stdout.split())
    assert count == 120_000
    assert late < 1000
    assert late - early < 30, f"{early:.0f} MiB after a tenth of the images, {late:.0f} MiB at the end"
