"""A folder or table of one's own as a `dataset` block: what is there decides which."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from ctxtune.data.loading import load
from ctxtune.data.official_counts import DataWarning
from ctxtune.data.split import Benchmark
from ctxtune.errors import DataError
from ctxtune.yaml_text import Tree


def own_dataset(place: Path) -> tuple[Tree, Benchmark]:
    """The block that names the data at a place, and the data; `closed_set` where train and test share classes.

    A file is a table; so is a folder with one kind of parquet files, tar shards or a single CSV. Any other folder has image
    lists (`train.txt`), or class folders; so has one whose table is about something else, which a warning tells.

    Raises:
        DataError: there is nothing that can be read.
    """
    if not place.exists():
        raise DataError(f"{place.absolute()}: there is no such file or folder")
    block = _block(place.absolute())
    try:
        return _loaded(block)
    except DataError as error:
        folders: Tree = {"name": "class_folders", "root": str(place.absolute())}
        if place.is_file() or block == folders:
            raise
        try:
            found = _loaded(folders)
        except DataError:
            raise error from None
        warnings.warn(f"{error}. Taken are the class folders", DataWarning, stacklevel=2)
        return found


def _loaded(block: Tree) -> tuple[Tree, Benchmark]:
    """A block and its data; as a closed set where train and test share classes. Raises DataError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # the look at the data tells it
        try:
            return block, load(**block)
        except DataError as error:
            try:
                benchmark = load(**block, closed_set=True)
            except DataError:
                raise error from None
            if not _shares_classes(benchmark):
                raise
            return {**block, "closed_set": True}, benchmark


def _block(place: Path) -> Tree:
    if place.is_file():
        return {"name": "table", "file": str(place)}
    if (place / "train.txt").is_file():
        return {"name": "image_list", "root": str(place)}
    for pattern in ("*.parquet", "data/*.parquet", "*.tar"):
        if any(place.glob(pattern)):
            return {"name": "table", "root": str(place), "file": pattern}
    tables = sorted([*place.glob("*.csv"), *place.glob("*.tsv")])
    if len(tables) > 1:
        names = ", ".join(file.name for file in tables[:5])
        raise DataError(f"{place}: several tables ({names}); name one of them: python -m ctxtune.new {tables[0]}")
    if tables:
        return {"name": "table", "root": str(place), "file": tables[0].name}
    return {"name": "class_folders", "root": str(place)}


def _shares_classes(benchmark: Benchmark) -> bool:
    train = benchmark.train.classes()
    return any(
        bool(np.intersect1d(train, split.classes()).size)
        for name, split in benchmark.splits().items()
        if name != "train"
    )
