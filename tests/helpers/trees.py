"""Small data sets on disk in the layouts that the official ones have, for tests of any room."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

SHARED = Path(__file__).resolve().parents[3] / "shared"
OMNIGLOT_ZIP = SHARED / "data" / "omniglot" / "omniglot-small.zip"


def write_image(path: Path, seed: int, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> None:
    """A real image file (by suffix) of (width, height) `size`: smooth random colors."""
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


def cub200(root: Path, classes: tuple[int, ...] = (1, 2, 100, 101, 102, 200), images: int = 3) -> Path:
    """`CUB_200_2011/` with its lists; a macOS resource fork lies among the images."""
    base = root / "CUB_200_2011"
    image_lines, label_lines, number = [], [], 0
    for label in classes:
        for image in range(images):
            number += 1
            path = f"{label:03d}.Bird_{label}/Bird_{label}_{image:04d}_{number}.jpg"
            write_image(base / "images" / path, label * 100 + image)
            image_lines.append(f"{number} {path}")
            label_lines.append(f"{number} {label}")
    (base / "images" / f"{classes[0]:03d}.Bird_{classes[0]}" / "._fork.jpg").write_bytes(b"\0\5\26\7")
    (base / "images.txt").write_text("\n".join(image_lines) + "\n")
    (base / "image_class_labels.txt").write_text("\n".join(label_lines) + "\n")
    (base / "train_test_split.txt").write_text("".join(f"{i + 1} {i % 2}\n" for i in range(number)))
    return base


def _annotations(rows: list[tuple[str, int]], name: str, *, with_test: bool) -> dict[str, np.ndarray]:
    fields = [("bbox_x1", "O"), ("class", "O"), (name, "O")] + ([("test", "O")] if with_test else [])
    array = np.empty((1, len(rows)), dtype=fields)
    for index, (path, label) in enumerate(rows):
        values = (np.uint8(1), np.uint8(label), path)
        array[0, index] = (*values, np.uint8(index % 2)) if with_test else values
    return {"annotations": array}


def cars196(root: Path, layout: str, classes: tuple[int, ...] = (1, 2, 98, 99, 100, 196), images: int = 4) -> Path:
    """One of the three layouts: `original`, `torchvision` or `folders`. Half of each class's images are "test"."""
    from scipy.io import savemat

    rows = [(label, image) for label in classes for image in range(images)]
    if layout == "original":
        named = [(f"car_ims/{number:06d}.jpg", label) for number, (label, _) in enumerate(rows, start=1)]
        for number, (path, _) in enumerate(named):
            write_image(root / path, number)
        names = np.array([f"Car {label}" for label in range(1, 197)], dtype=object)
        savemat(
            root / "cars_annos.mat", {**_annotations(named, "relative_im_path", with_test=True), "class_names": names}
        )
    elif layout == "torchvision":
        base = root / "stanford_cars"
        (base / "devkit").mkdir(parents=True)
        for half, file in enumerate(("devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat")):
            chosen = [(label, image) for label, image in rows if image % 2 == half]
            named = [(f"{number:05d}.jpg", label) for number, (label, _) in enumerate(chosen, start=1)]
            for number, (path, _) in enumerate(named):
                write_image(base / ("cars_train", "cars_test")[half] / path, half * 1000 + number)
            savemat(base / file, _annotations(named, "fname", with_test=False))
    else:
        for label, image in rows:
            half = ("train", "test")[image % 2]
            write_image(root / "car_data" / half / f"Car {label:03d}" / f"{image:05d}.jpg", label * 10 + image)
    return root


def write_list(root: Path, file: str, rows: list[tuple[int, int, str]], first: int = 1) -> None:
    """An image list of (class, super-class, path) with its images."""
    lines = ["image_id class_id super_class_id path"]
    for number, (label, super_label, path) in enumerate(rows, start=first):
        write_image(root / path, number)
        lines.append(f"{number} {label} {super_label} {path}")
    (root / file).write_text("\n".join(lines) + "\n")


def sop(root: Path, classes: int = 6, images: int = 3) -> Path:
    """`Stanford_Online_Products/` with two super-classes on each side."""
    base = root / "Stanford_Online_Products"
    for side, (file, start) in enumerate((("Ebay_train.txt", 1), ("Ebay_test.txt", 1 + classes))):
        rows = []
        for label in range(start, start + classes):
            super_label = label % 2 + 1
            folder = ("bicycle_final", "chair_final")[super_label - 1]
            rows += [(label, super_label, f"{folder}/{label}_{image}.JPG") for image in range(images)]
        base.mkdir(parents=True, exist_ok=True)
        write_list(base, file, rows, first=1 + side * classes * images)
    return base


def inshop(root: Path, *, list_folder: str = "Eval", image_folder: str = "Img") -> Path:
    """Train items 1-4 (the first with one image), query and gallery items 5-7; ragged spaces as in the original."""
    rows = []
    for item in range(1, 8):
        garment = ("WOMEN/Dresses", "MEN/Denim")[item % 2]
        for image in range(1 if item == 1 else 3):
            path = f"img/{garment}/id_{item:08d}/{image:02d}_front.jpg"
            write_image(root / image_folder / path, item * 10 + image)
            status = "train" if item < 5 else "query" if image == 0 else "gallery"
            rows.append(f"{path:<60} id_{item:08d}   {status}  ")
    folder = root / list_folder
    folder.mkdir(parents=True, exist_ok=True)
    text = [str(len(rows)), "image_name item_id evaluation_status", *rows]
    (folder / "list_eval_partition.txt").write_text("\n".join(text) + "\n")
    return root


def inaturalist2018(root: Path) -> Path:
    """Two super-classes; each category wholly in train or in test."""
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for category in range(8):
        folder = f"train_val2018/{('Aves', 'Plantae')[category % 2]}/{2000 + category}"
        for image in range(3):
            write_image(root / folder / f"{image:032x}.jpg", category * 10 + image)
            lines["train" if category < 5 else "test"].append(f"{folder}/{image:032x}.jpg")
    for split, rows in lines.items():
        (root / f"Inaturalist_{split}_set1.txt").write_text("\n".join(rows) + "\n")
    return root


def inaturalist2021_mini(root: Path) -> Path:
    """`train_mini/` and lists `path,super,label` without header."""
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for category in range(6):
        folder = f"train_mini/{category:05d}_Animalia_Chordata_Aves_Order_Family_Genus_species{category}"
        for image in range(3):
            write_image(root / folder / f"{image}.jpg", category * 10 + image)
            super_class = ("Birds", "Insects")[category % 2]
            lines["train" if category < 3 else "test"].append(f"{folder}/{image}.jpg,{super_class},{category}")
    for split, rows in lines.items():
        (root / f"{split}.csv").write_text("\n".join(rows) + "\n")
    return root


def class_folders(root: Path, splits: dict[str, int], images: int = 3, size: tuple[int, int] = (40, 30)) -> Path:
    """`PART/classNNN/*.jpg` with the given number of classes per part; part "" puts them at the root."""
    label = 0
    for split, classes in splits.items():
        for _ in range(classes):
            for image in range(images):
                write_image(root / split / f"class{label:03d}" / f"{image}.jpg", label * 100 + image, size)
            label += 1
    return root
