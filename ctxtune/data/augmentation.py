"""Random resized crops, flips and normalisation for whole batches, equal to torchvision's in distribution and pixels.

A crop with resize is a linear map along each axis, so a batch of different crops is two batched matrix products, on
any device. The weights are those of PIL and of torchvision with `antialias=True`: a triangle filter, widened when
shrinking. Values stay in floating point, where torchvision rounds to uint8 after the resize.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ctxtune.data.settings import ImageSettings, Size

MEAN = (0.485, 0.456, 0.406)
"""ImageNet's, per RGB channel, of values in [0, 1]."""
DEVIATION = (0.229, 0.224, 0.225)

ATTEMPTS = 10
"""Draws of a crop before torchvision falls back to a central one."""


@dataclass(frozen=True)
class Crops:
    """One crop per image, in pixels of that image: (b,) arrays; `flip` mirrors it left to right."""

    top: npt.NDArray[np.float64]
    left: npt.NDArray[np.float64]
    height: npt.NDArray[np.float64]
    width: npt.NDArray[np.float64]
    flip: npt.NDArray[np.bool_]


def random_crops(
    heights: npt.NDArray[np.int64], widths: npt.NDArray[np.int64], settings: ImageSettings, rng: np.random.Generator
) -> Crops:
    """The crops of torchvision's RandomResizedCrop and RandomHorizontalFlip for images of the given sizes (b,).

    Area uniform in [min_scale, max_scale] of the image, log of the aspect (width / height) uniform; ten attempts to
    fit, then the largest central crop within the aspect bounds. Whole pixels, as torchvision draws them.
    """
    count = len(heights)
    shape = (count, ATTEMPTS)
    area = (heights * widths)[:, None] * rng.uniform(settings.min_scale, settings.max_scale, shape)
    aspect = np.exp(rng.uniform(np.log(settings.ratio[0]), np.log(settings.ratio[1]), shape))
    width = np.rint(np.sqrt(area * aspect))
    height = np.rint(np.sqrt(area / aspect))
    fits = (width > 0) & (width <= widths[:, None]) & (height > 0) & (height <= heights[:, None])
    first = fits.argmax(axis=1)
    chosen = np.arange(count), first
    position = rng.random((2, count))
    flip = rng.random(count) < 0.5 if settings.flip else np.zeros(count, dtype=bool)

    fallback_width, fallback_height = _largest_central(heights, widths, settings.ratio)
    found = fits.any(axis=1)
    crop_width = np.where(found, width[chosen], fallback_width)
    crop_height = np.where(found, height[chosen], fallback_height)
    room_down, room_right = heights - crop_height, widths - crop_width
    top = np.where(found, np.floor(position[0] * (room_down + 1)), room_down // 2)
    left = np.where(found, np.floor(position[1] * (room_right + 1)), room_right // 2)
    return Crops(top, left, crop_height, crop_width, flip)


def _largest_central(
    heights: npt.NDArray[np.int64], widths: npt.NDArray[np.int64], ratio: tuple[float, float]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    aspect = widths / heights
    width = np.where(aspect > ratio[1], np.rint(heights * ratio[1]), widths)
    height = np.where(aspect < ratio[0], np.rint(widths / ratio[0]), heights)
    return width, height


def resized_shape(height: int, width: int, resize: Size | None) -> tuple[int, int]:
    """(height, width) after a resize, by torchvision's rule: the long side is truncated to whole pixels."""
    if resize is None:
        return height, width
    if isinstance(resize, tuple):
        return resize
    if height <= width:
        return resize, int(resize * width / height)
    return int(resize * height / width), resize


def resize_weights(
    start: npt.NDArray[np.float64], length: npt.NDArray[np.float64], source: int, target: int
) -> npt.NDArray[np.float32]:
    """Weights (b, target, source) that resize the pixels [start, start + length) of an axis to `target` pixels.

    PIL's triangle filter (`Image.Resampling.BILINEAR`): support widened when shrinking, clipped at the crop's edge.
    """
    scale = (length / target)[:, None, None]
    support = np.maximum(scale, 1.0)
    centre = start[:, None, None] + (np.arange(target)[None, :, None] + 0.5) * scale
    pixel = np.arange(source)[None, None, :] + 0.5
    weights = np.maximum(0.0, 1.0 - np.abs(pixel - centre) / support)
    inside = (pixel > start[:, None, None]) & (pixel < (start + length)[:, None, None])
    weights = np.where(inside, weights, 0.0)
    return (weights / weights.sum(axis=2, keepdims=True)).astype(np.float32)


def crop_and_resize(pixels: Tensor, crops: Crops, size: tuple[int, int]) -> Tensor:
    """Cut `crops` from `pixels` (b, channels, h, w), any dtype, and resize them to `size` (height, width): float32."""
    rows = resize_weights(crops.top, crops.height, pixels.shape[2], size[0])
    columns = resize_weights(crops.left, crops.width, pixels.shape[3], size[1])
    columns[crops.flip] = columns[crops.flip, ::-1]
    return _apply(pixels, rows, columns)


def evaluation_view(pixels: Tensor, settings: ImageSettings) -> Tensor:
    """Resize and centre crop of images of one size, (b, channels, h, w) to (b, channels, crop, crop): float32.

    As torchvision's Resize and CenterCrop, whole pixels and black borders where the crop is larger included.
    """
    height, width = pixels.shape[2:]
    if settings.test_resize is None and settings.test_crop in (None, height) and height == width:
        return pixels.float()
    new_height, new_width = resized_shape(height, width, settings.test_resize)
    rows = _central_rows(_whole(height, new_height), settings.test_crop)
    columns = _central_rows(_whole(width, new_width), settings.test_crop)
    return _apply(pixels, rows[None], columns[None])


def _whole(source: int, target: int) -> npt.NDArray[np.float32]:
    return resize_weights(np.zeros(1), np.full(1, float(source)), source, target)[0]


def _central_rows(weights: npt.NDArray[np.float32], crop: int | None) -> npt.NDArray[np.float32]:
    """The central `crop` rows of (target, source) weights; rows of zeros (black) around them where crop is larger."""
    target = len(weights)
    if crop is None:
        return weights
    if crop > target:
        before = (crop - target) // 2
        return np.pad(weights, ((before, crop - target - before), (0, 0)))
    top = round((target - crop) / 2)
    return weights[top : top + crop]


def _apply(pixels: Tensor, rows: npt.NDArray[np.float32], columns: npt.NDArray[np.float32]) -> Tensor:
    down = torch.from_numpy(rows).to(pixels.device)
    across = torch.from_numpy(columns).to(pixels.device)
    return down[:, None] @ pixels.float() @ across[:, None].transpose(2, 3)


def normalise(pixels: Tensor) -> Tensor:
    """Values in [0, 255], (b, 1 or 3, h, w), to three channels with ImageNet's mean 0 and deviation 1, float32."""
    mean = torch.tensor(MEAN, device=pixels.device).view(1, 3, 1, 1)
    deviation = torch.tensor(DEVIATION, device=pixels.device).view(1, 3, 1, 1)
    return torch.addcmul(-mean / deviation, pixels.float(), 1 / (255 * deviation))
