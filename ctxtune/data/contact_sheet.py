"""A picture of sample images, one row per class."""

from __future__ import annotations

import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ctxtune.data.cache import Progress
from ctxtune.data.split import Split

LABEL_WIDTH = 180
GAP = 4


def contact_sheet(
    split: Split,
    *,
    classes: int = 12,
    images: int = 8,
    cell: int = 96,
    seed: int = 0,
    progress: Progress | None = None,
) -> Image.Image:
    """Up to `images` images of each of `classes` classes, drawn with `seed`, in cells of `cell` pixels.

    An image that cannot be read is a crossed cell. The class's name and size stand at the left.
    """
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.permutation(split.classes())[:classes])
    columns = min(images, int(np.unique(split.labels, return_counts=True)[1].max()))
    size = (LABEL_WIDTH + columns * (cell + GAP), len(labels) * (cell + GAP) + GAP)
    sheet = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    font = _label_font()
    for row, label in enumerate(labels):
        members = np.flatnonzero(split.labels == label)
        top = GAP + row * (cell + GAP)
        name = split.class_names.get(int(label), f"class {label}")
        text = "\n".join([*textwrap.wrap(name, 26)[:4], f"{len(members)} images"])
        draw.multiline_text((6, top + 4), text, fill=(0, 0, 0), font=font)
        for column, index in enumerate(np.sort(rng.permutation(members)[:columns])):
            _place(sheet, draw, split, int(index), (LABEL_WIDTH + column * (cell + GAP), top), cell)
        if progress is not None:
            progress(row + 1, len(labels))
    return sheet


def _label_font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from ctxtune.data.layouts.glyphs import font_file
    from ctxtune.errors import DataError

    try:
        return ImageFont.truetype(str(font_file("DejaVuSans")), 12)
    except DataError:
        return ImageFont.load_default()


def _place(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, split: Split, index: int, corner: tuple[int, int], cell: int
) -> None:
    left, top = corner
    try:
        image = split.read(index)
    except (OSError, ValueError):
        draw.rectangle((left, top, left + cell - 1, top + cell - 1), outline=(200, 0, 0))
        draw.line((left, top, left + cell - 1, top + cell - 1), fill=(200, 0, 0))
        return
    scale = cell / max(image.size)
    shape = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    # Small images (glyphs) keep their pixels visible.
    filter_ = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    sheet.paste(image.resize(shape, filter_), (left + (cell - shape[0]) // 2, top + (cell - shape[1]) // 2))
