"""Augmentation against torchvision's own transforms: the distribution of crops, and pixels at fixed crops."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from ctxtune.data import ImageSettings
from ctxtune.data.augmentation import (
    Crops,
    crop_and_resize,
    draw_crops,
    evaluation_view,
    normalize,
    place_crops,
    resized_shape,
)
from ctxtune.data.reading import crop_by_pillow, crop_by_torch, evaluation_pixels

DRAWS = 4000


def picture(width, height, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def tensor_of(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def ours(width, height, settings, count=DRAWS, seed=1):
    draws = draw_crops(count, settings, np.random.default_rng(seed))
    return place_crops(draws, np.full(count, height), np.full(count, width), settings.ratio)


@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (32, 32), (1000, 200), (100, 900)])
@pytest.mark.parametrize("scale", [(0.12, 1.0), (0.5, 0.9)])
def test_crops_are_distributed_as_torchvisions(width, height, scale):
    settings = ImageSettings(min_scale=scale[0], max_scale=scale[1])
    found = ours(width, height, settings)
    theirs = v2.RandomResizedCrop(224, scale=scale, ratio=settings.ratio)
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    params = [theirs.make_params([image]) for _ in range(DRAWS)]
    other = {key: np.array([item[key] for item in params], dtype=float) for key in ("top", "left", "height", "width")}
    measured = {
        "area": (found.height * found.width, other["height"] * other["width"]),
        "aspect": (found.width / found.height, other["width"] / other["height"]),
        "height": (found.height, other["height"]),
        "width": (found.width, other["width"]),
        "top": (found.top, other["top"]),
        "left": (found.left, other["left"]),
        "bottom": (found.top + found.height, other["top"] + other["height"]),
    }
    for name, (mine, reference) in measured.items():
        assert ks_2samp(mine, reference).pvalue > 1e-4, name
    assert (found.top >= 0).all() and (found.top + found.height <= height).all()
    assert (found.left >= 0).all() and (found.left + found.width <= width).all()
    if width == 1000:  # too flat for most attempts: the central crop of torchvision
        central = (found.left == (1000 - found.width) // 2) & (found.height == 200)
        assert central.mean() == pytest.approx(np.mean((other["height"] == 200) & (other["left"] == 367)), abs=0.03)


def test_half_of_the_crops_are_flipped_unless_told_otherwise():
    flips = ours(50, 50, ImageSettings()).flip
    assert abs(flips.mean() - 0.5) < 4 * 0.5 / np.sqrt(DRAWS)
    assert not ours(50, 50, ImageSettings(flip=False)).flip.any()


def test_a_crop_does_not_depend_on_the_rest_of_the_batch():
    settings = ImageSettings()
    draws = draw_crops(5, settings, np.random.default_rng(0))
    together = place_crops(draws, np.full(5, 300), np.full(5, 400), settings.ratio)
    alone = place_crops(draws.row(3), np.array([300]), np.array([400]), settings.ratio)
    assert (alone.top[0], alone.width[0]) == (together.top[3], together.width[3])


BOXES = [(0, 0, 60, 80), (10, 20, 30, 40), (5, 7, 13, 50), (40, 60, 20, 20), (3, 0, 57, 9)]


@pytest.mark.parametrize("size", [16, 32, 48, 96])
def test_pixels_at_fixed_crops_are_torchvisions(size):
    image = picture(80, 60)
    expected = np.stack([np.asarray(functional.resized_crop(image, *box, size=[size, size])) for box in BOXES])
    boxes = np.array(BOXES, dtype=float)
    crops = Crops(*boxes.T, flip=np.array([False, True, False, True, False]))
    batch = tensor_of(image)[None].expand(len(BOXES), -1, -1, -1)
    found = crop_and_resize(batch, crops, (size, size)).permute(0, 2, 3, 1).numpy()
    found[[1, 3]] = found[[1, 3], :, ::-1]
    # Pillow rounds to whole gray levels between its two passes and after them.
    assert np.abs(found - expected).max() <= 1.01
    assert np.abs(found - expected).mean() < 0.4
    exact = np.stack([crop_by_pillow(np.asarray(image), box, size) for box in BOXES])
    assert np.array_equal(exact, expected)
    fast = np.stack([crop_by_torch(np.array(image), box, size) for box in BOXES]).astype(int)
    assert np.abs(fast - expected).max() <= 1


def test_weights_are_torchs_antialiased_bilinear_to_float_precision():
    image = tensor_of(picture(70, 90)).double()
    crops = Crops(*np.array([[4.0, 9.0, 81.0, 33.0]]).T, flip=np.array([False]))
    found = crop_and_resize(image[None].float(), crops, (24, 40))
    cut = image[None, :, 4:85, 9:42]
    expected = torch.nn.functional.interpolate(cut, size=(24, 40), mode="bilinear", antialias=True)
    torch.testing.assert_close(found.double(), expected, atol=2e-3, rtol=0)


def test_padding_beyond_a_crop_never_enters():
    image = tensor_of(picture(64, 48))[None].float()
    crops = Crops(*np.array([[0.0, 0.0, 30.0, 20.0]]).T, flip=np.array([True]))
    clean = crop_and_resize(image, crops, (16, 16))
    image[:, :, 30:] = 255
    image[:, :, :, 20:] = 255
    assert torch.equal(crop_and_resize(image, crops, (16, 16)), clean)


@pytest.mark.parametrize("shape", [(80, 60), (60, 80), (64, 64), (50, 33)])
@pytest.mark.parametrize(("resize", "crop"), [(40, 32), ((48, 36), 32), (None, 24), (30, 40), (36, None), (None, None)])
def test_evaluation_views_are_torchvisions(shape, resize, crop):
    settings = ImageSettings(test_resize=resize, test_crop=crop)
    image = picture(*shape)
    steps = []
    if resize is not None:
        steps.append(v2.Resize(list(resize) if isinstance(resize, tuple) else resize))
    if crop is not None:
        steps.append(v2.CenterCrop(crop))
    expected = np.asarray(v2.Compose(steps)(image) if steps else image)
    assert np.array_equal(evaluation_pixels(image, settings), expected)
    found = evaluation_view(tensor_of(image)[None], settings)[0].permute(1, 2, 0).numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1.01


def test_normalize_is_torchvisions():
    image = picture(20, 30)
    expected = functional.normalize(
        functional.to_dtype(tensor_of(image), torch.float32, scale=True), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(normalize(tensor_of(image)[None])[0], expected)
    gray = torch.full((2, 1, 4, 4), 100, dtype=torch.uint8)
    torch.testing.assert_close(normalize(gray), normalize(gray.expand(-1, 3, -1, -1)))


def test_mean_of_many_augmentations_is_torchvisions():
    image = picture(60, 45)
    settings = ImageSettings(train_crop=16, min_scale=0.3)
    count = 3000
    crops = ours(60, 45, settings, count)
    mine = crop_and_resize(tensor_of(image)[None].expand(count, -1, -1, -1), crops, (16, 16)).mean(0)
    torch.manual_seed(3)
    theirs = v2.Compose(
        [v2.RandomResizedCrop(16, scale=(0.3, 1.0), ratio=(0.75, 1.33), antialias=True), v2.RandomHorizontalFlip()]
    )
    pixels = tensor_of(image)
    samples = torch.stack([theirs(pixels).float() for _ in range(count)])
    noise = samples.std(0) * np.sqrt(2 / count)
    assert ((mine - samples.mean(0)).abs() / noise).max() < 5


def test_resized_shape_truncates_the_long_side_as_torchvision():
    for height, width, side in ((375, 500, 256), (333, 500, 288), (501, 377, 256), (1000, 999, 64)):
        image = Image.new("RGB", (width, height))
        expected = functional.resize(image, [side]).size
        assert resized_shape(height, width, side) == expected[::-1]
