"""Random resized crops, flips and normalization for whole batches, equal to torchvision's in distribution and pixels.

A crop with resize is a linear map along each axis, so a batch of different crops is two batched matrix products, on
any device. The weights are those of PIL and of torchvision with `antialias=True`: a triangle filter, widened when
shrinking. Values stay in floating point, where torchvision rounds to uint8 after the resize.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ctxtune.data.settings import ImageSettings, Size
from ctxtune.imagenet import IMAGENET_DEVIATION, IMAGENET_MEAN

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

    def box(self, index: int) -> tuple[int, int, int, int]:
        """(top, left, height, width) of one image."""
        return int(self.top[index]), int(self.left[index]), int(self.height[index]), int(self.width[index])


@dataclass(frozen=True)
class CropDraws:
    """The random numbers behind the crops of b images. They do not depend on the images' sizes.

    So a crop is the same whether a size is known beforehand (from a cache) or only once an image is decoded.
    """

    area: npt.NDArray[np.float64]
    """(b, attempts) share of the image's area."""
    aspect: npt.NDArray[np.float64]
    """(b, attempts) width / height."""
    position: npt.NDArray[np.float64]
    """(b, 2) in [0, 1): down and across the room that is left."""
    flip: npt.NDArray[np.bool_]
    """(b,) mirror left to right."""

    def row(self, index: int) -> CropDraws:
        """The draws of one image."""
        chosen = slice(index, index + 1)
        return CropDraws(self.area[chosen], self.aspect[chosen], self.position[chosen], self.flip[chosen])

    def select(self, indices: npt.NDArray[np.int64]) -> CropDraws:
        """The draws of some images."""
        return CropDraws(self.area[indices], self.aspect[indices], self.position[indices], self.flip[indices])


def draw_crops(count: int, settings: ImageSettings, rng: np.random.Generator) -> CropDraws:
    """Draw for `count` images: area uniform in [min_scale, max_scale], log of the aspect uniform, flip half the time."""
    low, high = np.log(settings.ratio)
    return CropDraws(
        area=rng.uniform(settings.min_scale, settings.max_scale, (count, ATTEMPTS)),
        aspect=np.exp(rng.uniform(low, high, (count, ATTEMPTS))),
        position=rng.random((count, 2)),
        flip=rng.random(count) < (0.5 if settings.flip else 0.0),
    )


def place_crops(
    draws: CropDraws, heights: npt.NDArray[np.int64], widths: npt.NDArray[np.int64], ratio: tuple[float, float]
) -> Crops:
    """The crops of torchvision's RandomResizedCrop and RandomHorizontalFlip for images of the given sizes (b,).

    The first of ten attempts that fits, otherwise the largest central crop within the aspect bounds. Whole pixels, as
    torchvision draws them.
    """
    area = (heights * widths)[:, None] * draws.area
    width = np.rint(np.sqrt(area * draws.aspect))
    height = np.rint(np.sqrt(area / draws.aspect))
    fits = (width > 0) & (width <= widths[:, None]) & (height > 0) & (height <= heights[:, None])
    chosen = np.arange(len(heights)), fits.argmax(axis=1)
    found = fits.any(axis=1)
    fallback_width, fallback_height = _largest_central(heights, widths, ratio)
    crop_width = np.where(found, width[chosen], fallback_width)
    crop_height = np.where(found, height[chosen], fallback_height)
    room_down, room_right = heights - crop_height, widths - crop_width
    top = np.where(found, np.floor(draws.position[:, 0] * (room_down + 1)), room_down // 2)
    left = np.where(found, np.floor(draws.position[:, 1] * (room_right + 1)), room_right // 2)
    return Crops(top, left, crop_height, crop_width, draws.flip)


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
    start: npt.NDArray[np.float64],
    length: npt.NDArray[np.float64],
    source: int,
    target: int,
    device: torch.device | None = None,
    interpolation: str = "bilinear",
) -> Tensor:
    """Weights (b, target, source), float32, that resize pixels [start, start + length) of an axis to `target` pixels.

    PIL's filters, triangle for bilinear and Keys' cubic with a = -0.5 for bicubic: support widened when shrinking,
    clipped at the crop's edge.
    """
    return _weights(_to_device(_axis(start, length, target), device), source, interpolation)


def _axis(start: npt.NDArray[np.float64], length: npt.NDArray[np.float64], target: int) -> npt.NDArray[np.float32]:
    """What `_weights` needs of b crops along an axis: centers of the target's pixels, width of the filter, both ends."""
    scale = (length / target)[:, None]
    center = start[:, None] + (np.arange(target)[None, :] + 0.5) * scale
    return np.hstack([center, np.maximum(scale, 1.0), start[:, None], (start + length)[:, None]]).astype(np.float32)


def _to_device(table: npt.NDArray[np.float32], device: torch.device | None) -> Tensor:
    """A copy that does not wait: on a GPU, a plain one would first wait for all the work before it."""
    values = torch.from_numpy(table)
    if device is not None and device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def _weights(axis: Tensor, source: int, interpolation: str) -> Tensor:
    """(b, target + 3) of `_axis` to weights (b, target, source)."""
    center, (width, start, stop) = axis[:, :-3, None], axis[:, -3:, None, None].unbind(dim=1)
    pixel = torch.arange(source, dtype=torch.float32, device=axis.device).add_(0.5)
    distance = (pixel - center).abs_().div_(width)
    weights = _cubic(distance) if interpolation == "bicubic" else distance.neg_().add_(1.0).clamp_(min=0.0)
    weights *= (pixel > start) & (pixel < stop)
    return weights.div_(weights.sum(dim=2, keepdim=True))


def _half_weights(axis: Tensor, source: int, interpolation: str) -> Tensor:
    """`_weights` in float16, for GPUs: what counts there is how many bytes move, and how often.

    Distances are rounded after they are taken, which shifts a pixel's weight by less than 1/2000 of it.
    """
    if interpolation != "bilinear":
        return _weights(axis, source, interpolation).half()
    center, (width, start, stop) = axis[:, :-3, None], axis[:, -3:, None, None].unbind(dim=1)
    pixel = torch.arange(source, dtype=torch.float32, device=axis.device).add_(0.5)
    place = torch.where((pixel > start) & (pixel < stop), pixel / width, torch.inf)  # infinitely far: weight 0
    weights = torch.empty(len(axis), center.shape[1], source, dtype=torch.float16, device=axis.device)
    torch.sub(place, center / width, out=weights).abs_().neg_().add_(1.0).clamp_(min=0.0)
    return weights.div_(weights.sum(dim=2, keepdim=True, dtype=torch.float32))


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic (1981, equation 4) with a = -0.5, of distances in pixels."""
    near = (1.5 * distance - 2.5) * distance * distance + 1.0
    far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
    return torch.where(distance < 1.0, near, torch.where(distance < 2.0, far, 0.0))


def crop_and_resize(
    pixels: Tensor, crops: Crops, size: tuple[int, int], interpolation: str = "bilinear", *, half: bool = False
) -> Tensor:
    """Cut `crops` from `pixels` (b, channels, h, w), any dtype, and resize them to `size` (height, width): float32.

    What lies outside a crop never enters, so images of different sizes may be padded to a common one with anything.
    With `half` float16 in the computation and in the result: within 0.3 of 255 gray levels, and several times quicker
    on a GPU.
    """
    down = _axis(crops.top, crops.height, size[0])
    across = _axis(crops.left, crops.width, size[1])
    # All that the device has to know in one copy.
    table = _to_device(np.hstack([down, across, crops.flip[:, None].astype(np.float32)]), pixels.device)
    weights = _half_weights if half else _weights
    rows = weights(table[:, : down.shape[1]], pixels.shape[2], interpolation)
    columns = weights(table[:, down.shape[1] : -1], pixels.shape[3], interpolation)
    columns = torch.where(table[:, -1, None, None] > 0, columns.flip(1), columns)
    return (_apply_half if half else _apply)(pixels, rows, columns, interpolation)


def evaluation_view(pixels: Tensor, settings: ImageSettings) -> Tensor:
    """Resize and center crop of images of one size, (b, channels, h, w) to (b, channels, crop, crop): float32.

    As torchvision's Resize and CenterCrop, whole pixels and black borders where the crop is larger included.
    """
    height, width = pixels.shape[2:]
    shape = resized_shape(height, width, settings.test_resize)
    crop = settings.test_crop
    if shape == (height, width) and (crop is None or (crop, crop) == shape):
        return pixels.float()
    rows, columns = (
        _central_rows(
            resize_weights(np.zeros(1), np.full(1, float(old)), old, new, pixels.device, settings.filter), crop
        )
        for old, new in zip((height, width), shape, strict=True)
    )
    return _apply(pixels, rows, columns, settings.filter)


def _central_rows(weights: Tensor, crop: int | None) -> Tensor:
    """The central `crop` rows of (1, target, source) weights; rows of zeros (black) around where crop is larger."""
    target = weights.shape[1]
    if crop is None:
        return weights
    if crop > target:
        before = (crop - target) // 2
        return torch.nn.functional.pad(weights, (0, 0, before, crop - target - before))
    top = round((target - crop) / 2)
    return weights[:, top : top + crop]


def _apply(pixels: Tensor, rows: Tensor, columns: Tensor, interpolation: str) -> Tensor:
    # One axis after the other, as PIL does it: the cubic overshoots, and PIL clips after each.
    if interpolation == "bicubic":
        across = (pixels.float() @ columns[:, None].transpose(2, 3)).clamp_(0.0, 255.0)
        return (rows[:, None] @ across).clamp_(0.0, 255.0)
    return rows[:, None] @ pixels.float() @ columns[:, None].transpose(2, 3)


def _apply_half(pixels: Tensor, rows: Tensor, columns: Tensor, interpolation: str) -> Tensor:
    """Across, then down, as PIL does it, with one copy of the pixels in the order that the products want."""
    batch, channels, height, width = pixels.shape
    flat = pixels.to(torch.float16, memory_format=torch.contiguous_format).view(batch, channels * height, width)
    across = torch.bmm(flat, columns.transpose(1, 2)).view(batch, channels, height, -1)
    if interpolation != "bicubic":
        return rows[:, None] @ across
    return (rows[:, None] @ across.clamp_(0.0, 255.0)).clamp_(0.0, 255.0)


def normalize(
    pixels: Tensor,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    deviation: tuple[float, float, float] = IMAGENET_DEVIATION,
) -> Tensor:
    """Values in [0, 255], (b, 1 or 3, h, w), to three channels of mean 0 and deviation 1 under these statistics, float32."""
    shift, scale = _shift_and_scale(mean, deviation, pixels.device)
    if pixels.dtype == torch.float16:
        # Raised to float32 and laid out as convolutions want it while it is read: each further pass costs as much.
        shape = (len(pixels), 3, *pixels.shape[2:])
        result = torch.empty(shape, device=pixels.device, memory_format=torch.channels_last)
        return torch.mul(pixels, scale, out=result).add_(shift)
    return torch.addcmul(shift, pixels.float(), scale)


@lru_cache
def _shift_and_scale(
    mean: tuple[float, float, float], deviation: tuple[float, float, float], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Kept on the device: to copy them there for each batch would wait for it."""
    middle, spread = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (mean, deviation))
    return -middle / spread, 1 / (255 * spread)


def normalized(pixels: Tensor, settings: ImageSettings) -> Tensor:
    """`normalize` by the statistics of the settings."""
    return normalize(pixels, settings.pixel_mean, settings.pixel_deviation)
