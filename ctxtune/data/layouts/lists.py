"""Image lists, the form in which the authors ship their splits, and Stanford Online Products, which has it too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ctxtune.data.layouts.finding import first_folder, not_found, read_rows, require_files, whole_number
from ctxtune.data.sources import FolderSource
from ctxtune.data.split import Benchmark, Split, make_split
from ctxtune.errors import ConfigError, DataError

COLUMNS = ("image_id", "class_id", "super_class_id", "path")
SPLITS = ("train", "test", "query", "gallery")
LAYOUTS = (
    "one list per split, train.txt and test.txt (or train.txt, query.txt and gallery.txt), each with the header "
    f"{' '.join(COLUMNS)!r} and single spaces; paths relative to the root",
    "the same under other names: --set trial.dataset.lists={train: FILE, test: FILE}",
)
SOP_LAYOUTS = (
    "Stanford_Online_Products/ with Ebay_train.txt, Ebay_test.txt and the folders SUPER_final/ with images "
    "(the root is that folder or its parent)",
)


@dataclass(frozen=True)
class _Rows:
    """The lines of one list: their numbers, and their cells as written."""

    file: Path
    lines: list[int]
    labels: list[str]
    supers: list[str]
    paths: list[str]


def read_lists(name: str, root: Path, files: Mapping[str, Path]) -> dict[str, Split]:
    """The splits of a data set from a list for each.

    Classes and super-classes are whole numbers, or text throughout, which is numbered in sorted order over all lists.
    Raises DataError with file and line for anything that is not as it should be.
    """
    lists = {split: _read(file) for split, file in files.items()}
    labels, class_names = _numbered([(rows, rows.labels) for rows in lists.values()], "class_id")
    supers, _ = _numbered([(rows, rows.supers) for rows in lists.values()], "super_class_id")
    splits = {}
    for (split, rows), own, own_supers in zip(lists.items(), labels, supers, strict=True):
        file, lines = rows.file, rows.lines

        def where(position: int, file: Path = file, lines: list[int] = lines) -> str:
            return f"{file}, line {lines[position]}"

        require_files(root, rows.paths, where)
        named = {label: class_names[label] for label in set(own)} if class_names else _folder_names(rows.paths, own)
        splits[split] = make_split(f"{name}/{split}", FolderSource(root), rows.paths, own, own_supers, named)
    return splits


def _folder_names(paths: Sequence[str], labels: Sequence[int]) -> dict[int, str]:
    """A class with a number for a name is called as the folder of its images, where no other class has one of that name."""
    folders: dict[int, set[str]] = {}
    for path, label in zip(paths, labels, strict=True):
        folders.setdefault(label, set()).add(PurePosixPath(path).parent.name)
    classes = Counter(name for names in folders.values() for name in names)
    alone = {label: next(iter(names)) for label, names in folders.items() if len(names) == 1}
    return {label: name for label, name in alone.items() if name and classes[name] == 1}


def _read(file: Path) -> _Rows:
    rows = _Rows(file, [], [], [], [])
    for line, (image, label, super_label, path) in read_rows(file, COLUMNS, header=True):
        whole_number(image, "image_id", file, line)
        rows.lines.append(line)
        rows.labels.append(label)
        rows.supers.append(super_label)
        rows.paths.append(path if "/" in path else path.replace("\\", "/"))  # lists that were written on Windows
    if not rows.paths:
        raise DataError(f"{file}: no images in it")
    return rows


def _numbered(columns: list[tuple[_Rows, list[str]]], what: str) -> tuple[list[list[int]], dict[int, str]]:
    """The numbers of each list's cells; and the names where they are text. Raises DataError where some are numbers."""
    texts = sorted({text for _, cells in columns for text in cells})
    if not any(text.lstrip("-")[:1].isdigit() for text in texts):
        number = {text: index for index, text in enumerate(texts)}
        return [[number[text] for text in cells] for _, cells in columns], dict(enumerate(texts))
    numbers = [
        [whole_number(text, what, rows.file, line) for line, text in zip(rows.lines, cells, strict=True)]
        for rows, cells in columns
    ]
    return numbers, {}


def load_image_lists(
    name: str, root: Path, lists: Mapping[str, str] | None = None, recall_at: tuple[int, ...] = (1, 2, 4, 8)
) -> Benchmark:
    """A data set as image lists, one per split; `lists` maps split names to files (relative to `root` or absolute)."""
    if lists is None:
        lists = {split: f"{split}.txt" for split in SPLITS if (root / f"{split}.txt").is_file()}
    if unknown := sorted(set(lists) - set(SPLITS)):
        raise ConfigError(f"dataset.lists: there is no split {unknown[0]!r}; splits are {', '.join(SPLITS)}")
    if "train" not in lists or not ("test" in lists or {"query", "gallery"} <= set(lists)):
        named = ", ".join(lists) or "none"
        raise not_found(name, root, LAYOUTS, f"lists found: {named}; needed: train, and test or query and gallery")
    splits = read_lists(name, root, {split: root / file for split, file in lists.items()})
    return Benchmark(
        name, splits["train"], splits.get("test"), splits.get("query"), splits.get("gallery"), recall_at, "image lists"
    )


def load_sop(root: Path) -> Benchmark:
    """Stanford Online Products: 12 super-classes, Recall@1, 10, 100, 1000."""
    base = first_folder((root, root / "Stanford_Online_Products"), "Ebay_train.txt", "Ebay_test.txt")
    if base is None:
        raise not_found("sop", root, SOP_LAYOUTS)
    splits = read_lists("sop", base, {split: base / f"Ebay_{split}.txt" for split in ("train", "test")})
    return Benchmark(
        "sop", splits["train"], splits["test"], None, None, (1, 10, 100, 1000), "Ebay_train.txt and Ebay_test.txt"
    )
