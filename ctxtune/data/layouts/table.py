"""A data set of one's own as a table: CSV, parquet or tar shards with a row for each image."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from ctxtune.data.layouts.finding import LARGEST_LABEL, require_files
from ctxtune.data.official_counts import DataWarning
from ctxtune.data.shard_sources import BoxSource
from ctxtune.data.sources import FolderSource
from ctxtune.data.split import Benchmark, ImageSource, Integers, Split, make_split
from ctxtune.data.splitting import images_held_out
from ctxtune.errors import DataError
from ctxtune.text import counted, shortened
from ctxtune.yaml_text import YamlError, check_plain_text

if TYPE_CHECKING:
    from ctxtune.data.layouts.table_files import ImageRows

NAME = "table"
SPLITS = ("train", "test", "query", "gallery")
BOX = ("x1", "y1", "x2", "y2")
TRUTH = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}


@dataclass(frozen=True)
class SplitRule:
    """How a table without a split column is split: by class, or by image of each class where `closed_set`.

    Attributes:
        test_fraction: of the classes (of each class's images), for test.
        seed: which they are.
    """

    test_fraction: float
    seed: int
    closed_set: bool


def load_table(
    root: Path | None,
    file: str | Mapping[str, str] | None,
    columns: Mapping[str, str] | None,
    rule: SplitRule,
    recall_at: tuple[int, ...],
) -> Benchmark:
    """A table as a benchmark.

    Args:
        root: the folder from which `file` and the paths in it count; None: `file` counts from the working directory, the
            paths from the folder of the (first) file.
        file: a path, a pattern for shards, or one of these for each of train, test (or query and gallery).
        columns: our name of a column to the file's.
        rule: for tables without a split column.

    Raises:
        DataError: with file and row, for whatever is not as it should be.
    """
    from ctxtune.data.layouts.table_files import read_rows_of

    if not file:
        raise DataError("table: dataset.file is missing: name a .csv, .parquet or .tar file")
    found = _files(file, root or Path())
    files = [place for places in found.values() for place in places]
    images = root or files[0].parent
    rows = read_rows_of(files, columns or {}, images)
    _warn_of_ignored(rows)
    source, identifiers = images_of_rows(rows, images)
    labels, class_names = class_numbers(rows, "label")
    supers = class_numbers(rows, "super_label")[0] if "super_label" in rows.columns else None
    members = _members(rows, _splits(rows, file, found, labels, rule))

    def split(name: str) -> Split | None:
        chosen = members.get(name)
        if chosen is None:
            return None
        return make_split(
            f"{NAME}/{name}",
            source,
            [identifiers[row] for row in chosen],
            labels[chosen],
            None if supers is None else supers[chosen],
            {int(label): class_names[int(label)] for label in np.unique(labels[chosen])},
        )

    train = split("train")
    assert train is not None
    return Benchmark(NAME, train, split("test"), split("query"), split("gallery"), recall_at, _layout(rows, file, rule))


def _warn_of_ignored(rows: ImageRows) -> None:
    if rows.ignored:
        warnings.warn(
            f"{rows.files[0]}: columns not used: {shortened(', '.join(rows.ignored), 300)} (dataset.columns maps names)",
            DataWarning,
            stacklevel=3,
        )


def _files(file: str | Mapping[str, str], base: Path) -> dict[str, list[Path]]:
    """The files of each split; of "" where one name is given for all."""
    from ctxtune.data.layouts.table_files import table_files

    named = {"": file} if isinstance(file, str) else file
    found = {split: list(table_files(pattern, base)) for split, pattern in named.items()}
    files = [place for places in found.values() for place in places]
    if len(set(files)) < len(files):
        raise DataError(f"table: dataset.file: {next(each for each in files if files.count(each) > 1)} is named twice")
    if len({place.suffix.lower() for place in files}) > 1:
        raise DataError(
            f"table: dataset.file: expected all files of one kind, found {files[0].name} and {files[-1].name}"
        )
    return found


def _layout(rows: ImageRows, file: str | Mapping[str, str], rule: SplitRule) -> str:
    files = rows.files[0].name if len(rows.files) == 1 else f"{len(rows.files)} files {rows.files[0].name} ..."
    used = ", ".join([*(["images"] if rows.source else []), *rows.columns])
    made = ""
    if isinstance(file, str) and "split" not in rows.columns:
        what = "images of each class" if rule.closed_set else "classes"
        made = f"; {rule.test_fraction:.0%} of the {what} for test, by seed {rule.seed}"
    not_used = f"; columns not used: {', '.join(rows.ignored)}" if rows.ignored else ""
    return f"{files}, columns {used}{made}{not_used}"


# ---- images


def images_of_rows(rows: ImageRows, root: Path) -> tuple[ImageSource, Sequence[str]]:
    """Where the images of a table are, and what each row's is called there. Raises DataError."""
    source: ImageSource
    if rows.source is not None:
        source, identifiers = rows.source, list(rows.identifiers)
    else:
        identifiers = [_relative(rows, row, value, root) for row, value in enumerate(_texts(rows, "path"))]
        require_files(root, identifiers, rows.place)
        source = FolderSource(root)
    boxes = [name for name in BOX if name in rows.columns]
    if not boxes:
        return source, identifiers
    if len(boxes) < len(BOX):
        lacking = ", ".join(name for name in BOX if name not in boxes)
        raise DataError(f"{rows.files[0]}: a box has the columns {', '.join(BOX)}; {lacking} missing")
    cells = zip(*(rows.columns[name] for name in BOX), strict=True)
    return BoxSource(source), [f"{identifiers[row]}#{_box(rows, row, box)}" for row, box in enumerate(cells)]


def _relative(rows: ImageRows, row: int, text: str, root: Path) -> str:
    """A path relative to the root. Raises DataError where it leads out of it."""
    path = text if "/" in text else text.replace("\\", "/")  # written on Windows
    if "://" in path:
        raise DataError(f"{rows.place(row)}: {shortened(path, 200)} is an address; images are read from files")
    pure = PurePosixPath(path)
    if pure.is_absolute():
        pure = pure.relative_to(root.absolute().as_posix()) if pure.is_relative_to(root.absolute().as_posix()) else pure
    if pure.is_absolute() or ".." in pure.parts:
        raise DataError(
            f"{rows.place(row)}: the path {shortened(path, 200)} leads out of {root.absolute()}; name a folder that holds all "
            "images: --set trial.dataset.root=DIR"
        )
    return pure.as_posix()


def _box(rows: ImageRows, row: int, cells: Sequence[Any]) -> str:
    """`x1,y1,x2,y2` in whole pixels, the widest that the numbers touch; "" for an image without a box."""
    if all(cell is None for cell in cells):
        return ""
    try:
        numbers = [float(cell) for cell in cells]
        if all(math.isnan(number) for number in numbers):
            return ""
        left, upper = map(math.floor, numbers[:2])
        right, lower = map(math.ceil, numbers[2:])
    except (TypeError, ValueError, OverflowError):
        raise DataError(
            f"{rows.place(row)}: a box is four numbers x1, y1, x2, y2; found {shortened(str(list(cells)))}"
        ) from None
    if not (0 <= left < right <= 1_000_000 and 0 <= upper < lower <= 1_000_000):
        raise DataError(f"{rows.place(row)}: a box needs 0 <= x1 < x2 and 0 <= y1 < y2, in pixels; found {numbers}")
    return f"{left},{upper},{right},{lower}"


# ---- labels


def _texts(rows: ImageRows, name: str) -> list[str]:
    """A column of text without gaps. Raises DataError."""
    values = rows.columns[name]
    missing = [row for row, value in enumerate(values) if value is None or value == ""]
    if missing:
        raise _lacking(rows, name, missing)
    wrong = next((row for row, value in enumerate(values) if not isinstance(value, str)), None)
    if wrong is not None:
        raise DataError(f"{rows.place(wrong)}: {name} must be text; the column is of type {rows.types[name]}")
    return [str(value) for value in values]


def _lacking(rows: ImageRows, name: str, missing: Sequence[int]) -> DataError:
    more = f"; {len(missing)} of {counted(rows.count, 'row')} have none" if len(missing) > 1 else ""
    return DataError(f"{rows.place(missing[0])}: there is no {name}{more}")


def class_numbers(rows: ImageRows, name: str) -> tuple[Integers, dict[int, str]]:
    """The numbers of the classes, and their names.

    Whole numbers are taken as they are; text is numbered in sorted order. Raises DataError.
    """
    values = list(rows.columns[name])
    missing = [row for row, value in enumerate(values) if value is None or value == "" or value != value]  # NaN
    if missing:
        raise _lacking(rows, name, missing)
    whole = [_whole(value) for value in values]
    if all(number is not None for number in whole):
        labels = np.array(whole, dtype=np.int64)
        known = (rows.class_names or ()) if name == "label" else ()
        return labels, {
            int(label): known[label] if 0 <= label < len(known) else str(label) for label in np.unique(labels)
        }
    wrong = next((row for row, value in enumerate(values) if not isinstance(value, (str, bool, int))), None)
    if wrong is not None:
        raise DataError(
            f"{rows.place(wrong)}: {name} must be text or whole numbers; found {shortened(str(values[wrong]))} in a column of "
            f"type {rows.types[name]}"
        )
    texts = [str(value) for value in values]
    _check_names(rows, name, texts)
    names = sorted(set(texts))
    number = {text: index for index, text in enumerate(names)}
    return np.array([number[text] for text in texts], dtype=np.int64), dict(enumerate(names))


def _check_names(rows: ImageRows, name: str, texts: Sequence[str]) -> None:
    """Refuse what no later step can show: control characters, texts without an end. Raises DataError."""
    for row, text in enumerate(texts):
        try:
            check_plain_text(text)
        except YamlError as error:
            raise DataError(f"{rows.place(row)}: {name}: {error.reason}") from None


def _whole(value: object) -> int | None:
    """A whole number, also as pandas (3.0) and text files ("3") write it; None for anything else, "007" among it."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and len(value) < 20 and value.isascii() and value.removeprefix("-").isdecimal():
        value = int(value) if str(int(value)) == value else value
    return value if isinstance(value, int) and abs(value) <= LARGEST_LABEL else None


# ---- splits


def _splits(
    rows: ImageRows,
    file: str | Mapping[str, str],
    found: Mapping[str, Sequence[Path]],
    labels: Integers,
    rule: SplitRule,
) -> np.ndarray:
    """The split of each row: its file's, its own, or one made by rule."""
    if not isinstance(file, str):
        return _split_of_files(rows, found)
    return _split_column(rows) if "split" in rows.columns else _made_split(labels, rule)


def _split_column(rows: ImageRows) -> np.ndarray:
    """The split of each row, by the column; "validation" is another word for test. Raises DataError."""
    texts = [text.strip().lower() for text in _texts(rows, "split")]
    if "test" not in texts:
        texts = ["test" if text in ("validation", "val", "valid") else text for text in texts]
    strange = [row for row, text in enumerate(texts) if text not in SPLITS]
    if strange:
        counts = ", ".join(f"{shortened(text, 40)} ({count:,})" for text, count in Counter(texts).most_common(10))
        raise DataError(
            f"{rows.place(strange[0])}: split {shortened(texts[strange[0]])!r}: expected train, and test or query and gallery; "
            f"found {counts}. Validation classes are taken from those of train: call them so"
        )
    return np.array(texts)


def _split_of_files(rows: ImageRows, found: Mapping[str, Sequence[Path]]) -> np.ndarray:
    if unknown := sorted(set(found) - set(SPLITS)):
        raise DataError(f"table: dataset.file: there is no split {unknown[0]!r}; splits are {', '.join(SPLITS)}")
    split_of = {place: split for split, places in found.items() for place in places}
    ends = [*rows.starts[1:], rows.count]
    each = [
        np.full(end - start, split_of[place], dtype="<U7")
        for place, start, end in zip(rows.files, rows.starts, ends, strict=True)
    ]
    return np.concatenate(each)


def _made_split(labels: Integers, rule: SplitRule) -> np.ndarray:
    """Classes, or images of each class, drawn for test. Raises DataError where there are too few."""
    rng = np.random.default_rng((rule.seed, 4))
    classes = np.unique(labels)
    splits = np.full(len(labels), "train", dtype="<U7")
    if not rule.closed_set:
        if len(classes) < 4:
            raise DataError(f"table: {len(classes)} classes are too few: train and test need two of their own each")
        count = min(max(2, round(rule.test_fraction * len(classes))), len(classes) - 2)
        splits[np.isin(labels, rng.permutation(classes)[:count])] = "test"
        return splits
    for label in classes:
        members = rng.permutation(np.flatnonzero(labels == label))
        splits[members[: images_held_out(len(members), rule.test_fraction)]] = "test"
    return splits


def _truths(rows: ImageRows, name: str) -> np.ndarray:
    values = rows.columns.get(name)
    if values is None:
        return np.zeros(rows.count, dtype=bool)
    found = [TRUTH.get(str(value).strip().lower()) for value in values]
    for row, (truth, value) in enumerate(zip(found, values, strict=True)):
        empty = value is None or value != value or value == ""
        if truth is None and not empty:
            raise DataError(f"{rows.place(row)}: {name} must be true or false; found {shortened(str(value))!r}")
    return np.array([bool(truth) for truth in found])


def _members(rows: ImageRows, splits: np.ndarray) -> dict[str, Integers]:
    """Split to its rows. Raises DataError where one lacks."""
    members = {name: np.flatnonzero(splits == name) for name in SPLITS}
    marked = [name for name in ("is_query", "is_gallery") if name in rows.columns]
    if marked and len(members["test"]):
        query, gallery = (_truths(rows, name)[members["test"]] for name in ("is_query", "is_gallery"))
        if len(marked) == 1:  # the other is all the rest
            query, gallery = (query, ~query) if marked == ["is_query"] else (~gallery, gallery)
        if both := members["test"][query & gallery].tolist():
            if not (query & gallery).all():
                raise DataError(
                    f"{rows.place(both[0])}: {counted(len(both), 'image')} with is_query and is_gallery: each would find "
                    "itself; say false for one of them, or leave both columns out to search the test images among each other"
                )
        else:
            members["query"] = np.union1d(members["query"], members["test"][query])
            members["gallery"] = np.union1d(members["gallery"], members["test"][gallery])
            members["test"] = members["test"][:0]
    members = {name: found for name, found in members.items() if len(found)}
    if "train" not in members or not ("test" in members or {"query", "gallery"} <= set(members)):
        raise DataError(
            f"table: {rows.files[0]}: splits found: {', '.join(members) or 'none'}; needed: train, and test or query and "
            "gallery"
        )
    if "test" in members and {"query", "gallery"} & set(members):
        raise DataError(f"table: {rows.files[0]}: splits found: {', '.join(members)}; take test, or query and gallery")
    return members
