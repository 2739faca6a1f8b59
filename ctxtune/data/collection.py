"""Images to embed: all that lie below a folder, or the rows of a table. They need no classes and no splits."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ctxtune.data.layouts.table import images_of_rows
from ctxtune.data.sources import FolderSource, is_image_name
from ctxtune.data.split import ImageSource, Split, make_split
from ctxtune.errors import DataError
from ctxtune.text import counted, printable

TABLE_PATTERNS = ("*.parquet", "data/*.parquet", "*.tar")
"""What is taken for a table in a folder without image files."""


@dataclass(frozen=True, eq=False)
class Collection:
    """Images in a fixed order; ``labels`` has the class or folder of each, None where it has none."""

    images: Split
    labels: tuple[str | None, ...]


def image_collection(place: Path, columns: Mapping[str, str] | None = None) -> Collection:
    """The images at a place. No image is opened.

    Args:
        place: a folder: every image file below it, labeled by the folder that holds it (files at the top have no label).
            A CSV or parquet file, a tar shard, or a folder that has only those: its rows, with the column ``label`` if any.
        columns: of a table, our name of a column to the file's.

    Raises:
        DataError: there is no such place, or no image in it.
    """
    if place.is_file():
        return _of_table(str(place.absolute()), place.absolute().parent, columns or {})
    if not place.is_dir():
        raise DataError(f"{place.absolute()}: there is no such file or folder")
    paths = _image_files(place)
    if paths:
        folders = [path.rpartition("/")[0].rpartition("/")[2] or None for path in paths]
        return Collection(_split(place, FolderSource(place), paths), tuple(folders))
    for pattern in TABLE_PATTERNS:
        if any(place.glob(pattern)):
            return _of_table(pattern, place, columns or {})
    raise DataError(f"{place.absolute()}: there is no image file in it or below, nor a parquet file or tar shard")


def _image_files(root: Path) -> list[str]:
    """Image files below a folder, by their paths in it, sorted. Links are followed, each folder is looked at once."""
    found: list[str] = []
    seen: set[tuple[int, int]] = set()

    def refused(error: OSError) -> None:
        raise DataError(f"{error.filename}: {error.strerror}") from error

    for folder, below, names in os.walk(root, followlinks=True, onerror=refused):
        status = os.stat(folder)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in seen:
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        below[:] = sorted(name for name in below if not name.startswith("."))
        inside = Path(folder).relative_to(root).as_posix()
        found += [name if inside == "." else f"{inside}/{name}" for name in names if is_image_name(name)]
    return sorted(found)


def _of_table(pattern: str, root: Path, columns: Mapping[str, str]) -> Collection:
    from ctxtune.data.layouts.table_files import read_rows_of, table_files

    files = table_files(pattern, root)
    rows = read_rows_of(files, columns, root, label_needed=False)
    source, identifiers = images_of_rows(rows, root)
    values = rows.columns.get("label", [None] * rows.count)
    labels = tuple(_label(value, rows.class_names or ()) for value in values)
    return Collection(_split(files[0], source, list(identifiers)), labels)


def _label(value: object, names: Sequence[str]) -> str | None:
    """A label as text, by the file's own name for it where it has one; None for a gap."""
    if value is None or value == "" or value != value:  # NaN
        return None
    if isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return str(value)


def _split(place: Path, source: ImageSource, identifiers: list[str]) -> Split:
    if wrong := [path for path in identifiers if any("\ud800" <= sign <= "\udfff" for sign in path)]:
        raise DataError(
            f"{place}: {printable(wrong[0])}: a name that is no UTF-8 cannot stand in a table "
            f"({counted(len(wrong), 'image')}); rename it"
        )
    return make_split(place.name or str(place), source, identifiers, np.zeros(len(identifiers), dtype=np.int64))


def image_reader(place: Path, columns: Mapping[str, str] | None = None) -> Callable[[str], Image.Image]:
    """How to read an image of a collection by its path in it; it raises OSError or ValueError where that cannot be.

    Raises:
        DataError: there is no such place.
    """
    if place.is_dir() and not any(any(place.glob(pattern)) for pattern in TABLE_PATTERNS):
        return FolderSource(place).read
    images = image_collection(place, columns).images
    known = set(images.paths)

    def read(path: str) -> Image.Image:
        if path not in known:
            raise OSError("it is no longer there")
        return images.table.source.read(path)

    return read
