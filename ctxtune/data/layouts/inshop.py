"""In-Shop clothes retrieval: train, query and gallery by the official list."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ctxtune.data.layouts.finding import first_folder, not_found, read_lines, require_files
from ctxtune.data.sources import FolderSource
from ctxtune.data.split import Benchmark, Split, make_split
from ctxtune.errors import DataError
from ctxtune.text import shortened

LIST = "list_eval_partition.txt"
COLUMNS = ["image_name", "item_id", "evaluation_status"]
LAYOUTS = (f"{LIST} (in Eval/, Anno/ or at the root) and the images under img/ or Img/img/",)
SPLITS = ("train", "query", "gallery")


def load_inshop(root: Path) -> Benchmark:
    """In-Shop, with `query` and `gallery`. The super-class is the garment's folder (WOMEN/Dresses).

    Raises DataError where it is not found, or with file and line where the list is not as it should be.
    """
    found = next((place for place in (root / "Eval", root, root / "Anno") if (place / LIST).is_file()), None)
    base = first_folder((root, root / "Img", root / "img"), "img")
    if found is None or base is None:
        lacking = LIST if found is None else "img/"
        raise not_found("inshop", root, LAYOUTS, f"{lacking} is missing" if root.exists() else "")
    rows = _read(found / LIST)
    require_files(base, [row[1] for row in rows], lambda position: f"{found / LIST}, line {rows[position][0]}")
    groups = sorted({_group(row[1]) for row in rows})
    # Once per item, by its first image: a class must not straddle super-classes.
    group_of: dict[int, int] = {}
    for _, path, label, _ in rows:
        group_of.setdefault(label, groups.index(_group(path)))
    source = FolderSource(base)

    def split(name: str) -> Split:
        chosen = [row for row in rows if row[3] == name]
        if not chosen:
            raise DataError(f"{found / LIST}: no image has the status {name!r}")
        labels = [row[2] for row in chosen]
        names = {label: f"{groups[group_of[label]]}/id_{label:08d}" for label in labels}
        supers = np.array([group_of[label] for label in labels])
        return make_split(f"inshop/{name}", source, [row[1] for row in chosen], labels, supers, names)

    return Benchmark("inshop", split("train"), None, split("query"), split("gallery"), (1, 10, 20, 30, 40, 50), LIST)


def _group(path: str) -> str:
    """`WOMEN/Dresses` of `img/WOMEN/Dresses/id_00000002/02_1_front.jpg`."""
    return "/".join(path.split("/")[1:-2]) or "all"


def _read(file: Path) -> list[tuple[int, str, int, str]]:
    """(line, path, item, status) of each image; the count in the first line is checked."""
    lines = read_lines(file)
    if len(lines) < 2 or not re.fullmatch(r"\d{1,12}", lines[0].strip(), re.ASCII):
        raise DataError(
            f"{file}, line 1: expected the number of images, found {shortened(lines[0] if lines else '')!r}"
        )
    if lines[1].split() != COLUMNS:
        raise DataError(f"{file}, line 2: expected the header {' '.join(COLUMNS)!r}, found {lines[1]!r}")
    rows = []
    for number, line in enumerate(lines[2:], start=3):
        if not line.strip():
            continue
        cells = line.split()
        if len(cells) != 3:
            raise DataError(f"{file}, line {number}: expected 3 columns ({' '.join(COLUMNS)}), found {line!r}")
        item = re.fullmatch(r"id_(\d{1,18})", cells[1], re.ASCII)
        if item is None:
            raise DataError(f"{file}, line {number}: item_id must look like id_00000001, found {cells[1]!r}")
        if cells[2] not in SPLITS:
            raise DataError(f"{file}, line {number}: status must be {', '.join(SPLITS)}, found {cells[2]!r}")
        rows.append((number, cells[0], int(item.group(1)), cells[2]))
    if len(rows) != int(lines[0]):
        raise DataError(f"{file}, line 1: says {lines[0].strip()} images, but {len(rows)} are listed")
    return rows
