"""The work on single images: reading, cropping, and keeping count of what cannot be read."""

from __future__ import annotations

import math
import threading
import warnings

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ctxtune.data.augmentation import resized_shape
from ctxtune.data.settings import ImageSettings, Size
from ctxtune.data.split import ImageTable
from ctxtune.errors import DataError
from ctxtune.image_modes import MOST_PIXELS, without_ends

NAMED_AT_MOST = 10
# Crops of a memory-mapped cache are read only, and nothing writes to them. At import: see `data.sources`.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


class Unreadable:
    """Counts the images of a table that could not be read, each once, up to the share that the table allows."""

    def __init__(self, table: ImageTable, known: dict[str, str] | None = None) -> None:
        self.reasons: dict[str, str] = dict(known or {})
        self._table = table
        self._lock = threading.Lock()

    def record(self, path: str, error: Exception) -> None:
        """Count one more. Raises DataError where that is too many, naming them."""
        with self._lock:
            self.reasons[path] = getattr(error, "strerror", None) or str(error) or type(error).__name__
            allowed = int(self._table.max_unreadable * len(self._table))
            if len(self.reasons) <= allowed:
                return
            named = [f"  {name}: {reason}" for name, reason in list(self.reasons.items())[:NAMED_AT_MOST]]
            more = "\n  ..." if len(self.reasons) > NAMED_AT_MOST else ""
            raise DataError(
                f"{self._table.name}: {len(self.reasons)} unreadable of {len(self._table)} images, at most {allowed} "
                f"are skipped (dataset.max_unreadable {self._table.max_unreadable}):\n"
                + "\n".join(named)
                + f"{more}\n`python -m ctxtune.data check` names all of them."
            )


_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def resized(image: Image.Image, resize: Size | None, interpolation: str = "bilinear") -> Image.Image:
    """torchvision's Resize on a PIL image (antialiased)."""
    height, width = resized_shape(image.height, image.width, resize)
    if (width, height) == image.size:
        return image
    return image.resize((width, height), _FILTERS[interpolation])


def training_pixels(image: Image.Image, settings: ImageSettings) -> Image.Image:
    """An image as training crops it: after `train_resize`. Raises ValueError where that would be too large."""
    # A crop of less than `min_scale` is never drawn, so of a longer image the largest central crop is always taken.
    aspect = max(settings.ratio[1], 1 / settings.ratio[0]) / settings.min_scale
    side = settings.train_resize
    needed = None if not isinstance(side, int) else math.ceil(aspect * side)
    return resized(_bounded(image, side, needed), side, settings.filter)


def _bounded(image: Image.Image, resize: Size | None, needed: int | None) -> Image.Image:
    """An image that can be resized: without ends that nobody looks at. Raises ValueError where it is still too large."""
    if not isinstance(resize, int):
        return image
    if needed is not None:
        image = without_ends(image, resize, needed)
    height, width = resized_shape(image.height, image.width, resize)
    if height * width > 2 * MOST_PIXELS:
        raise ValueError(
            f"{image.width} x {image.height} pixels would be {width} x {height} with a short side of {resize}; leave it out, "
            "or cut it"
        )
    return image


def evaluation_pixels(image: Image.Image, settings: ImageSettings) -> npt.NDArray[np.uint8]:
    """The test view of one image, (h, w, 3): torchvision's Resize and CenterCrop, black where the crop is larger."""
    crop = settings.test_crop
    image = resized(_bounded(image, settings.test_resize, crop), settings.test_resize, settings.filter)
    if crop is None or image.size == (crop, crop):
        return np.asarray(image)
    padding = max(0, crop - image.width), max(0, crop - image.height)
    if any(padding):
        padded = Image.new("RGB", (image.width + padding[0], image.height + padding[1]))
        padded.paste(image, (padding[0] // 2, padding[1] // 2))
        image = padded
    left, top = round((image.width - crop) / 2), round((image.height - crop) / 2)
    return np.asarray(image.crop((left, top, left + crop, top + crop)))


def crop_by_pillow(
    pixels: npt.NDArray[np.uint8], box: tuple[int, int, int, int], size: int, interpolation: str = "bilinear"
) -> npt.NDArray[np.uint8]:
    """Cut (top, left, height, width) from (h, w, 3) and resize to `size`, as torchvision does with a PIL image."""
    top, left, height, width = box
    cut = Image.fromarray(np.ascontiguousarray(pixels[top : top + height, left : left + width]))
    return np.array(cut.resize((size, size), _FILTERS[interpolation]))


def crop_by_torch(
    pixels: npt.NDArray[np.uint8], box: tuple[int, int, int, int], size: int, interpolation: str = "bilinear"
) -> npt.NDArray[np.uint8]:
    """The same by torch's vectorized kernel: within one gray level of Pillow's, several times faster."""
    top, left, height, width = box
    cut = torch.from_numpy(pixels[top : top + height, left : left + width]).permute(2, 0, 1)[None]
    # Only for input that is contiguous with the channels last does torch take its fast kernel.
    cut = cut.contiguous(memory_format=torch.channels_last)
    resized_cut = torch.nn.functional.interpolate(cut, size=(size, size), mode=interpolation, antialias=True)
    return resized_cut[0].permute(1, 2, 0).contiguous().numpy()
