"""The official sizes of the benchmarks, and what is checked of every data set once it is read."""

from __future__ import annotations

import warnings

import numpy as np

from ctxtune.data.oddities import listed_twice, odd_names
from ctxtune.data.split import Benchmark
from ctxtune.errors import DataError

OFFICIAL_COUNTS: dict[str, dict[str, tuple[int, int]]] = {
    "cub200": {"train": (100, 5864), "test": (100, 5924)},
    "cars196": {"train": (98, 8054), "test": (98, 8131)},
    "sop": {"train": (11318, 59551), "test": (11316, 60502)},
    "inshop": {"train": (3997, 25882), "query": (3985, 14218), "gallery": (3985, 12612)},
    "inaturalist2018": {"train": (5690, 325846), "test": (2452, 136093)},
    "inaturalist2021_mini": {"train": (5003, 250150), "test": (4997, 249850)},
    "omniglot": {"train": (110, 2200), "test": (132, 2640)},
}
"""Data set and split to (classes, images)."""


class DataWarning(UserWarning):
    """The data can be used, but is not what is published."""


def differences(benchmark: Benchmark) -> list[str]:
    """Where class or image counts are not the official ones, one sentence per split that differs."""
    found = []
    for name, (classes, images) in OFFICIAL_COUNTS.get(benchmark.name, {}).items():
        split = benchmark.splits().get(name)
        counts = (len(split.classes()), len(split)) if split is not None else (0, 0)
        if counts != (classes, images):
            found.append(
                f"{benchmark.name}/{name} has {counts[0]:,} classes and {counts[1]:,} images, "
                f"officially {classes:,} classes and {images:,} images"
            )
    return found


def verify(benchmark: Benchmark, *, strict: bool, closed_set: bool = False) -> None:
    """Refuse a benchmark with a class on both sides, or with two test sides; warn of counts that are not official, of images
    listed twice and of odd class names.

    Raises DataError for the former, and with `strict` for the latter.
    """
    if benchmark.test is not None and (benchmark.query is not None or benchmark.gallery is not None):
        raise DataError(
            f"{benchmark.name}: splits found: {', '.join(benchmark.splits())}; take test, or query and gallery"
        )
    train = benchmark.train.classes()
    for name, split in benchmark.splits().items():
        if name != "train" and not closed_set and (shared := np.intersect1d(train, split.classes())).size:
            few = ", ".join(split.class_names.get(int(label), str(label)) for label in shared[:3])
            raise DataError(
                f"{benchmark.name}: {shared.size} classes are both in train and in {name} ({few}, ...); "
                "zero-shot retrieval needs classes that training has never seen. Where known classes are what you "
                "want to measure, say dataset.closed_set: true and validation.scheme: image_holdout"
            )
    if found := [*differences(benchmark), *listed_twice(benchmark), *odd_names(benchmark)]:
        message = "; ".join(found)
        if strict:
            raise DataError(f"{message} (dataset.strict is true)")
        warnings.warn(message, DataWarning, stacklevel=3)
