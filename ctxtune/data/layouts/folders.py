"""Plain class folders: `CLASS/*.jpg`, in `train/` and `test/` (or `query/` and `gallery/`), or all in one place."""

from __future__ import annotations

import os
from pathlib import Path

from ctxtune.data.layouts.finding import not_found, subfolders
from ctxtune.data.sources import FolderSource, is_image_name
from ctxtune.data.split import Benchmark, Split, make_part
from ctxtune.errors import DataError

NAME = "class_folders"
LAYOUTS = (
    "train/CLASS/*.jpg and test/CLASS/*.jpg, with no class in both",
    "train/CLASS/*.jpg, query/CLASS/*.jpg and gallery/CLASS/*.jpg",
    "CLASS/*.jpg; the first train_classes classes in sorted order are for training (default: half of them)",
)


def images_by_class(root: Path, folder: str) -> dict[str, list[str]]:
    """Class name to sorted image paths relative to `root`, for the class folders in `root/folder`.

    Raises DataError for a class folder without an image.
    """
    found: dict[str, list[str]] = {}
    prefix = f"{folder}/" if folder else ""
    for name in subfolders(root / folder):
        place = root / folder / name
        images = sorted(entry.name for entry in os.scandir(place) if is_image_name(entry.name))
        if not images:
            raise DataError(f"{place.absolute()}: a class folder without an image; fill it or take it away")
        found[name] = [f"{prefix}{name}/{image}" for image in images]
    return found


def load_class_folders(
    root: Path, train_classes: int | None = None, recall_at: tuple[int, ...] = (1, 2, 4, 8)
) -> Benchmark:
    """A data set of one's own as folders. Labels number the class names over all parts, in sorted order.

    Raises DataError where there are no class folders, or too few classes.
    """
    if not root.is_dir():
        raise not_found(NAME, root, LAYOUTS)
    names = subfolders(root)
    if "train" in names:
        parts = {part: images_by_class(root, part) for part in ("train", "test", "query", "gallery") if part in names}
        if not ("test" in parts or {"query", "gallery"} <= set(parts)):
            raise not_found(NAME, root, LAYOUTS, "train/ without test/ or query/ and gallery/")
        layout = " and ".join(f"{part}/" for part in parts) + " with class folders"
    else:
        found = images_by_class(root, "")
        count = train_classes if train_classes is not None else len(found) // 2
        if len(found) < 2 or not 0 < count < len(found):
            raise not_found(NAME, root, LAYOUTS, f"{len(found)} class folders, {count} of them for training")
        ordered = sorted(found)
        parts = {
            "train": {name: found[name] for name in ordered[:count]},
            "test": {name: found[name] for name in ordered[count:]},
        }
        layout = f"class folders, the first {count} of {len(found)} for training"
    label_of = {name: label for label, name in enumerate(sorted({name for part in parts.values() for name in part}))}
    source = FolderSource(root)

    def make(part: str) -> Split | None:
        if part not in parts:
            return None
        rows = [(label_of[name], path) for name, paths in parts[part].items() for path in paths]
        names_of = {label_of[name]: name for name in parts[part]}
        return make_part(
            f"{NAME}/{part}", source, [path for _, path in rows], [label for label, _ in rows], None, names_of
        )

    train = make("train")
    assert train is not None
    return Benchmark(NAME, train, make("test"), make("query"), make("gallery"), recall_at, layout)
