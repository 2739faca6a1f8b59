"""Cars196 in the three layouts that users hold; class ids 1-98 are for training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ctxtune.data.layouts.finding import first_folder, not_found, require_files
from ctxtune.data.layouts.folders import images_by_class
from ctxtune.data.layouts.hub_parquet import hub_parquet
from ctxtune.data.layouts.matlab import mat_content, read_mat
from ctxtune.data.sources import FolderSource
from ctxtune.data.split import Benchmark, Split, make_split
from ctxtune.errors import DataError

TRAIN_CLASSES = 98
LAYOUTS = (
    "car_ims/*.jpg and cars_annos.mat",
    "torchvision's: stanford_cars/ with cars_train/, cars_test/, devkit/cars_train_annos.mat and "
    "cars_test_annos_withlabels.mat (in devkit/ or beside it)",
    "a copy from the Hugging Face hub: *.parquet (at the root or in data/) with the images and a label column",
    "class folders: car_data/train/CLASS/*.jpg and car_data/test/CLASS/*.jpg (or train/ and test/ at the root)",
)
TEST_ANNOTATIONS = "cars_test_annos_withlabels.mat"

Rows = list[tuple[str, int]]
"""(path relative to the base, class id from 1) of every image, both published halves together."""


def load_cars196(root: Path) -> Benchmark:
    """Cars196, whichever layout is found; the classification halves are merged, then split by class id.

    Raises DataError where no layout is found, a .mat is not one, or an image it names is missing.
    """
    for find in (_original, _torchvision, _class_folders):
        if (found := find(root)) is not None:
            base, rows, names, layout = found
            train_classes = _train_classes(rows)
            break
    else:
        if (copy := hub_parquet("cars196", root, classes=196, train_classes=TRAIN_CLASSES)) is not None:
            return copy
        raise not_found("cars196", root, LAYOUTS, _almost(root))
    source = FolderSource(base)

    def split(name: str, test: bool) -> Split:
        chosen = sorted((row for row in rows if (row[1] > train_classes) is test), key=lambda row: (row[1], row[0]))
        if not chosen:
            raise DataError(f"cars196: {base.absolute()} ({layout}) has no images for the {name} side")
        paths, labels = [path for path, _ in chosen], [label for _, label in chosen]
        return make_split(
            f"cars196/{name}", source, paths, labels, None, {x: names.get(x, str(x)) for x in set(labels)}
        )

    return Benchmark("cars196", split("train", False), split("test", True), None, None, (1, 2, 4, 8), layout)


def _train_classes(rows: Rows) -> int:
    """98; half of the classes of a tree that does not reach so far (an excerpt: its counts are warned of anyway)."""
    last = max((label for _, label in rows), default=0)
    return TRAIN_CLASSES if last > TRAIN_CLASSES else last // 2


def _almost(root: Path) -> str:
    """What is missing where half of a layout is there."""
    base = first_folder((root, root / "stanford_cars"), "cars_train", "devkit")
    if base is not None:
        return f"cars_train/ and devkit/ are in {base}, but {TEST_ANNOTATIONS} or cars_test/ is missing"
    if (root / "car_ims").is_dir():
        return "car_ims/ is there, but cars_annos.mat is missing"
    return ""


def _original(root: Path) -> tuple[Path, Rows, dict[int, str], str] | None:
    base = first_folder((root, root / "cars196"), "car_ims", "cars_annos.mat")
    if base is None:
        return None
    file = base / "cars_annos.mat"
    annotations = read_mat(file, "annotations", ("relative_im_path", "class"))
    rows = _rows(file, annotations["relative_im_path"], annotations["class"])
    _require(file, base, rows)
    return base, rows, _class_names(file), "car_ims/ and cars_annos.mat"


def _torchvision(root: Path) -> tuple[Path, Rows, dict[int, str], str] | None:
    base = first_folder((root, root / "stanford_cars"), "cars_train", "cars_test", "devkit/cars_train_annos.mat")
    if base is None:
        return None
    places = (base / "devkit", base, base.parent)
    test_file = next((place / TEST_ANNOTATIONS for place in places if (place / TEST_ANNOTATIONS).is_file()), None)
    if test_file is None:
        return None
    rows: Rows = []
    for half, file in (("cars_train", base / "devkit" / "cars_train_annos.mat"), ("cars_test", test_file)):
        annotations = read_mat(file, "annotations", ("fname", "class"))
        # Some archives unpack to cars_train/cars_train/.
        folder = f"{half}/{half}" if (base / half / half).is_dir() else half
        found = _rows(file, [f"{folder}/{name}" for name in annotations["fname"]], annotations["class"])
        _require(file, base, found)
        rows += found
    meta = base / "devkit" / "cars_meta.mat"
    return base, rows, _class_names(meta) if meta.is_file() else {}, "torchvision's stanford_cars/"


def _class_folders(root: Path) -> tuple[Path, Rows, dict[int, str], str] | None:
    base = first_folder((root, root / "car_data", root / "car_data" / "car_data"), "train", "test")
    if base is None:
        return None
    found = {half: images_by_class(base, half) for half in ("train", "test")}
    names = sorted(set(found["train"]) | set(found["test"]))
    label_of = {name: label for label, name in enumerate(names, start=1)}
    rows = [(path, label_of[name]) for half in found.values() for name, paths in half.items() for path in paths]
    return base, rows, {label: name for name, label in label_of.items()}, "class folders in train/ and test/"


def _rows(file: Path, paths: Sequence[object], labels: Sequence[object]) -> Rows:
    try:
        return [(str(path), int(label)) for path, label in zip(paths, labels, strict=True)]  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{file}: annotations are not pairs of a file name and a class number ({error})") from error


def _require(file: Path, base: Path, rows: Rows) -> None:
    require_files(base, [path for path, _ in rows], lambda position: f"{file}, annotation {position + 1}")


def _class_names(file: Path) -> dict[int, str]:
    names = mat_content(file).get("class_names")
    return {label: str(name) for label, name in enumerate(names, start=1)} if isinstance(names, list) else {}
