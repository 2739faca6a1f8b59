"""Where caches lie, and how one is made: by one builder at a time, under a temporary name, then renamed."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ctxtune.data.part import ImageTable
from ctxtune.errors import DataError

FORMAT = 1


def default_cache_directory() -> Path:
    """`$CTXTUNE_CACHE`, or `ctxtune` under `$XDG_CACHE_HOME` (default `~/.cache`)."""
    if named := os.environ.get("CTXTUNE_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ctxtune"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock for `path` (in a file beside it); a second process waits. Freed when a holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def table_key(table: ImageTable, *what: object) -> str:
    """A hash over what a cache of `table` is made from: identifiers, file sizes, the source, and the settings."""
    digest = hashlib.sha256(repr((FORMAT, table.name, table.source.description(), what)).encode())
    for path in table.paths:
        digest.update(f"\0{path}\0{table.source.size_in_bytes(path)}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def uniform_pixels(table: ImageTable, directory: Path | None) -> npt.NDArray[np.uint8]:
    """The decoded images of a table whose source has one size, memory-mapped: (n, channels, height, width).

    One channel where the source is greyscale. Made on first use, then shared by all processes and later runs.
    Raises DataError where the cache cannot be written or an image not be read.
    """
    size = table.source.image_size
    if size is None:
        raise ValueError(f"{table.name}: images of different sizes")
    channels = 1 if table.source.grey else 3
    shape = (len(table), channels, *size)
    folder = directory or default_cache_directory()
    path = folder / f"{re.sub(r'[^A-Za-z0-9]+', '-', table.name)}-{table_key(table, shape)[:20]}.npy"
    try:
        if (found := _open_uniform(path, shape)) is not None:
            return found
        with locked(path):
            if (found := _open_uniform(path, shape)) is None:
                _write_uniform(path, table, shape)
                found = _open_uniform(path, shape)
    except OSError as error:
        raise DataError(
            f"{table.name}: cannot keep the decoded images in {folder} ({error}); "
            "name another folder in the environment variable CTXTUNE_CACHE"
        ) from error
    assert found is not None
    return found


def _digest(pixels: npt.NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()


def _open_uniform(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.uint8] | None:
    """The cache, or None where it is missing, half-built or damaged."""
    checksum = path.with_suffix(".sha256")
    try:
        pixels = np.load(path, mmap_mode="r")
        expected = checksum.read_text().strip()
    except (OSError, ValueError, EOFError):
        return None
    sound = pixels.shape == shape and pixels.dtype == np.uint8 and _digest(pixels) == expected
    return pixels if sound else None


def _write_uniform(path: Path, table: ImageTable, shape: tuple[int, ...]) -> None:
    pixels = np.empty(shape, dtype=np.uint8)
    for row, name in enumerate(table.paths):
        try:
            image = table.source.read(name)
        except (OSError, ValueError) as error:
            raise DataError(f"{table.name}: cannot read {name}: {error}") from error
        array = np.asarray(image.convert("L") if shape[1] == 1 else image)
        pixels[row] = array[None] if shape[1] == 1 else array.transpose(2, 0, 1)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            np.save(file, pixels)
            file.flush()
            os.fsync(file.fileno())
        path.with_suffix(".sha256").write_text(_digest(pixels))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
