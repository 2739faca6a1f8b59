"""Small data sets on disk in the layouts that the official ones have, for tests of any room."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

SHARED = Path(__file__).resolve().parents[2] / "shared"
OMNIGLOT_ZIP = SHARED / "data" / "omniglot" / "omniglot-small.zip"


def write_image(path: Path, seed: int, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> None:
    """A real image file (by suffix) of (width, height) `size`: smooth random colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode)
    image.save(path, **({"quality": 90} if path.suffix.lower() in (".jpg", ".jpeg") else {}))


def omniglot_folders(root: Path, alphabets: tuple[str, ...], characters: int = 3, images: int = 4) -> None:
    """`root/Alphabet/characterNN/*.png`."""
    for place, alphabet in enumerate(alphabets):
        for character in range(1, characters + 1):
            for image in range(images):
                path = root / alphabet / f"character{character:02d}" / f"{place:04d}_{image:02d}.png"
                write_image(path, place * 1000 + character * 10 + image, (105, 105), "1")


def zipped(folder: Path, archive: Path) -> Path:
    """All files under `folder`, in `archive`, by their paths relative to it."""
    with zipfile.ZipFile(archive, "w") as opened:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                opened.write(path, path.relative_to(folder).as_posix())
    return archive
