"""What a benchmark consists of: tables of images, and splits that pick rows of a table and label them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from ctxtune.errors import DataError
from ctxtune.text import printable

Integers = npt.NDArray[np.int64]


class StringTable(Sequence[str]):
    """Immutable strings packed in one buffer: half a million paths cost no Python object each.

    Worker processes then share it after a fork, since nothing in it carries a reference count of its own.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        encoded = [string.encode("utf-8", "surrogateescape") for string in strings]
        lengths = np.fromiter((len(item) for item in encoded), dtype=np.int64, count=len(encoded))
        self._ends = np.cumsum(lengths)
        self._buffer = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # int -> str, slice or array -> StringTable
        if isinstance(index, (slice, np.ndarray, list)):
            return StringTable([self[int(row)] for row in np.arange(len(self))[index]])
        position = int(index)
        if position < 0:
            position += len(self)
        if not 0 <= position < len(self):
            raise IndexError(index)
        start = int(self._ends[position - 1]) if position else 0
        return self._buffer[start : int(self._ends[position])].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        start, buffer = 0, self._buffer.data
        for end in self._ends.tolist():
            yield str(buffer[start:end], "utf-8", "surrogateescape")
            start = end

    def __repr__(self) -> str:
        return f"StringTable({len(self)} strings)"


class ImageSource(Protocol):
    """Where the images of a table come from. Nothing is opened before `read` or `encoded` is called."""

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(height, width) where every image has it, otherwise None."""
        ...

    @property
    def gray(self) -> bool:
        """True where every image is known to be grayscale: one channel is then enough to keep."""
        ...

    def read(self, path: str) -> Image.Image:
        """The image `path` as RGB, upright. Raises OSError or ValueError where it cannot be read."""
        ...

    def encoded(self, path: str) -> bytes | None:
        """The bytes of the image file, or None where there is no file (rendered images)."""
        ...

    def size_in_bytes(self, path: str) -> int:
        """The size of the image file by stat alone; 0 where there is no file. Raises OSError where it is missing."""
        ...

    def stamp(self, path: str) -> tuple[int, int]:
        """What changes when the file changes (size and time); no file is opened. Raises OSError where it is missing."""
        ...

    def description(self) -> str:
        """What, beside the files, decides how the images look (versions, rendering); part of the fingerprint."""
        ...


@dataclass(frozen=True, eq=False)
class ImageTable:
    """All images of one published split, in a fixed order: what a cache is made of.

    `name` is `DATASET/PART`. `paths` are identifiers that `source` understands (relative paths, as a rule).
    `max_unreadable` is the share of the images that may be skipped as unreadable at run time.
    """

    name: str
    source: ImageSource
    paths: StringTable
    max_unreadable: float = 0.001

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True, eq=False)
class Split:
    """Labeled images: a published split, or some of its images after a split or a corruption.

    Attributes:
        name: what it is, for messages: `cars196/train`, `cars196/train/fold0/fit`.
        table: the images of the published split that this split draws from.
        rows: (n,) row of `table` for each image.
        labels: (n,) class of each image, as published (not necessarily contiguous).
        super_labels: (n,) super-class of each image, or None where the data set has none.
        class_names: label to name.
        notes: what was done to the split (noise, withheld data), for the run's record.
    """

    name: str
    table: ImageTable
    rows: Integers
    labels: Integers
    super_labels: Integers | None = None
    class_names: Mapping[int, str] = field(default_factory=dict)
    notes: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for array in (self.labels, self.super_labels):
            if array is not None and array.shape != self.rows.shape:
                raise ValueError(f"{self.name}: {len(self.rows)} images, but {len(array)} labels")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def paths(self) -> StringTable:
        """The identifiers of the images, in the split's order (made on demand)."""
        if len(self.rows) == len(self.table) and np.array_equal(self.rows, np.arange(len(self.rows))):
            return self.table.paths
        return self.table.paths[self.rows]

    def path(self, index: int) -> str:
        """The identifier of one image."""
        return self.table.paths[int(self.rows[index])]

    def read(self, index: int) -> Image.Image:
        """Open image `index` as RGB, upright. Raises OSError or ValueError where it cannot be read."""
        return self.table.source.read(self.path(index))

    def select(self, indices: npt.ArrayLike, name: str) -> Split:
        """The images at `indices` (integers, or a boolean mask over the split) as a split of its own."""
        chosen = np.asarray(indices)
        return Split(
            name=name,
            table=self.table,
            rows=self.rows[chosen],
            labels=self.labels[chosen],
            super_labels=None if self.super_labels is None else self.super_labels[chosen],
            class_names=self.class_names,
            notes=self.notes,
        )

    def classes(self) -> Integers:
        """The distinct labels, sorted."""
        return np.unique(self.labels)

    def fingerprint(self) -> str:
        """A hash over labels, identifiers and file sizes of all images, and the content of up to 256 of them.

        It does not depend on where the data lies or on file times, so two copies of a data set agree. The files are
        only touched when this is called. Raises OSError where a file is missing.
        """
        source = self.table.source
        digest = hashlib.sha256(source.description().encode())
        digest.update(np.ascontiguousarray(self.labels).tobytes())
        if self.super_labels is not None:
            digest.update(np.ascontiguousarray(self.super_labels).tobytes())
        sampled = set(np.linspace(0, len(self) - 1, num=min(256, len(self)), dtype=np.int64).tolist())
        for index in range(len(self)):
            path = self.path(index)
            digest.update(f"\0{path}\0{source.size_in_bytes(path)}".encode("utf-8", "surrogateescape"))
            if index in sampled:
                digest.update(source.encoded(path) or b"")
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Benchmark:
    """A data set as published: train classes, and either `test` or `query` and `gallery` with other classes.

    `recall_at` are the ranks at which the field reports Recall@K on it. `layout` says in which form it was found.
    """

    name: str
    train: Split
    test: Split | None
    query: Split | None
    gallery: Split | None
    recall_at: tuple[int, ...]
    layout: str = ""

    def splits(self) -> dict[str, Split]:
        """The splits that exist, by name, train first."""
        named = {"train": self.train, "test": self.test, "query": self.query, "gallery": self.gallery}
        return {name: split for name, split in named.items() if split is not None}


def make_split(
    name: str,
    source: ImageSource,
    paths: Sequence[str],
    labels: npt.ArrayLike,
    super_labels: npt.ArrayLike | None = None,
    class_names: Mapping[int, str] | None = None,
) -> Split:
    """A published split from parallel sequences of identifiers and labels. Raises DataError where it is empty."""
    if not len(paths):
        raise DataError(f"{name}: there are no images for it")
    table = ImageTable(name, source, StringTable(paths))
    return Split(
        name=name,
        table=table,
        rows=np.arange(len(table), dtype=np.int64),
        labels=np.asarray(labels, dtype=np.int64),
        super_labels=None if super_labels is None else np.asarray(super_labels, dtype=np.int64),
        class_names={label: printable(name) for label, name in (class_names or {}).items()},
    )
