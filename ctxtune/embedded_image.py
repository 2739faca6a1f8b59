"""An image with its bytes inside the page."""

import base64
import io
from dataclasses import dataclass

from PIL import Image

PHOTOGRAPH = 64
"""Pixels: pictures with a longer side are shrunk smoothly and kept as JPEG, smaller ones stay exact as PNG."""


@dataclass(frozen=True)
class EmbeddedImage:
    """An image for a template.

    Attributes:
        address: its bytes as a `data:` address.
        pixels: whether it is so small that single pixels are to be seen.
        text: what a reader without the picture gets.
    """

    address: str
    pixels: bool
    text: str


def embedded_image(image: Image.Image, text: str, side: int = 128) -> EmbeddedImage:
    """An image of at most twice `side` pixels, which is sharp on dense screens at `side`."""
    small = max(image.size) <= PHOTOGRAPH
    image = image.convert("RGB")
    if not small:
        image.thumbnail((2 * side, 2 * side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if small:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=82)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return EmbeddedImage(f"data:image/{'png' if small else 'jpeg'};base64,{encoded}", small, text)
