"""Queries with their nearest images as one picture: what a page shows in HTML, for places that show pictures only."""

import base64
import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from ctxtune.embedded_image import EmbeddedImage
from ctxtune.palette import BLUE, DARK, DEEP_VERMILION, INK, PAPER, QUIET, VERMILION
from ctxtune.retrieved_images import ShownQuery

STRIP_FILE = "retrieved.jpg"
"""Artifact of a confirmation's first seed."""
TILE, FRAME, GAP, CAPTION, MARK = 112, 5, 14, 34, 11
"""Pixels: a picture's side, the line around it, between two, for the text below, and a mark's half side."""
DASH = 9


def picture_strip(queries: Sequence[ShownQuery]) -> bytes:
    """A JPEG file: a row for each query, the query first, then what was found, nearest first.

    A solid blue frame with a check mark: of the query's class; a dashed orange one with a cross: of another.
    """
    columns = 1 + max(len(query.found) for query in queries)
    step, height = TILE + 2 * FRAME + GAP, TILE + 2 * FRAME + CAPTION + GAP
    strip = Image.new("RGB", (GAP * 3 + step * columns, GAP + height * len(queries)), PAPER)
    draw = ImageDraw.Draw(strip)
    for number, query in enumerate(queries):
        top = GAP + number * height
        _tile(strip, draw, (GAP, top), query.picture, INK, "query", query.class_name)
        for column, found in enumerate(query.found, start=1):
            place = (2 * GAP + column * step, top)
            kind = "right" if found.right else "wrong"
            color = BLUE if found.right else VERMILION
            _tile(strip, draw, place, found.picture, color, f"{found.similarity:.3f}", found.class_name, kind)
    buffer = io.BytesIO()
    strip.save(buffer, "JPEG", quality=80, subsampling=0)
    return buffer.getvalue()


def _tile(
    strip: Image.Image,
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    picture: EmbeddedImage | None,
    color: str,
    strong: str,
    text: str,
    kind: str = "asked",
) -> None:
    left, top = place
    side = TILE + 2 * FRAME
    if picture is not None:
        image = _decoded(picture)
        offset = FRAME + (TILE - image.width) // 2, FRAME + (TILE - image.height) // 2
        strip.paste(image, (left + offset[0], top + offset[1]))
    else:
        draw.text((left + FRAME + 6, top + side // 2 - 6), "cannot be read", fill=QUIET, font=_font())
    _frame(draw, (left, top, left + side - 1, top + side - 1), color, dashed=kind == "wrong")
    if kind != "asked":
        _mark(draw, (left + side - 4, top + 4), right=kind == "right")
    draw.text((left, top + side + 2), strong, fill=INK, font=_font())
    draw.text((left, top + side + 17), _fitting(draw, text, side), fill=DARK, font=_font())


def _decoded(picture: EmbeddedImage) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(picture.address.partition(",")[2]))).convert("RGB")
    scale = TILE / max(image.size)
    size = max(1, round(scale * image.width)), max(1, round(scale * image.height))
    return image.resize(size, Image.Resampling.NEAREST if picture.pixels else Image.Resampling.LANCZOS)


def _frame(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], color: str, *, dashed: bool) -> None:
    draw.rectangle(box, outline=color, width=FRAME)
    if not dashed:
        return
    left, top, right, bottom = box
    for start in range(DASH, right - left - DASH, 2 * DASH):
        for edge in (top, bottom - FRAME + 1):
            draw.rectangle((left + start, edge, left + start + DASH - 1, edge + FRAME - 1), fill=PAPER)
        for edge in (left, right - FRAME + 1):
            draw.rectangle((edge, top + start, edge + FRAME - 1, top + start + DASH - 1), fill=PAPER)


def _mark(draw: ImageDraw.ImageDraw, center: tuple[int, int], *, right: bool) -> None:
    """A check mark or a cross, in a disk."""
    x, y = center
    draw.ellipse(
        (x - MARK, y - MARK, x + MARK, y + MARK), fill=BLUE if right else DEEP_VERMILION, outline=PAPER, width=2
    )
    if right:
        draw.line([(x - 5, y), (x - 1, y + 4), (x + 5, y - 4)], fill=PAPER, width=3)
    else:
        draw.line([(x - 4, y - 4), (x + 4, y + 4)], fill=PAPER, width=3)
        draw.line([(x - 4, y + 4), (x + 4, y - 4)], fill=PAPER, width=3)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(12)


def _fitting(draw: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """A text cut to a width in pixels; letters that the font lacks are its own boxes."""
    cut = text
    while len(cut) > 1 and draw.textlength(cut, font=_font()) > width:
        cut = cut.removesuffix("…")[:-1] + "…"
    return cut
