"""Copies of CUB-200-2011 and Cars196 as the Hugging Face hub has them: parquet files with an image and a class in each row.

Their train and test rows are the classification split, which plays no role in retrieval: the class number decides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ctxtune.data.split import Benchmark, Integers, Split, make_split
from ctxtune.errors import DataError

LABELS = ("label", "labels", "class", "class_label", "fine_label", "target")


def hub_parquet(name: str, root: Path, classes: int, train_classes: int) -> Benchmark | None:
    """The benchmark of a copy, its images in the order of the files; None where there are no parquet files.

    Args:
        name: of the data set.
        root: the folder of the copy; the files may be in its folder `data`.
        classes: how many the data set has; the first `train_classes` by their official number are for training.

    Raises:
        DataError: the files are not such a copy.
    """
    files = next((found for place in (root, root / "data") if (found := sorted(place.glob("*.parquet")))), None)
    if files is None:
        return None
    # pyarrow takes time to import, and most data sets do without it
    from ctxtune.data.layouts.table import class_numbers
    from ctxtune.data.layouts.table_files import read_rows_of, schema_names

    label = next((column for column in LABELS if column in schema_names(files[0])), "label")
    rows = read_rows_of(files, {"label": label}, root)
    if rows.source is None:
        raise DataError(f"{files[0]}: there are no images in it, only their paths; take a copy that holds the images")
    numbers, names = class_numbers(rows, "label")
    official = _official_numbers(names)
    outside = sorted(number for number in official.values() if not 1 <= number <= classes)
    if outside:
        raise DataError(f"{files[0]}: class {outside[0]} in column {label!r}; {name} has the classes 1 to {classes}")
    labels = np.array([official[int(number)] for number in numbers])
    class_names = {official[number]: text for number, text in names.items()}
    source, identifiers = rows.source, rows.identifiers

    def split(side: str, chosen: Integers) -> Split:
        if not len(chosen):
            raise DataError(f"{name}: {root.absolute()} has no images for the {side} side")
        there = {int(number): class_names[int(number)] for number in np.unique(labels[chosen])}
        return make_split(f"{name}/{side}", source, [identifiers[row] for row in chosen], labels[chosen], None, there)

    train = split("train", np.flatnonzero(labels <= train_classes))
    test = split("test", np.flatnonzero(labels > train_classes))
    layout = f"{len(files)} parquet files of the Hugging Face hub"
    return Benchmark(name, train, test, None, None, (1, 2, 4, 8), layout)


def _official_numbers(names: Mapping[int, str]) -> dict[int, int]:
    """The number in the copy to the official one, which counts from 1; a name such as 001.Albatross says it itself."""
    said = {number: re.match(r"(\d{1,3})\.", name) for number, name in names.items()}
    if all(said.values()):
        return {number: int(match[1]) for number, match in said.items() if match}
    return {number: number + (1 if 0 in names else 0) for number in names}
