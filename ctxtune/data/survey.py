"""A look at every image of a data set: sizes, unreadable files, copies by content, near-copies across splits by appearance.

A picture that is in train and in test, or twice in test, is found by its copy: Recall@1 rises without a reason.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

from ctxtune.data.sources import decode
from ctxtune.data.split import Benchmark, Split
from ctxtune.data.threads import in_threads

SIDE = 8
"""Of the grid whose neighbors are compared: 2 x 64 bits, brighter or darker than to the left, and than above."""
MOST_BITS = 7
"""In which the hashes of near-copies differ; images that do agree in one of eight bytes pairs at least."""
LIKE_GRAY_LEVELS = 8.0
"""Mean difference of two near-copies' thumbnails, of 255."""
FLAT_GRAY_LEVELS = 4.0
"""Deviation below which an image has nothing by which it could be told from another."""
MOST_PAIRS = 2_000_000
"""Of images in one bucket that are compared."""


@dataclass(frozen=True)
class SurveyedImage:
    """One image: where it is, a hash of its content, its (width, height), 16 bytes of appearance, a 16 x 16 thumbnail."""

    split: str
    path: str
    label: int
    content: str
    size: tuple[int, int]
    bits: npt.NDArray[np.uint8]
    thumbnail: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Survey:
    """What was found.

    Attributes:
        pictures: all that can be read.
        unreadable: (split, path, reason).
        copies: groups of images with the same content, two at least each.
        near_copies: pairs of a training image and one of another split that look the same and are not the same file.
        too_many_alike: images that look so much alike that they were not compared with each other.
    """

    pictures: list[SurveyedImage]
    unreadable: list[tuple[str, str, str]]
    copies: list[list[SurveyedImage]] = field(default_factory=list)
    near_copies: list[tuple[SurveyedImage, SurveyedImage]] = field(default_factory=list)
    too_many_alike: int = 0

    def across_splits(self) -> list[list[SurveyedImage]]:
        """Groups of copies in more than one split."""
        return [group for group in self.copies if len({each.split for each in group}) > 1]

    def across_classes(self) -> list[list[SurveyedImage]]:
        """Groups of copies with more than one class: at most one label is right."""
        return [group for group in self.copies if len({each.label for each in group}) > 1]


def survey(benchmark: Benchmark, workers: int, progress: Callable[[int, int], None] | None = None) -> Survey:
    """Open every image of a benchmark and compare them."""
    rows = [(name, split, index) for name, split in benchmark.splits().items() for index in range(len(split))]
    pictures: list[SurveyedImage] = []
    unreadable: list[tuple[str, str, str]] = []

    def attempt(row: tuple[str, Split, int]) -> SurveyedImage | Exception:
        try:
            return _picture(*row)
        except (OSError, ValueError) as error:
            return error

    for number, found in enumerate(in_threads(attempt, rows, workers)):
        if isinstance(found, Exception):
            name, split, index = rows[number]
            unreadable.append((name, split.path(index), str(found) or type(found).__name__))
        else:
            pictures.append(found)
        if progress is not None:
            progress(number + 1, len(rows))
    by_content: dict[str, list[SurveyedImage]] = defaultdict(list)
    for picture in pictures:
        by_content[picture.content].append(picture)
    copies = [group for group in by_content.values() if len(group) > 1]
    near, skipped = _near_copies(pictures)
    return Survey(pictures, unreadable, copies, near, skipped)


def _picture(name: str, split: Split, index: int) -> SurveyedImage:
    path = split.path(index)
    encoded = split.table.source.encoded(path)
    image = split.read(index) if encoded is None else decode(encoded)
    gray = image.convert("L")
    grid = np.asarray(gray.resize((SIDE + 1, SIDE + 1), Image.Resampling.BOX), dtype=np.int16)
    bits = np.concatenate(
        [(grid[:SIDE, 1:] > grid[:SIDE, :-1]).reshape(-1), (grid[1:, :SIDE] > grid[:-1, :SIDE]).reshape(-1)]
    )
    thumbnail = np.asarray(gray.resize((16, 16), Image.Resampling.BOX), dtype=np.float32)
    content = hashlib.blake2b(encoded or image.tobytes(), digest_size=16).hexdigest()
    return SurveyedImage(name, path, int(split.labels[index]), content, image.size, np.packbits(bits), thumbnail)


def _near_copies(pictures: Sequence[SurveyedImage]) -> tuple[list[tuple[SurveyedImage, SurveyedImage]], int]:
    """Pairs across train and the other splits, and how many images were too many to compare.

    Hashes that differ in at most seven of 128 bits agree in one of eight pairs of bytes: only such pairs are compared.
    """
    telling = [picture for picture in pictures if picture.thumbnail.std() >= FLAT_GRAY_LEVELS]
    train = [picture for picture in telling if picture.split == "train"]
    others = [picture for picture in telling if picture.split != "train"]
    found: dict[tuple[int, int], None] = {}
    skipped: set[str] = set()
    for band in range(0, 2 * SIDE, 2):
        buckets: dict[bytes, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for side, members in enumerate((train, others)):
            for number, picture in enumerate(members):
                buckets[picture.bits[band : band + 2].tobytes()][side].append(number)
        for mine, theirs in buckets.values():
            if len(mine) * len(theirs) > MOST_PAIRS:
                skipped.update(others[number].path for number in theirs)
            else:
                found |= dict.fromkeys(_alike(train, others, mine, theirs))
    pairs = [(train[first], others[second]) for first, second in sorted(found)]
    return [pair for pair in pairs if pair[0].content != pair[1].content], len(skipped)


def _alike(
    train: Sequence[SurveyedImage], others: Sequence[SurveyedImage], mine: Sequence[int], theirs: Sequence[int]
) -> Iterator[tuple[int, int]]:
    if not mine or not theirs:
        return
    own = np.stack([train[number].bits for number in mine])
    for second in theirs:
        differing = np.unpackbits(own ^ others[second].bits, axis=1).sum(axis=1)
        for position in np.flatnonzero(differing <= MOST_BITS):
            first = mine[int(position)]
            if np.abs(train[first].thumbnail - others[second].thumbnail).mean() <= LIKE_GRAY_LEVELS:
                yield first, second
