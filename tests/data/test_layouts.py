"""Every official layout as a small tree of real files, and what is said when something in it is wrong."""

import pickle
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from ctxtune.data import DatasetSettings, dataset_names, load, load_dataset
from ctxtune.data.layouts.omniglot import TEST_ALPHABETS, TRAIN_ALPHABETS
from ctxtune.data.loading import LOADERS
from ctxtune.data.official_counts import OFFICIAL_COUNTS, DataWarning
from ctxtune.errors import ConfigError, DataError
from tests.helpers import trees


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CTXTUNE_CACHE", str(tmp_path / "cache"))


def quiet(name, root, **options):
    """Load without the warning about counts: the trees are small."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return load(name, root, **options)


def counts(split):
    return len(split.classes()), len(split)


def assert_readable(benchmark):
    for split in benchmark.splits().values():
        for index in (0, len(split) - 1):
            image = split.read(index)
            assert image.mode == "RGB" and image.size == (40, 30)


@pytest.mark.parametrize("inner", [True, False])
def test_cub200(tmp_path, inner):
    base = trees.cub200(tmp_path)
    benchmark = quiet("cub200", base if inner else tmp_path)
    assert counts(benchmark.train) == (3, 9) and counts(benchmark.test) == (3, 9)
    assert set(benchmark.train.labels) == {1, 2, 100} and set(benchmark.test.labels) == {101, 102, 200}
    assert benchmark.recall_at == (1, 2, 4, 8)
    assert benchmark.test.class_names[200] == "200.Bird_200"
    assert all(
        int(path.split("/")[1][:3]) == label
        for path, label in zip(benchmark.train.paths, benchmark.train.labels, strict=True)
    )
    assert_readable(benchmark)


def test_cub200_without_lists_is_read_from_its_folders(tmp_path):
    base = trees.cub200(tmp_path)
    with_lists = quiet("cub200", base)
    (base / "images.txt").unlink()
    from_folders = quiet("cub200", base)
    assert sorted(from_folders.train.paths) == sorted(with_lists.train.paths)
    assert from_folders.layout != with_lists.layout


@pytest.mark.parametrize("layout", ["original", "torchvision", "folders"])
def test_cars196_is_the_same_split_in_each_layout(tmp_path, layout):
    trees.cars196(tmp_path, layout)
    benchmark = quiet("cars196", tmp_path)
    assert counts(benchmark.train) == (3, 12) and counts(benchmark.test) == (3, 12)
    if layout != "folders":
        assert set(benchmark.train.labels) == {1, 2, 98} and set(benchmark.test.labels) == {99, 100, 196}
    assert_readable(benchmark)


def test_cars196_folders_split_by_sorted_class_over_both_halves(tmp_path):
    trees.cars196(tmp_path, "folders", classes=tuple(range(1, 197)), images=2)
    benchmark = quiet("cars196", tmp_path)
    assert set(benchmark.train.labels) == set(range(1, 99))
    assert counts(benchmark.test) == (98, 196)
    assert benchmark.test.class_names[99] == "Car 099"
    assert sorted({path.split("/")[0] for path in benchmark.train.paths}) == ["test", "train"]


def test_cars196_labels_follow_the_annotations(tmp_path):
    trees.cars196(tmp_path, "original")
    benchmark = quiet("cars196", tmp_path)
    assert benchmark.train.class_names == {1: "Car 1", 2: "Car 2", 98: "Car 98"}
    assert list(benchmark.train.paths)[4] == "car_ims/000005.jpg" and benchmark.train.labels[4] == 2


@pytest.mark.parametrize("place", ["devkit", "."])
def test_cars196_test_annotations_may_lie_in_devkit_or_beside_it(tmp_path, place):
    trees.cars196(tmp_path, "torchvision")
    base = tmp_path / "stanford_cars"
    (base / "cars_test_annos_withlabels.mat").rename(base / place / "cars_test_annos_withlabels.mat")
    assert counts(quiet("cars196", base).train) == (3, 12)


def test_missing_cars196_is_one_clear_message(tmp_path, monkeypatch):
    with pytest.raises(DataError) as caught:
        load("cars196", tmp_path / "cars")
    message = str(caught.value)
    assert str(tmp_path / "cars") in message
    for needed in (
        "car_ims",
        "cars_annos.mat",
        "stanford_cars",
        "car_data/train",
        "trial.dataset.root=",
        "CTXTUNE_DATA",
    ):
        assert needed in message
    monkeypatch.setenv("CTXTUNE_DATA", str(tmp_path / "everything"))
    with pytest.raises(DataError, match="everything/cars196"):
        load("cars196")
    trees.cars196(tmp_path / "everything" / "cars196", "folders")
    assert counts(quiet("cars196", None).train) == (3, 12)
    with pytest.raises(DataError, match=r"cars_test_annos_withlabels\.mat"):
        trees.cars196(tmp_path / "half", "torchvision")
        (tmp_path / "half/stanford_cars/cars_test_annos_withlabels.mat").unlink()
        load("cars196", tmp_path / "half")


def test_sop(tmp_path):
    trees.sop(tmp_path)
    benchmark = quiet("sop", tmp_path)
    assert counts(benchmark.train) == (6, 18) and counts(benchmark.test) == (6, 18)
    assert set(benchmark.train.super_labels) == {1, 2}
    assert benchmark.recall_at == (1, 10, 100, 1000)
    assert_readable(benchmark)


@pytest.mark.parametrize(("lists", "images"), [("Eval", "Img"), (".", "."), ("Eval", ".")])
def test_inshop(tmp_path, lists, images):
    trees.inshop(tmp_path, list_folder=lists, image_folder=images)
    benchmark = quiet("inshop", tmp_path)
    assert benchmark.test is None
    assert counts(benchmark.train) == (4, 10)
    assert counts(benchmark.query) == (3, 3) and counts(benchmark.gallery) == (3, 6)
    assert set(benchmark.query.labels) == set(benchmark.gallery.labels) == {5, 6, 7}
    assert benchmark.recall_at == (1, 10, 20, 30, 40, 50)
    assert_readable(benchmark)


def test_inaturalist2018(tmp_path):
    trees.inaturalist2018(tmp_path)
    benchmark = quiet("inaturalist2018", tmp_path)
    assert counts(benchmark.train) == (5, 15) and counts(benchmark.test) == (3, 9)
    assert benchmark.train.class_names[0] == "Aves/2000"
    assert len(set(benchmark.train.super_labels)) == 2
    assert benchmark.recall_at == (1, 4, 16, 32)
    assert_readable(benchmark)


def test_inaturalist2021_mini(tmp_path):
    trees.inaturalist2021_mini(tmp_path)
    benchmark = quiet("inaturalist2021_mini", tmp_path)
    assert counts(benchmark.train) == (3, 9) and counts(benchmark.test) == (3, 9)
    (tmp_path / "train.csv").rename(tmp_path / "mine.csv")
    renamed = quiet("inaturalist2021_mini", tmp_path, lists={"train": "mine.csv", "test": "test.csv"})
    assert list(renamed.train.paths) == list(benchmark.train.paths)
    with pytest.raises(DataError, match="cannot be regenerated"):
        load("inaturalist2021_mini", tmp_path)


def test_image_lists_by_part_and_for_any_data_set(tmp_path):
    trees.write_list(
        tmp_path, "train.txt", [(label, label % 2, f"a b/{label}_{i}.jpg") for label in range(4) for i in range(2)]
    )
    trees.write_list(tmp_path, "query.txt", [(label, 0, f"q/{label}.jpg") for label in (7, 8)])
    trees.write_list(tmp_path, "gallery.txt", [(label, 0, f"g/{label}.png") for label in (7, 8, 9)])
    benchmark = quiet("image_list", tmp_path)
    assert (
        counts(benchmark.train) == (4, 8) and counts(benchmark.query) == (2, 2) and counts(benchmark.gallery) == (3, 3)
    )
    assert_readable(benchmark)
    (tmp_path / "train.txt").rename(tmp_path / "cars_train.txt")
    cars = quiet("cars196", tmp_path, lists={"train": "cars_train.txt", "test": str(tmp_path / "gallery.txt")})
    assert cars.name == "cars196" and counts(cars.train) == (4, 8) and counts(cars.test) == (3, 3)


def test_classes_of_a_list_have_the_name_of_their_folder_where_it_is_theirs_alone(tmp_path):
    rows = [(0, 0, "fruit/apple/1.jpg"), (0, 0, "more/apple/2.jpg"), (1, 0, "pear/1.jpg"), (2, 0, "pear/2.jpg")]
    rows += [(3, 0, "plum/1.jpg"), (3, 0, "prune/2.jpg"), (4, 0, "none.jpg")]
    trees.write_list(tmp_path, "train.txt", rows)
    trees.write_list(tmp_path, "test.txt", [(7, 0, "kiwi/1.jpg")])
    benchmark = quiet("image_list", tmp_path)
    assert benchmark.train.class_names == {0: "apple"}
    assert benchmark.test.class_names == {7: "kiwi"}


def test_class_folders(tmp_path):
    trees.class_folders(tmp_path / "sides", {"train": 3, "test": 2})
    benchmark = quiet("class_folders", tmp_path / "sides")
    assert counts(benchmark.train) == (3, 9) and counts(benchmark.test) == (2, 6)
    trees.class_folders(tmp_path / "flat", {"": 5})
    flat = quiet("class_folders", tmp_path / "flat", train_classes=4)
    assert counts(flat.train) == (4, 12) and counts(flat.test) == (1, 3)
    assert flat.test.class_names == {4: "class004"}
    assert counts(quiet("class_folders", tmp_path / "flat").train)[0] == 2
    trees.class_folders(tmp_path / "three", {"train": 2, "query": 2})
    shutil.copytree(tmp_path / "three/query", tmp_path / "three/gallery")
    three = quiet("class_folders", tmp_path / "three")
    assert set(three.query.labels) == set(three.gallery.labels) and three.test is None


def test_a_class_on_both_sides_is_refused(tmp_path):
    trees.class_folders(tmp_path, {"train": 3})
    shutil.copytree(tmp_path / "train" / "class001", tmp_path / "test" / "class001")
    with pytest.raises(DataError, match=r"1 classes are both in train and in test \(class001"):
        load("class_folders", tmp_path)


def test_counts_that_differ_warn_and_are_an_error_when_strict(tmp_path):
    trees.cub200(tmp_path)
    with pytest.warns(DataWarning, match="has 3 classes and 9 images, officially 100 classes and 5,864 images"):
        load("cub200", tmp_path)
    with pytest.raises(DataError, match="officially 100 classes and 5,924 images"):
        load("cub200", tmp_path, strict=True)
    with pytest.raises(DataError, match="strict"):
        load_dataset(DatasetSettings(name="cub200", root=str(tmp_path), strict=True))


def test_official_counts_add_up():
    assert sum(images for _, images in OFFICIAL_COUNTS["inaturalist2021_mini"].values()) == 500_000
    assert sum(images for _, images in OFFICIAL_COUNTS["sop"].values()) == 120_053


def _edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("3 1 2 chair", "3 1 chair", r"Ebay_train\.txt, line 4: expected 4 columns .*found '3 1 chair_final"),
        ("3 1 2 chair", "3 one 2 chair", r"Ebay_train\.txt, line 4: class_id must be a whole number, found 'one'"),
        ("1_1.JPG", "1_9.JPG", r"Ebay_train\.txt, line 3: the image chair_final/1_9\.JPG is not under"),
        ("image_id class_id", "id class", r"Ebay_train\.txt, line 1: expected the header 'image_id class_id super"),
    ],
)
def test_a_bad_list_is_named_with_its_line(tmp_path, old, new, message):
    base = trees.sop(tmp_path)
    _edit(base / "Ebay_train.txt", old, new)
    with pytest.raises(DataError, match=message):
        load("sop", tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("19\n", "20\n", "line 1: says 20 images, but 19 are listed"),
        ("19\n", "nineteen\n", "line 1: expected the number of images, found 'nineteen'"),
        ("   train", "", "line 3: expected 3 columns"),
        ("   train", "   training", "line 3: status must be train, query, gallery, found 'training'"),
        (" id_00000001", " one", "line 3: item_id must look like id_00000001, found 'one'"),
    ],
)
def test_a_bad_inshop_list_is_named_with_its_line(tmp_path, old, new, message):
    trees.inshop(tmp_path)
    _edit(tmp_path / "Eval/list_eval_partition.txt", old, new)
    with pytest.raises(DataError, match=message):
        load("inshop", tmp_path)


def test_other_bad_input(tmp_path):
    trees.cars196(tmp_path / "cars", "original")
    (tmp_path / "cars/car_ims/000003.jpg").unlink()
    with pytest.raises(DataError, match=r"cars_annos\.mat, annotation 3: the image car_ims/000003\.jpg is not under"):
        load("cars196", tmp_path / "cars")
    (tmp_path / "cars/cars_annos.mat").write_text("no MATLAB file")
    with pytest.raises(DataError, match=r"cars_annos\.mat: not a MATLAB file"):
        load("cars196", tmp_path / "cars")

    base = trees.cub200(tmp_path / "cub")
    _edit(base / "image_class_labels.txt", "5 2\n", "")
    with pytest.raises(DataError, match=r"images\.txt, line 5: image 5 has no class"):
        load("cub200", base)
    _edit(base / "image_class_labels.txt", "4 2\n", "4 b\n")
    with pytest.raises(DataError, match=r"image_class_labels\.txt, line 4: class_id must be a whole number, found 'b'"):
        load("cub200", base)

    trees.class_folders(tmp_path / "own", {"train": 2, "test": 2})
    (tmp_path / "own/train/empty").mkdir()
    with pytest.raises(DataError, match="empty: a class folder without an image"):
        load("class_folders", tmp_path / "own")

    trees.inaturalist2021_mini(tmp_path / "mini")
    _edit(tmp_path / "mini/test.csv", "Insects,3", "Insects")
    with pytest.raises(DataError, match=r"test\.csv, line 1: expected 3 columns"):
        load("inaturalist2021_mini", tmp_path / "mini")
    with pytest.raises(ConfigError, match="no split 'validation'"):
        load("image_list", tmp_path, lists={"validation": "x"})


def test_settings_refuse_what_a_data_set_cannot_do(tmp_path):
    trees.cub200(tmp_path)
    with pytest.raises(ConfigError, match=r"dataset\.image_size: the data set cub200 has no such option"):
        load_dataset(DatasetSettings(name="cub200", root=str(tmp_path), image_size=32))


@pytest.mark.parametrize("kind", ["L", "CMYK", "P", "RGBA", "LA", "1", "I;16", "exif"])
def test_every_color_mode_is_upright_rgb(tmp_path, kind):
    trees.class_folders(tmp_path, {"train": 1, "test": 1}, images=1)
    target = tmp_path / "train/class000/0.jpg"
    colors = Image.new("RGB", (40, 30), (200, 40, 40))
    colors.paste((40, 40, 200), (0, 0, 20, 30))  # left half blue
    expected, name = colors, "0.png"
    if kind == "exif":
        name = "0.jpg"
        exif = Image.Exif()
        exif[0x0112] = 6  # stored turned left: to be turned right by a quarter
        colors.transpose(Image.Transpose.ROTATE_90).save(target, exif=exif, quality=95)
    elif kind == "CMYK":
        name = "0.jpg"
        colors.convert("CMYK").save(target, quality=95)
    else:
        target.unlink()
        if kind == "RGBA":
            image = colors.convert("RGBA")
            image.putalpha(Image.new("L", (40, 30), 255))
            image.paste((9, 9, 9, 0), (0, 0, 20, 30))  # transparent: shows white
            expected = colors.copy()
            expected.paste((255, 255, 255), (0, 0, 20, 30))
        elif kind == "I;16":
            gray = np.asarray(colors.convert("L")).astype(np.uint16)
            image = Image.fromarray(gray * 257)
            expected = colors.convert("L").convert("RGB")
        else:
            image = colors.convert(kind)
            expected = image.convert("RGB")
        image.save(tmp_path / "train/class000" / name)
    split = quiet("class_folders", tmp_path).train
    found = split.read(0)
    assert found.mode == "RGB" and found.size == (40, 30)
    difference = np.abs(np.asarray(found, int) - np.asarray(expected, int))
    # JPEG blurs the edge in the middle.
    assert difference[:, [2, 10, 30, 37]].max() <= 8


def test_fingerprint_sees_content_and_not_place(tmp_path):
    trees.cub200(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first, second = (quiet("cub200", tmp_path / name).train for name in "ab")
    assert first.fingerprint() == second.fingerprint()
    assert first.fingerprint() != first.select([0, 1], "some").fingerprint()
    trees.write_image(tmp_path / "b/CUB_200_2011/images" / first.path(0)[len("images/") :], 99)
    assert first.fingerprint() != second.fingerprint()


def test_loading_opens_no_image(tmp_path, monkeypatch):
    trees.sop(tmp_path)
    for path in tmp_path.rglob("*.JPG"):
        path.write_bytes(b"not to be opened")
    opened = []
    monkeypatch.setattr(Image, "open", lambda *arguments, **options: opened.append(arguments))
    quiet("sop", tmp_path)
    assert opened == []


def test_every_data_set_that_can_be_named_can_be_loaded():
    assert sorted(LOADERS) == dataset_names()
    with pytest.raises(ValidationError, match='did you mean "cars196"'):
        DatasetSettings(name="cars")


def test_parts_travel_to_other_processes(tmp_path):
    trees.omniglot_folders(tmp_path / "o", TRAIN_ALPHABETS + TEST_ALPHABETS, characters=1, images=2)
    archive = trees.zipped(tmp_path / "o", tmp_path / "o.zip")
    trees.cub200(tmp_path)
    for name, root in (("omniglot", archive), ("cub200", tmp_path), ("glyphs", None)):
        split = quiet(name, root).train.select([3, 1], "two")
        split.read(0)  # a zip is open by now
        copy = pickle.loads(pickle.dumps(split))
        assert np.array_equal(np.asarray(copy.read(0)), np.asarray(split.read(0)))
        assert copy.fingerprint() == split.fingerprint()


def test_classes_of_lists_may_be_text(tmp_path):
    for split, animals in (("train", ("ox", "cow")), ("test", ("wren", "ant"))):
        lines = ["image_id class_id super_class_id path"]
        for number, animal in enumerate(animals):
            trees.write_image(tmp_path / f"{animal}/1.png", number)
            lines.append(f"{number} {animal} {'birds' if animal == 'wren' else 'rest'} {animal}/1.png")
        (tmp_path / f"{split}.txt").write_text("\n".join(lines))
    benchmark = quiet("image_list", tmp_path)
    assert benchmark.train.class_names == {1: "cow", 2: "ox"} and benchmark.test.class_names == {0: "ant", 3: "wren"}
    assert list(benchmark.test.super_labels) == [0, 1]
    lines[1] = "0 7 1 wren/1.png"
    (tmp_path / "test.txt").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"train\.txt, line 2: class_id must be a whole number, found 'ox'"):
        quiet("image_list", tmp_path)
