"""Pictures of any kind as upright RGB: the same for the images that a model learns from and those it is later given."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode (1, L, LA, P, RGBA, CMYK, I;16, ...) to RGB, turned upright as EXIF says.

    Transparent pixels are laid over white: the colour stored under alpha 0 is arbitrary and often black.
    """
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "RGB":
        return upright
    if upright.mode.startswith(("I", "F")):
        values = np.asarray(upright, dtype=np.float64)
        scale = 256.0 if values.size and values.max() > 255 else 1.0  # 16 bits keep their high byte
        return Image.fromarray((values / scale).clip(0, 255).astype(np.uint8)).convert("RGB")
    if "A" in upright.mode or "a" in upright.mode or "transparency" in upright.info:
        rgba = upright.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return upright.convert("RGB")
