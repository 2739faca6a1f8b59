"""Omniglot: handwritten characters, `Alphabet/characterNN/*.png`, in a folder, a zip, or torchvision's download."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ctxtune.data.layouts.finding import not_found
from ctxtune.data.sources import BROKEN_ZIP, FolderSource, ScaledSource, ZipSource, is_image_name
from ctxtune.data.split import Benchmark, Split, make_split
from ctxtune.errors import DataError

TRAIN_ALPHABETS = ("Balinese", "Early_Aramaic", "Greek", "Korean")
TEST_ALPHABETS = ("Japanese_(katakana)", "Latin", "Sanskrit", "Tagalog")
LAYOUTS = (
    "a zip archive (or a folder with one *.zip) with Alphabet/characterNN/*.png",
    "a folder with Alphabet/characterNN/*.png",
    "torchvision's download: images_background/ and images_evaluation/ (also under omniglot-py/)",
)


def load_omniglot(root: Path, image_size: int = 32) -> Benchmark:
    """Omniglot split by alphabets: 110 train and 132 test characters, 20 images each.

    Only the alphabets of the two lists above are used, so that the full download and the small archive give the
    same data set. Super-classes are the alphabets. Raises DataError where no layout is found or an alphabet lacks.
    """
    source, found, layout = _find(root)
    files: dict[str, list[tuple[str, str]]] = {}
    for path in found:
        *_, alphabet, character, name = path.split("/")
        files.setdefault(alphabet, []).append((character, path)) if is_image_name(name) else None
    missing = [name for name in TRAIN_ALPHABETS + TEST_ALPHABETS if name not in files]
    if missing:
        raise DataError(
            f"omniglot: {layout} at {root} has the alphabets {', '.join(sorted(files)) or 'none'}; "
            f"missing: {', '.join(missing)}"
        )
    alphabets = sorted(TRAIN_ALPHABETS + TEST_ALPHABETS)
    scaled = ScaledSource(source, image_size, gray=True)
    # One numbering over both splits, so that a label means one character.
    characters = sorted({(name, character) for name in alphabets for character, _ in files[name]})
    label_of = {character: label for label, character in enumerate(characters)}

    def split(name: str, wanted: Sequence[str]) -> Split:
        rows = sorted((alphabet, *file) for alphabet in wanted for file in files[alphabet])
        labels = [label_of[alphabet, character] for alphabet, character, _ in rows]
        return make_split(
            f"omniglot/{name}",
            scaled,
            [path for _, _, path in rows],
            labels,
            np.array([alphabets.index(alphabet) for alphabet, _, _ in rows]),
            {label: "/".join(characters[label]) for label in sorted(set(labels))},
        )

    return Benchmark(
        "omniglot", split("train", TRAIN_ALPHABETS), split("test", TEST_ALPHABETS), None, None, (1, 2, 4, 8), layout
    )


def _find(root: Path) -> tuple[FolderSource | ZipSource, list[str], str]:
    """The source, all its file names in order, and the layout's name."""
    archive = root if root.is_file() else None
    if root.is_dir():
        for base in (root, root / "omniglot-py"):
            folders = [base / name for name in ("images_background", "images_evaluation")]
            if any(folder.is_dir() for folder in folders):
                return FolderSource(base), _tree(base, [f for f in folders if f.is_dir()]), "torchvision's download"
        if any((root / name).is_dir() for name in TRAIN_ALPHABETS + TEST_ALPHABETS):
            return FolderSource(root), _tree(root, [root]), "folders"
        archives = sorted(root.glob("*.zip"))
        archive = archives[0] if len(archives) == 1 else None
    if archive is not None and zipfile.is_zipfile(archive):
        try:
            with zipfile.ZipFile(archive) as opened:
                names = sorted(name for name in opened.namelist() if name.count("/") >= 2)
        except BROKEN_ZIP as error:
            raise DataError(f"{archive}: not a zip archive that can be read ({error})") from error
        return ZipSource(archive), names, "zip archive"
    raise not_found("omniglot", root, LAYOUTS)


def _tree(base: Path, folders: list[Path]) -> list[str]:
    return sorted(path.relative_to(base).as_posix() for folder in folders for path in folder.glob("*/*/*.png"))
