"""Pictures of any kind as upright RGB: the same for the images that a model learns from and those it is later given."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageOps

_TIFF_BITS, _TIFF_WHITE, _TIFF_KIND = 258, 262, 339
_SIGNED, _WHITE_IS_ZERO = 2, 0
SIXTEEN_BITS = 2.0**16
MOST_PIXELS = 2**26
"""Of an image that is resized whole; of a longer one only the middle is, where no more than that is used."""
_MARGIN = 64


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode (1, L, LA, P, RGBA, CMYK, I;16, ...) to RGB, turned upright as EXIF says.

    Transparent pixels are laid over white: the color stored under alpha 0 is arbitrary and often black. More than 8 bits
    keep their 8 highest, of the depth that the file's format states; floating-point values reach from black 0 to white 1.

    Raises:
        ValueError: values lie beyond what the format, or the convention for floating point, calls white.
    """
    levels = _levels(image)  # of the file as it was opened: what turns it upright forgets the format
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "RGB":
        return upright
    if levels is not None:
        return _scaled(upright, levels, inverted=_tag(image, _TIFF_WHITE, 1) == _WHITE_IS_ZERO)
    if "A" in upright.mode or "a" in upright.mode or "transparency" in upright.info:
        rgba = upright.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return upright.convert("RGB")


def _levels(image: Image.Image) -> float | None:
    """The number of gray levels from black to white of an image of more than 8 bits; 1 for floating point."""
    if image.mode == "F":
        return 1.0
    if not image.mode.startswith("I"):
        return None
    if image.format != "TIFF":
        return SIXTEEN_BITS  # of PNG, PGM and JPEG 2000, which Pillow gives 16 bits whatever mode holds them
    return 2.0 ** (_tag(image, _TIFF_BITS, 16) - (_tag(image, _TIFF_KIND, 1) == _SIGNED))


def _tag(image: Image.Image, tag: int, default: int) -> int:
    """A number of a TIFF's header; the default where there is none, and for every other format."""
    values = getattr(image, "tag_v2", {}).get(tag, default) if image.format == "TIFF" else default
    return int(values[0] if isinstance(values, tuple) else values)


def _scaled(image: Image.Image, levels: float, *, inverted: bool) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "I" and levels == 2.0**32:
        values = values.view(np.uint32)  # Pillow holds them as signed
    values = values.astype(np.float64)
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    most = 1.0 if levels == 1.0 else levels - 1
    if not (low >= 0 and high <= most):  # NaN is neither
        raise ValueError(
            f"its values reach from {low:g} to {high:g}, but black is 0 and white {most:g} in this format; convert it"
        )
    gray = np.rint(values * 255) if levels == 1.0 else np.floor(values * (256 / levels))
    if inverted:
        gray = 255 - gray
    return Image.fromarray(gray.astype(np.uint8)).convert("RGB")


def without_ends(image: Image.Image, resize: int, needed: int) -> Image.Image:
    """An image whose ends no central crop reaches, without them where they would take gigabytes after a resize.

    Args:
        image: of any size.
        resize: pixels of the short side that it is going to have.
        needed: pixels of the long side that are used then, about its middle.
    """
    short, long = sorted(image.size)
    if resize * resize * long / short <= MOST_PIXELS:
        return image
    keep = math.ceil((needed + _MARGIN) * short / resize)
    keep = min(long, keep + (long - keep) % 2)  # as much from either end
    first = (long - keep) // 2
    if image.width == long:
        return image.crop((first, 0, first + keep, image.height))
    return image.crop((0, first, image.width, first + keep))
