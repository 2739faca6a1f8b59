"""CUB-200-2011: class ids 1-100 are for training; the classification split is left alone."""

from __future__ import annotations

import re
from pathlib import Path

from ctxtune.data.layouts.finding import first_folder, not_found, read_rows, require_files, whole_number
from ctxtune.data.layouts.folders import images_by_class
from ctxtune.data.layouts.hub_parquet import hub_parquet
from ctxtune.data.sources import FolderSource, is_image_name
from ctxtune.data.split import Benchmark, Split, make_split
from ctxtune.errors import DataError

TRAIN_CLASSES = 100
LAYOUTS = (
    "CUB_200_2011/ with images/001.Name/*.jpg, images.txt and image_class_labels.txt "
    "(the root is that folder or its parent)",
    "images/001.Name/*.jpg without the lists",
    "a copy from the Hugging Face hub: *.parquet (at the root or in data/) with the images and a label column",
)


def load_cub200(root: Path) -> Benchmark:
    """CUB-200-2011. Raises DataError where it is not found or a list is not as it should be."""
    candidates = (root, root / "CUB_200_2011")
    base = first_folder(candidates, "images", "images.txt", "image_class_labels.txt")
    if base is not None:
        rows, layout = _from_lists(base), "CUB_200_2011/ with its lists"
    else:
        base = first_folder(candidates, "images")
        if base is None:
            return _hub_copy(root)
        rows, layout = _from_folders(base), "images/ without the lists"
    source = FolderSource(base)

    def split(name: str, test: bool) -> Split:
        chosen = sorted((row for row in rows if (row[1] > TRAIN_CLASSES) is test), key=lambda row: (row[1], row[0]))
        if not chosen:
            raise DataError(f"cub200: {base.absolute()} has no images for the {name} side")
        names = {label: path.split("/")[-2] for path, label in chosen}
        paths, labels = [path for path, _ in chosen], [label for _, label in chosen]
        return make_split(f"cub200/{name}", source, paths, labels, None, names)

    return Benchmark("cub200", split("train", False), split("test", True), None, None, (1, 2, 4, 8), layout)


def _hub_copy(root: Path) -> Benchmark:
    found = hub_parquet("cub200", root, classes=200, train_classes=TRAIN_CLASSES)
    if found is None:
        raise not_found("cub200", root, LAYOUTS)
    return found


def _from_lists(base: Path) -> list[tuple[str, int]]:
    labels_file, images_file = base / "image_class_labels.txt", base / "images.txt"
    label_of: dict[int, int] = {}
    for line, (image, label) in read_rows(labels_file, ("image_id", "class_id")):
        label_of[whole_number(image, "image_id", labels_file, line)] = whole_number(
            label, "class_id", labels_file, line
        )
    rows, lines = [], []
    for line, (image, path) in read_rows(images_file, ("image_id", "path")):
        number = whole_number(image, "image_id", images_file, line)
        if number not in label_of:
            raise DataError(f"{images_file}, line {line}: image {number} has no class in {labels_file.name}")
        if is_image_name(path):
            rows.append((f"images/{path}", label_of[number]))
            lines.append(line)
    require_files(base, [path for path, _ in rows], lambda position: f"{images_file}, line {lines[position]}")
    return rows


def _from_folders(base: Path) -> list[tuple[str, int]]:
    rows = []
    for name, paths in images_by_class(base, "images").items():
        number, _, rest = name.partition(".")
        if not re.fullmatch(r"\d{1,18}", number, re.ASCII) or not rest:
            raise DataError(f"{base / 'images' / name}: expected a folder name such as 001.Black_footed_Albatross")
        rows += [(path, int(number)) for path in paths]
    return rows
