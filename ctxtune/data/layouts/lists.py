"""Image lists, the form in which the authors ship their splits, and Stanford Online Products, which has it too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

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


def read_list(name: str, path: Path, root: Path) -> Split:
    """One split from a list. Raises DataError with file and line for anything that is not as it should be."""
    lines, labels, supers, paths = [], [], [], []
    for line, (image, label, super_label, file) in read_rows(path, COLUMNS, header=True):
        whole_number(image, "image_id", path, line)
        lines.append(line)
        labels.append(whole_number(label, "class_id", path, line))
        supers.append(whole_number(super_label, "super_class_id", path, line))
        paths.append(file if "/" in file else file.replace("\\", "/"))  # lists that were written on Windows
    if not paths:
        raise DataError(f"{path}: no images in it")
    require_files(root, paths, lambda position: f"{path}, line {lines[position]}")
    return make_split(name, FolderSource(root), paths, labels, supers)


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
    splits = {split: read_list(f"{name}/{split}", root / file, root) for split, file in lists.items()}
    return Benchmark(
        name, splits["train"], splits.get("test"), splits.get("query"), splits.get("gallery"), recall_at, "image lists"
    )


def load_sop(root: Path) -> Benchmark:
    """Stanford Online Products: 12 super-classes, Recall@1, 10, 100, 1000."""
    base = first_folder((root, root / "Stanford_Online_Products"), "Ebay_train.txt", "Ebay_test.txt")
    if base is None:
        raise not_found("sop", root, SOP_LAYOUTS)
    train, test = (read_list(f"sop/{split}", base / f"Ebay_{split}.txt", base) for split in ("train", "test"))
    return Benchmark("sop", train, test, None, None, (1, 10, 100, 1000), "Ebay_train.txt and Ebay_test.txt")
