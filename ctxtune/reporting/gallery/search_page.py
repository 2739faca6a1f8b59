"""The page of a search: each picture with the images found for it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from ctxtune.embedded_image import EmbeddedImage, embedded_image
from ctxtune.reporting.pages import render

ReadImage = Callable[[str], Image.Image]


@dataclass(frozen=True)
class FoundImage:
    """An indexed image near a picture; ``similarity``: cosine."""

    id: int
    path: str
    label: str | None
    similarity: float


@dataclass(frozen=True)
class SearchedImage:
    """A picture that was searched for, and what was found, nearest first."""

    path: str
    found: Sequence[FoundImage]


def search_page(
    facts: Mapping[str, str], searched: Sequence[SearchedImage], read_query: ReadImage, read_found: ReadImage
) -> str:
    """The page as one HTML document that needs no network and no script.

    `facts`: name and value of what stands at the top. The two readers may raise OSError or ValueError.
    """
    rows = [
        (
            query,
            _picture(read_query, query.path),
            [(image, _picture(read_found, image.path)) for image in query.found],
        )
        for query in searched
    ]
    return render("search.html.j2", facts=facts, rows=rows)


def _picture(read: ReadImage, path: str) -> EmbeddedImage | None:
    try:
        return embedded_image(read(path), path)
    except (OSError, ValueError):
        return None
