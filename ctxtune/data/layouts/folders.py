"""Plain class folders: `CLASS/*.jpg`, in `train/` and `test/` (or `query/` and `gallery/`), or all in one place."""

from __future__ import annotations

import os
from pathlib import Path

from ctxtune.data.layouts.finding import not_found, subfolders
from ctxtune.data.sources import IMAGE_SUFFIXES, FolderSource, is_image_name
from ctxtune.data.split import Benchmark, Split, make_split
from ctxtune.errors import DataError
from ctxtune.text import counted

NAME = "class_folders"
SPLITS = ("train", "test", "query", "gallery")
LAYOUTS = (
    "train/CLASS/*.jpg and test/CLASS/*.jpg, with no class in both",
    "train/CLASS/*.jpg, query/CLASS/*.jpg and gallery/CLASS/*.jpg",
    "CLASS/*.jpg; the first train_classes classes in sorted order are for training (default: half of them)",
)


def images_by_class(root: Path, folder: str) -> dict[str, list[str]]:
    """Class name to sorted image paths relative to `root`, for the class folders in `root/folder`.

    Raises DataError for a class folder without an image, and where there is no class folder at all.
    """
    found: dict[str, list[str]] = {}
    prefix = f"{folder}/" if folder else ""
    names = subfolders(root / folder)
    if not names and folder:
        count = sum(is_image_name(entry.name) for entry in os.scandir(root / folder))
        found_there = f"{counted(count, 'image')} but no class folder" if count else "no class folder"
        raise DataError(
            f"{(root / folder).absolute()}: there is {found_there} in it; "
            f"expected is a folder for each class: {folder}/CLASS/*.jpg"
        )
    for name in names:
        place = root / folder / name
        images = sorted(entry.name for entry in os.scandir(place) if is_image_name(entry.name))
        if not images:
            there = sorted(entry.name for entry in os.scandir(place))
            others = f" (there are {', '.join(there[:3])}{', ...' if len(there) > 3 else ''})" if there else ""
            inside = subfolders(place) and not folder
            remedy = (
                "where it holds the data set, name it as the root; where it is a part, call it train, test, query or gallery"
                if inside
                else f"fill it or take it away. Images are {', '.join(sorted(IMAGE_SUFFIXES))}"
            )
            raise DataError(f"{place.absolute()}: a class folder without an image{others}; {remedy}")
        found[name] = [f"{prefix}{name}/{image}" for image in images]
    return found


def _split_folders(root: Path) -> dict[str, str]:
    """The folder of each split that is there, however its name is capitalized.

    Raises DataError where a split has two.
    """
    found: dict[str, str] = {}
    for name in subfolders(root):
        if name.lower() not in SPLITS:
            continue
        if (other := found.setdefault(name.lower(), name)) != name:
            raise DataError(f"{root.absolute()}: both {other}/ and {name}/; which of them is it?")
    return {split: found[split] for split in SPLITS if split in found}


def load_class_folders(
    root: Path, train_classes: int | None = None, recall_at: tuple[int, ...] = (1, 2, 4, 8)
) -> Benchmark:
    """A data set of one's own as folders. Labels number the class names over all splits, in sorted order.

    Raises DataError where there are no class folders, or too few classes.
    """
    if not root.is_dir():
        raise not_found(NAME, root, LAYOUTS)
    folders = _split_folders(root)
    if "train" in folders:
        splits = {split: images_by_class(root, folder) for split, folder in folders.items()}
        if not ("test" in splits or {"query", "gallery"} <= set(splits)):
            raise not_found(NAME, root, LAYOUTS, "train/ without test/ or query/ and gallery/")
        layout = " and ".join(f"{folder}/" for folder in folders.values()) + " with class folders"
    else:
        found = images_by_class(root, "")
        count = train_classes if train_classes is not None else len(found) // 2
        if len(found) < 2 or not 0 < count < len(found):
            raise not_found(NAME, root, LAYOUTS, f"{len(found)} class folders, {count} of them for training")
        ordered = sorted(found)
        splits = {
            "train": {name: found[name] for name in ordered[:count]},
            "test": {name: found[name] for name in ordered[count:]},
        }
        layout = f"class folders, the first {count} of {len(found)} for training"
    label_of = {name: label for label, name in enumerate(sorted({name for split in splits.values() for name in split}))}
    source = FolderSource(root)

    def make(split: str) -> Split | None:
        if split not in splits:
            return None
        rows = [(label_of[name], path) for name, paths in splits[split].items() for path in paths]
        names_of = {label_of[name]: name for name in splits[split]}
        return make_split(
            f"{NAME}/{split}", source, [path for _, path in rows], [label for label, _ in rows], None, names_of
        )

    train = make("train")
    assert train is not None
    return Benchmark(NAME, train, make("test"), make("query"), make("gallery"), recall_at, layout)
