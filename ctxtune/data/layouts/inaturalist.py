"""iNaturalist 2018 (SmoothAP's split) and 2021 mini (a list that the user supplies)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ctxtune.data.layouts.finding import not_found, read_lines, read_rows, require_files, whole_number
from ctxtune.data.sources import FolderSource
from ctxtune.data.split import Benchmark, Split, make_split
from ctxtune.errors import DataError

LISTS_2018 = {"train": "Inaturalist_train_set1.txt", "test": "Inaturalist_test_set1.txt"}
LAYOUTS_2018 = (
    "train_val2018/SUPER/CATEGORY/*.jpg and SmoothAP's lists Inaturalist_train_set1.txt and "
    "Inaturalist_test_set1.txt, at the root or in train_val2018/",
)
LAYOUTS_2021 = (
    "train_mini/ID_TAXA/*.jpg and the lists train.csv and test.csv with lines path,super,label and no header "
    "(paths from the root or from train_mini/); other names: --set trial.dataset.lists={train: FILE, test: FILE}. "
    "The split of the paper cannot be regenerated: ask its authors for the lists",
)
RECALL_AT = (1, 4, 16, 32)


def load_inaturalist2018(root: Path) -> Benchmark:
    """iNaturalist 2018: the class is the folder SUPER/CATEGORY, the super-class its parent.

    Raises DataError where it is not found, or with file and line where a list names what is not there.
    """
    images = inner if (inner := root / "train_val2018").is_dir() else root
    places = (root, root / "train_val2018")
    files = {
        split: next((p / name for p in places if (p / name).is_file()), None) for split, name in LISTS_2018.items()
    }
    lacking = [LISTS_2018[split] for split, file in files.items() if file is None]
    if not images.is_dir() or lacking:
        raise not_found("inaturalist2018", root, LAYOUTS_2018, f"missing: {', '.join(lacking)}" if lacking else "")
    listed = {split: _read_2018(file) for split, file in files.items() if file is not None}
    classes = sorted({path.rsplit("/", 1)[0] for rows in listed.values() for _, path in rows})
    supers = sorted({name.split("/")[0] for name in classes})
    label_of = {name: label for label, name in enumerate(classes)}
    source = FolderSource(images)

    def split(name: str) -> Split:
        rows = listed[name]
        paths = [path for _, path in rows]
        require_files(images, paths, lambda position: f"{files[name]}, line {rows[position][0]}")
        labels = [label_of[path.rsplit("/", 1)[0]] for path in paths]
        super_labels = np.array([supers.index(path.split("/")[0]) for path in paths])
        names = {label: classes[label] for label in set(labels)}
        return make_split(f"inaturalist2018/{name}", source, paths, labels, super_labels, names)

    return Benchmark("inaturalist2018", split("train"), split("test"), None, None, RECALL_AT, "SmoothAP's lists")


def _read_2018(file: Path) -> list[tuple[int, str]]:
    """(line, SUPER/CATEGORY/NAME) of each image, whatever folders stand before."""
    rows = []
    for number, line in enumerate(read_lines(file), start=1):
        if not line.strip():
            continue
        parts = line.strip().split("/")
        if len(parts) < 3:
            raise DataError(f"{file}, line {number}: expected a path SUPER/CATEGORY/IMAGE, found {line!r}")
        rows.append((number, "/".join(parts[-3:])))
    if not rows:
        raise DataError(f"{file}: no images in it")
    return rows


def load_inaturalist2021_mini(root: Path, lists: Mapping[str, str] | None = None) -> Benchmark:
    """iNaturalist 2021 mini by lists `path,super,label`. Raises DataError as above."""
    files = dict(lists or {"train": "train.csv", "test": "test.csv"})
    lacking = [
        name for split in ("train", "test") if not (root / (name := files.get(split, f"{split} list"))).is_file()
    ]
    if lacking or not (root / "train_mini").is_dir():
        missing = ", ".join(lacking) or "train_mini/"
        raise not_found("inaturalist2021_mini", root, LAYOUTS_2021, f"missing: {missing}")
    rows = {
        split: list(read_rows(root / files[split], ("path", "super", "label"), separator=","))
        for split in ("train", "test")
    }
    supers = sorted({cells[1] for split in rows.values() for _, cells in split})
    index_of = {name: index for index, name in enumerate(supers)}
    source = FolderSource(root)

    def split(name: str) -> Split:
        file = root / files[name]
        if not rows[name]:
            raise DataError(f"{file}: no images in it")
        paths = [path if path.startswith("train_mini/") else f"train_mini/{path}" for _, (path, _, _) in rows[name]]
        labels = [whole_number(label, "label", file, line) for line, (_, _, label) in rows[name]]
        require_files(root, paths, lambda position: f"{file}, line {rows[name][position][0]}")
        names = {label: path.split("/")[-2] for path, label in zip(paths, labels, strict=True)}
        super_labels = np.array([index_of[cells[1]] for _, cells in rows[name]])
        return make_split(f"inaturalist2021_mini/{name}", source, paths, labels, super_labels, names)

    return Benchmark(
        "inaturalist2021_mini", split("train"), split("test"), None, None, RECALL_AT, "lists path,super,label"
    )
