"""In which form images are kept: decoded at one size, decoded at their own sizes, as encoded files, or not at all."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from ctxtune.data.cache import Entry, Progress, Store, TooLarge, one_by_one, open_store
from ctxtune.data.reading import evaluation_pixels, resized, training_pixels
from ctxtune.data.settings import ImageSettings
from ctxtune.data.sources import decode
from ctxtune.data.split import ImageTable, Integers
from ctxtune.data.threads import processors
from ctxtune.errors import DataError

LOG = logging.getLogger(__name__)
SAMPLED_FOR_AN_ESTIMATE = 64


@dataclass(frozen=True)
class Building:
    """How a cache is made where it is missing: folder (None: the default), threads (None: all), a progress callback."""

    directory: Path | None = None
    workers: int | None = None
    progress: Progress | None = None


class PixelReader(Protocol):
    """Gives the decoded images of a table, by row."""

    unreadable: dict[str, str]

    def pixels(self, row: int) -> npt.NDArray[np.uint8]:
        """(h, w, 3) uint8. Raises OSError or ValueError where the image cannot be read."""
        ...

    def sizes(self, rows: Integers) -> Integers | None:
        """(b, 2) height and width without reading, or None where only reading tells; (0, 0) is unreadable."""
        ...


class FileReader:
    """Opens each image each time, and resizes it first where the recipe does."""

    def __init__(self, table: ImageTable, settings: ImageSettings) -> None:
        self.unreadable: dict[str, str] = {}
        self._table, self._settings = table, settings

    def pixels(self, row: int) -> npt.NDArray[np.uint8]:
        """Decoded anew."""
        image = self._table.source.read(self._table.paths[row])
        return np.array(training_pixels(image, self._settings))

    def sizes(self, rows: Integers) -> None:
        """Not known before reading."""
        return


class EncodedReader:
    """Decodes from one file that holds the bytes of all images."""

    def __init__(self, table: ImageTable, settings: ImageSettings, store: Store) -> None:
        self.unreadable = store.unreadable
        self._table, self._settings, self._store = table, settings, store

    def pixels(self, row: int) -> npt.NDArray[np.uint8]:
        """Decoded anew."""
        offset, length = self._store.index[row]
        if not length:
            raise OSError(self.unreadable.get(self._table.paths[row], "unreadable"))
        image = decode(self._store.data[offset : offset + length].tobytes())
        return np.array(training_pixels(image, self._settings))

    def sizes(self, rows: Integers) -> None:
        """Not known before reading."""
        return


class DecodedReader:
    """Views into one memory-mapped file of decoded images, each at its own size."""

    def __init__(self, table: ImageTable, store: Store) -> None:
        self.unreadable = store.unreadable
        self._table, self._store = table, store
        # A view of class memmap runs Python for each slice, with which many threads keep each other waiting.
        self._data = np.asarray(store.data).view(np.ndarray)

    def pixels(self, row: int) -> npt.NDArray[np.uint8]:
        """A view, nothing is copied."""
        offset, height, width = self._store.index[row].tolist()
        if not height:
            raise OSError(self.unreadable.get(self._table.paths[row], "unreadable"))
        return self._data[offset : offset + 3 * height * width].reshape(height, width, 3)

    def sizes(self, rows: Integers) -> Integers:
        """From the index."""
        return self._store.index[rows, 1:]


def short_side(settings: ImageSettings) -> int:
    """Pixels of the short side in the decoded cache, at which the smallest crop is still not upsampled.

    The smallest crop of a square of side s is s sqrt(min_scale * least aspect) pixels wide, and that must reach the
    training crop; an image that is smaller to begin with is stored as it is.
    """
    if settings.cache_short_side is not None:
        return settings.cache_short_side
    aspect = min(settings.ratio[0], 1 / settings.ratio[1], 1.0)
    return math.ceil(settings.train_crop / math.sqrt(settings.min_scale * aspect))


def _stored(image: Image.Image, settings: ImageSettings) -> Image.Image:
    if settings.train_resize is not None:
        return training_pixels(image, settings)
    side = short_side(settings)
    return resized(image, side, settings.filter) if min(image.size) > side else image


def _by(settings: ImageSettings) -> str:
    """For the name of a cache; bilinear, which was the only one once, is not said."""
    return "" if settings.filter == "bilinear" else f", {settings.filter}"


def _limit(settings: ImageSettings) -> float:
    return settings.cache_limit_gib * 2**30


def _workers(building: Building) -> int:
    return processors() if building.workers is None else max(1, building.workers)


def decoded_store(table: ImageTable, settings: ImageSettings, building: Building) -> Store:
    """Every image decoded, as large as the recipe needs it. Raises TooLarge, DataError."""

    def encode(path: str) -> Entry:
        pixels = np.ascontiguousarray(np.asarray(_stored(table.source.read(path), settings)))
        return Entry(pixels.data, pixels.shape[:2])

    def estimate() -> int:
        sampled = np.linspace(0, len(table) - 1, num=min(SAMPLED_FOR_AN_ESTIMATE, len(table))).astype(np.int64)
        sizes = []
        for row in sampled:
            try:
                image = _stored(table.source.read(table.paths[int(row)]), settings)
            except (OSError, ValueError):
                continue
            sizes.append(3 * image.width * image.height)
        return int(np.mean(sizes) * len(table)) if sizes else 0

    side = f"resized to {settings.train_resize}" if settings.train_resize else f"short side {short_side(settings)}"
    return open_store(
        table,
        f"decoded, {side}{_by(settings)}",
        one_by_one(table, encode, _workers(building)),
        directory=building.directory,
        limit_bytes=_limit(settings),
        estimate=estimate,
        progress=building.progress,
    )


def encoded_store(table: ImageTable, settings: ImageSettings, building: Building) -> Store:
    """The bytes of every image file in one file. Raises TooLarge, DataError; ValueError for rendered images."""

    def encode(path: str) -> Entry:
        content = table.source.encoded(path)
        if content is None:
            raise ValueError(f"{table.name} has no files to keep; use cache decoded")
        return Entry(content, (len(content),))

    def size(path: str) -> int:
        try:
            return table.source.size_in_bytes(path)
        except OSError:
            return 0  # found, named and counted when it is read

    return open_store(
        table,
        "encoded",
        one_by_one(table, encode, _workers(building)),
        directory=building.directory,
        limit_bytes=_limit(settings),
        estimate=lambda: sum(map(size, table.paths)),
        progress=building.progress,
    )


def open_reader(table: ImageTable, settings: ImageSettings, building: Building) -> PixelReader:
    """The reader that `image.cache` names; `auto` takes the decoded cache, the encoded one where that is too large.

    The exact path decodes from the files or from their encoded copies, never from resized pixels. Raises DataError
    where a cache that was asked for by name does not fit.
    """
    wanted = settings.cache
    if wanted == "none" or (wanted == "auto" and settings.exact):
        return FileReader(table, settings)
    kinds = ("decoded", "encoded") if wanted == "auto" else (wanted,)
    for kind in kinds:
        try:
            if kind == "decoded":
                return DecodedReader(table, decoded_store(table, settings, building))
            return EncodedReader(table, settings, encoded_store(table, settings, building))
        except TooLarge as error:
            if wanted != "auto":
                raise DataError(f"{error}; make room, raise the limit, or say --set trial.image.cache=none") from error
            LOG.warning("%s: not used", error)
    return FileReader(table, settings)


def uniform_store(table: ImageTable, building: Building) -> npt.NDArray[np.uint8]:
    """The decoded images of a table whose source has one size: (n, h, w, 1 or 3), one channel where it is gray.

    Made on first use, then shared by all processes and later runs. Raises DataError.
    """
    size = table.source.image_size
    if size is None:
        raise ValueError(f"{table.name}: images of different sizes")
    channels = 1 if table.source.gray else 3

    def encode(path: str) -> Entry:
        image = table.source.read(path)
        return Entry(np.ascontiguousarray(np.asarray(image.convert("L") if channels == 1 else image)).data, size)

    store = open_store(
        table,
        f"pixels {size[0]}x{size[1]}x{channels}",
        one_by_one(table, encode, _workers(building)),
        directory=building.directory,
        progress=building.progress,
    )
    if store.unreadable:
        # Rows must stay aligned, and such data is small: it has to be whole.
        raise DataError(f"{table.name}: unreadable images: {', '.join(sorted(store.unreadable)[:10])}")
    return store.data.reshape(len(table), *size, channels)


def views_store(table: ImageTable, settings: ImageSettings, building: Building) -> Store | None:
    """The test views of all images, one size, exactly as torchvision would make them; None where that is too large.

    The index has height 0 for an unreadable image. Raises DataError where the views have different sizes.
    """
    if settings.cache == "none":
        return None

    def encode(path: str) -> Entry:
        pixels = np.ascontiguousarray(evaluation_pixels(table.source.read(path), settings))
        return Entry(pixels.data, pixels.shape[:2])

    crop = settings.test_crop
    try:
        return open_store(
            table,
            f"test view, resize {settings.test_resize}, crop {crop}{_by(settings)}",
            one_by_one(table, encode, _workers(building)),
            directory=building.directory,
            limit_bytes=_limit(settings),
            estimate=None if crop is None else lambda: 3 * crop * crop * len(table),
            progress=building.progress,
        )
    except TooLarge as error:
        LOG.warning("%s: not used", error)
        return None
