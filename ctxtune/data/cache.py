"""Caches on disk: one file of bytes with an index, made once, checked when opened, shared by every process of a node.

A cache is a folder with `data.bin` (memory-mapped, so that all trials share the system's page cache), `index.npy` and
`meta.json`. One process builds it, under a temporary name that is renamed at the end; others wait for it. What it was
made from (identifiers, how images are stored) decides its name; sizes and times of the files are compared when it is
opened, and a stale, half-built or damaged cache is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ctxtune.data.reading import Unreadable
from ctxtune.data.split import ImageTable, Integers
from ctxtune.data.threads import in_threads
from ctxtune.errors import DataError
from ctxtune.locks import lock

if TYPE_CHECKING:
    from typing_extensions import Buffer

FORMAT = 3  # 2 held images of more than 8 bits scaled by their own maximum
BLOCK = 1 << 24
"""Bytes under one checksum."""
CHECKED_BLOCKS = 16
"""Blocks whose checksum is compared when a cache is opened: all of a small one, a sample of a large one."""

Progress = Callable[[int, int], None]
"""Called with the number of images done and the number of all."""


class TooLarge(Exception):
    """A cache would exceed the limit or the disk; the message gives the figures."""


@dataclass(frozen=True, eq=False)
class Store:
    """An open cache: `data` (bytes,) uint8, memory-mapped; `index` (n, columns) int64; unreadable images by path."""

    data: npt.NDArray[np.uint8]
    index: Integers
    unreadable: dict[str, str]
    path: Path


@dataclass(frozen=True)
class Entry:
    """What is stored for one image: its bytes and its row of the index after the offset."""

    content: Buffer  # contiguous
    columns: tuple[int, ...]


Encoder = Callable[[str], Entry]
"""Makes the entry of an image from its identifier. Raises OSError or ValueError where it cannot be read."""
Entries = Callable[[], Iterator["Entry | Exception"]]
"""Makes the entries of all images of a table in their order; an exception in place of one that cannot be read."""


def default_cache_directory() -> Path:
    """`$CTXTUNE_CACHE`, or `ctxtune` under `$XDG_CACHE_HOME` (default `~/.cache`)."""
    if named := os.environ.get("CTXTUNE_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ctxtune"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock for `path` (in a file beside it); a second process waits. Freed when a holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("w") as file:
        lock(file)
        yield


def cache_path(directory: Path, table: ImageTable, kind: str) -> Path:
    """Where the cache of `kind` (how images are stored, in words) for a table lies: a name for people, then a hash."""
    digest = hashlib.sha256(repr((FORMAT, table.name, table.source.description(), kind, len(table))).encode())
    for path in table.paths:
        digest.update(path.encode("utf-8", "surrogateescape") + b"\0")
    slug = re.sub(r"[^A-Za-z0-9]+", "-", f"{table.name} {kind}").strip("-")[:80]
    return directory / f"{slug}-{digest.hexdigest()[:16]}"


def table_stamp(table: ImageTable) -> str:
    """A hash over size and time of every file of a table: it changes when a file does. By stat alone.

    Files that are missing count as such: that is for the reading to find.
    """
    digest = hashlib.sha256()
    for path in table.paths:
        try:
            digest.update(repr(table.source.stamp(path)).encode())
        except OSError:
            digest.update(b"missing")
    return digest.hexdigest()


def one_by_one(table: ImageTable, encode: Encoder, workers: int) -> Entries:
    """The entries of a table, each made by itself, in threads."""

    def attempt(name: str) -> Entry | Exception:
        try:
            return encode(name)
        except (OSError, ValueError) as error:
            return error

    return lambda: in_threads(attempt, table.paths, workers)


def open_store(
    table: ImageTable,
    kind: str,
    entries: Entries,
    *,
    directory: Path | None = None,
    limit_bytes: float | None = None,
    estimate: Callable[[], int] | None = None,
    progress: Progress | None = None,
) -> Store:
    """The cache of a table, made first where it is missing, stale or damaged.

    `estimate` gives the bytes that it would take, asked only before building. Raises TooLarge where that exceeds
    `limit_bytes` or the free disk, DataError where the folder cannot be written or too many images are unreadable.
    """
    folder = directory or default_cache_directory()
    path = cache_path(folder, table, kind)
    stamp = table_stamp(table)
    try:
        if (found := _open(path, stamp, table)) is not None:
            return found
        with locked(path):
            if (found := _open(path, stamp, table)) is None:
                if estimate is not None:
                    _require_room(table, folder, estimate(), limit_bytes)
                _build(path, stamp, table, entries, progress)
                found = _open(path, stamp, table)
    except OSError as error:
        raise DataError(
            f"{table.name}: cannot keep images in {folder.absolute()} ({error}); "
            "name another folder in the environment variable CTXTUNE_CACHE, or say --set trial.image.cache=none"
        ) from error
    if found is None:
        raise DataError(f"{table.name}: the cache {path} cannot be read back after it was written; check the disk")
    return found


def find_store(table: ImageTable, kind: str, directory: Path | None = None) -> Store | None:
    """The cache of a table where it is there, up to date and sound; nothing is made."""
    return _open(cache_path(directory or default_cache_directory(), table, kind), table_stamp(table), table)


def _require_room(table: ImageTable, folder: Path, needed: int, limit: float | None) -> None:
    free = shutil.disk_usage(folder).free
    for name, bound in (("the limit (image.cache_limit_gib)", limit), ("what is free on the disk", 0.95 * free)):
        if bound is not None and needed > bound:
            raise TooLarge(
                f"{table.name}: a cache of {needed / 2**30:.1f} GiB is more than {name}, {bound / 2**30:.1f} GiB"
            )


def _block_sums(data: npt.NDArray[np.uint8], blocks: Iterable[int]) -> list[int]:
    return [zlib.crc32(data[block * BLOCK : (block + 1) * BLOCK].data) for block in blocks]


def checked_blocks(count: int) -> list[int]:
    """Which of `count` blocks are compared when a cache is opened: first, last, and evenly between."""
    return sorted({int(block) for block in np.linspace(0, count - 1, num=min(count, CHECKED_BLOCKS))})


def _open(path: Path, stamp: str, table: ImageTable, *, thorough: bool = False) -> Store | None:
    """The cache at `path`, or None where it is missing, stale, half-built or damaged."""
    try:
        meta = json.loads((path / "meta.json").read_text())
        index = np.load(path / "index.npy")
        size = (path / "data.bin").stat().st_size
        if (meta["format"], meta["stamp"], meta["bytes"], len(index)) != (FORMAT, stamp, size, len(table)):
            return None
        # Copy on write: nobody writes, but torch warns of arrays that it could not write to. Pages are shared all the same.
        data = np.memmap(path / "data.bin", dtype=np.uint8, mode="c") if size else np.empty(0, dtype=np.uint8)
        sums = meta["checksums"]
        blocks = range(len(sums)) if thorough else checked_blocks(len(sums))
        sound = _block_sums(data, blocks) == [sums[block] for block in blocks]
        sound &= zlib.crc32(index.tobytes()) == meta["index_checksum"]
        return Store(data, index, dict(meta["unreadable"]), path) if sound else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_sound(path: Path, table: ImageTable) -> bool:
    """Every checksum of a cache compared, and its stamp: what `prepare` does with a cache that is there."""
    return _open(path, table_stamp(table), table, thorough=True) is not None


def _build(path: Path, stamp: str, table: ImageTable, entries: Entries, progress: Progress | None) -> None:
    for left_over in path.parent.glob(f"{path.name}.*.tmp"):
        shutil.rmtree(left_over, ignore_errors=True)  # we hold the lock: whoever made it is dead
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        _write(temporary, stamp, table, entries, progress)
        if path.exists():
            stale = path.with_name(f"{path.name}.stale.tmp")
            path.replace(stale)  # processes that have it open keep their mapping
            temporary.replace(path)
            shutil.rmtree(stale, ignore_errors=True)
        else:
            temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class _BlockSums:
    """Checksums of consecutive blocks of a stream of bytes."""

    def __init__(self) -> None:
        self.finished: list[int] = []
        self._running, self._room = 0, BLOCK

    def add(self, content: memoryview) -> None:
        while len(content):
            self._running = zlib.crc32(content[: self._room], self._running)
            taken = min(self._room, len(content))
            content, self._room = content[taken:], self._room - taken
            if self._room == 0:
                self.finished.append(self._running)
                self._running, self._room = 0, BLOCK

    def all(self) -> list[int]:
        return [*self.finished, self._running] if self._room < BLOCK else self.finished


def _write(folder: Path, stamp: str, table: ImageTable, entries: Entries, progress: Progress | None) -> None:
    unreadable = Unreadable(table)
    rows: list[tuple[int, ...]] = []
    sums, offset = _BlockSums(), 0

    with (folder / "data.bin").open("wb") as file:
        for name, entry in zip(table.paths, entries(), strict=True):
            if isinstance(entry, Exception):
                unreadable.record(name, entry)
                rows.append((offset,))
            else:
                rows.append((offset, *entry.columns))
                content = memoryview(entry.content).cast("B")
                file.write(content)
                sums.add(content)
                offset += len(content)
            if progress is not None:
                progress(len(rows), len(table))
        file.flush()
        os.fsync(file.fileno())
    width = max(map(len, rows), default=1)
    index = np.array([row + (0,) * (width - len(row)) for row in rows], dtype=np.int64).reshape(len(rows), width)
    np.save(folder / "index.npy", index)
    meta = {
        "format": FORMAT,
        "table": table.name,
        "stamp": stamp,
        "bytes": offset,
        "checksums": sums.all(),
        "index_checksum": zlib.crc32(index.tobytes()),
        "unreadable": unreadable.reasons,
    }
    (folder / "meta.json").write_text(json.dumps(meta))
