"""Data sets that are not as they should be: one message that names the place, or a sentence in `check`."""

import os
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ctxtune.data import load
from ctxtune.data.__main__ import main
from ctxtune.data.oddities import left_out, listed_twice
from ctxtune.data.official_counts import DataWarning
from ctxtune.data.own_data import own_dataset
from ctxtune.errors import ConfigError, DataError
from tests.helpers import trees

HEADER = "image_id class_id super_class_id path\n"


@pytest.fixture
def listed(tmp_path):
    """Four images of two classes with their lists; what is returned writes the train list anew."""
    for name in ("a/1", "a/2", "b/1", "b/2"):
        trees.write_image(tmp_path / f"{name}.jpg", hash(name) % 1000)
    (tmp_path / "test.txt").write_text(f"{HEADER}1 7 1 b/1.jpg\n2 7 1 b/2.jpg\n")

    def write(*rows: str):
        (tmp_path / "train.txt").write_bytes((HEADER + "\n".join(rows)).encode("utf-8", "surrogateescape"))
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            "1 9223372036854775808 1 a/1.jpg",
            "train.txt, line 3: class_id must be at most 9223372036854775807",
        ),
        ("1 " + "9" * 5000 + " 1 a/1.jpg", "(5,000 characters)"),
        ("1 3 -9223372036854775809 a/1.jpg", "super_class_id must be at most"),
        ("1 ² 1 a/1.jpg", "class_id must be a whole number"),
        ("1 ٣ 1 a/1.jpg", "class_id must be a whole number"),
        ("1 1_0 1 a/1.jpg", "class_id must be a whole number"),
        ("1 1.0 1 a/1.jpg", "class_id must be a whole number"),
        ("1 1 1 a/3.jpg", "the image a/3.jpg is not under"),
        ("1 1 1 a/1.jpg\0", "is not under"),
        ("1 1 1 " + "x/" * 3000 + "1.jpg", "is not under"),
        ("1 1 1 a\\b/1.jpg", "folders are separated by / and not by \\"),
        ("1 1 1", "expected 4 columns"),
        ("x" * 5000, "(5,000 characters)"),
        ("1 1 1 a\udcff.jpg", "not a text file in UTF-8"),
        ("1 7 1 a/1.jpg", "are both in train and in test"),
    ],
)
def test_a_row_that_cannot_be_is_named_by_file_and_line(listed, row, words):
    with pytest.raises(DataError) as caught:
        load("image_list", listed("1 3 1 a/2.jpg", row))
    assert words in str(caught.value) and len(str(caught.value)) < 1000


def test_the_largest_label_is_kept(listed):
    train = load("image_list", listed("1 9223372036854775807 1 a/1.jpg", "2 -5 1 a/2.jpg")).train
    assert train.labels.tolist() == [9223372036854775807, -5]


def test_lists_from_windows_are_read(listed):
    assert list(load("image_list", listed("1 3 1 a\\1.jpg", "2 3 1 a/2.jpg")).train.paths) == ["a/1.jpg", "a/2.jpg"]


def test_images_listed_twice_are_told(listed, capsys):
    root = listed("1 3 1 a/1.jpg", "2 3 1 a/2.jpg", "3 3 1 a/1.jpg", "4 4 1 b/1.jpg")
    with pytest.warns(DataWarning, match=r"1 image \(a/1\.jpg\) is listed more than once: a copy is its own match"):
        benchmark = load("image_list", root)
    assert listed_twice(benchmark)[1] == "image_list: 1 image (b/1.jpg) is both in train and in test"
    with pytest.raises(DataError, match="listed more than once"):
        load("image_list", root, strict=True)
    assert main(["check", "image_list", str(root)]) == 1
    printed = capsys.readouterr().out
    assert "twice: image_list/train" in printed and "raises Recall@1" in printed


def test_copies_under_other_paths_are_told_within_a_split_and_across(tmp_path, capsys):
    trees.class_folders(tmp_path, {"train": 2, "query": 2, "gallery": 2})
    first = Image.open(tmp_path / "train/class000/0.jpg")
    for copy in ("train/class000/renamed.png", "train/class001/x.png", "gallery/class004/y.bmp"):
        first.save(tmp_path / copy)  # other bytes, the same pixels
    (tmp_path / "gallery/class005/q.jpg").write_bytes((tmp_path / "query/class002/1.jpg").read_bytes())
    first.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "train/class001/turned.png")
    assert main(["check", "class_folders", str(tmp_path)]) == 1
    said = [line.removeprefix("twice: ") for line in capsys.readouterr().out.splitlines() if "pixels of" in line]
    assert said == [
        "class_folders/train: 2 images with the pixels of another one (train/class000/0.jpg = train/class000/renamed.png): "
        "a copy is its own match; 1 time with another class",
        "class_folders: in train and in gallery, 1 image with the pixels of another one "
        "(train/class000/0.jpg = gallery/class004/y.bmp)",
        "class_folders: in query and in gallery, 1 image with the pixels of another one "
        "(query/class002/1.jpg = gallery/class005/q.jpg)",
    ]
    assert main(["check", "class_folders", str(tmp_path), "--quick"]) == 0


def test_a_part_without_class_folders_is_told(tmp_path, capsys):
    trees.class_folders(tmp_path, {"test": 2})
    trees.write_image(tmp_path / "train/1.jpg", 1)
    with pytest.raises(
        DataError, match=r"train: there is 1 image but no class folder in it; expected is a folder for each"
    ):
        load("class_folders", tmp_path)
    assert main(["check", "class_folders", str(tmp_path)]) == 2
    (tmp_path / "train/1.jpg").unlink()
    with pytest.raises(DataError, match="there is no class folder in it"):
        load("class_folders", tmp_path)


@pytest.mark.parametrize(
    "names", [("Train", "Test"), ("TRAIN", "test"), ("train", "Test"), ("Train", "Query", "Gallery")]
)
def test_parts_are_found_however_they_are_capitalized(tmp_path, names):
    trees.class_folders(tmp_path, {"train": 2, "test": 3, "query": 3, "gallery": 3})
    for name in ("train", "test", "query", "gallery"):
        wanted = next((each for each in names if each.lower() == name), None)
        (tmp_path / name).rename(tmp_path / (wanted or f".{name}"))
    benchmark = load("class_folders", tmp_path)
    assert set(benchmark.splits()) == {name.lower() for name in names} and len(benchmark.train.classes()) == 2
    (tmp_path / ("TRAIN" if "TRAIN" not in names else "train")).mkdir()
    with pytest.raises(DataError, match="which of them is it"):
        load("class_folders", tmp_path)


def test_check_names_what_is_left_out(tmp_path, capsys):
    trees.class_folders(tmp_path, {"train": 2, "test": 2})
    for name in ("1.heic", "2.HEIC", "3.txt", ".hidden", "none"):
        (tmp_path / "train/class000" / name).write_bytes(b"x")
    (tmp_path / "train/class000/sub").mkdir()
    trees.write_image(tmp_path / "train/stray.jpg", 1)
    benchmark = load("class_folders", tmp_path)
    sentences = left_out(benchmark)
    folder = tmp_path / "train/class000"
    assert sentences == [
        f"{folder}: 4 files left out by suffix: 2 with .heic, 1 with .txt, 1 with no suffix (1.heic, 2.HEIC, 3.txt, ...)",
        f"{folder}: not looked into: sub/",
        f"{tmp_path / 'train'}: 1 image (stray.jpg) is in no class folder and left out",
    ]
    assert main(["check", "class_folders", str(tmp_path)]) == 0
    assert "left out by suffix" in capsys.readouterr().out


def test_a_class_folder_without_images_says_what_it_holds(tmp_path):
    trees.class_folders(tmp_path, {"train": 2, "test": 2})
    (tmp_path / "train/class009").mkdir()
    (tmp_path / "train/class009/1.heic").write_bytes(b"x")
    with pytest.raises(DataError, match=r"without an image \(there are 1\.heic\).*Images are \.bmp, \.gif"):
        load("class_folders", tmp_path)


@pytest.mark.parametrize("root", ["x" * 300, "x/" * 3000, "a\0b", "\udcff", "/dev/null", "/proc/self/mem/x"])
def test_roots_that_cannot_be_are_one_message(root):
    for name in ("class_folders", "image_list", "cub200", "cars196", "sop", "inshop", "omniglot", "inaturalist2018"):
        with pytest.raises(DataError):
            load(name, root)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.text(st.sampled_from("0123456789 -+_.²/\\ab\t\0\x1b\u2028é\ufeff"), max_size=30), max_size=4),
    header=st.sampled_from([HEADER, "", "image_id class_id\n", "3\nimage_name item_id evaluation_status\n", "²\n"]),
)
def test_any_list_is_read_or_refused(tmp_path, rows, header):
    content = (header + "\n".join(rows)).encode()
    (tmp_path / "img").mkdir(exist_ok=True)
    for name in ("train.txt", "test.txt", "list_eval_partition.txt", "images.txt", "image_class_labels.txt"):
        (tmp_path / name).write_bytes(content)
    for name in ("image_list", "inshop", "cub200"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                load(name, tmp_path)
            except (DataError, ConfigError) as error:
                assert str(error)


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "glyphs", "--set", "image.train_crop=" + "9" * 5000],
        ["check", "glyphs", "--set", "image.train_crop=yes"],
        ["check", "glyphs", "--set", "image.test_resize=100000"],
        ["check", "glyphs", "--set", "dataset.root={{ ROOT }}"],
        ["check", "glyphs", "--set", "image.ratio=&x [*x]"],
        ["check", "glyphs", "--set", "dataset.image_size=2026-25-11"],
        ["check", "glyphs", "--set", "dataset.lists=" + "[" * 3000],
        ["show", "glyphs", "--classes", "0"],
        ["show", "glyphs", "--images", "1000000"],
        ["show", "glyphs", "--seed", "-1"],
    ],
)
def test_hostile_arguments_of_data_are_one_message(arguments, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and len(said) < 1000


def test_check_tells_of_huge_pictures(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ctxtune.data.checking.HUGE", 1000)
    trees.class_folders(tmp_path, {"train": 2, "test": 2})
    Image.new("RGB", (60, 50)).save(tmp_path / "train/class000/large.png")
    assert main(["check", "class_folders", str(tmp_path)]) == 0
    assert "million pixels" in capsys.readouterr().out


@pytest.mark.timeout(60)
def test_what_may_never_end_is_not_read_as_an_image(tmp_path, capsys):
    trees.class_folders(tmp_path, {"train": 2, "test": 2})
    os.mkfifo(tmp_path / "train/class000/pipe.jpg")
    (tmp_path / "train/class000/zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "train/class000/folder.jpg").mkdir()
    assert main(["check", "class_folders", str(tmp_path)]) == 1
    assert capsys.readouterr().out.count("not a file, but a folder, a pipe or a device") == 3


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        ("Dog", "dog ", "'Dog' (train) and 'dog ' (test)"),
        ("caf\u00e9", "cafe\u0301", r"'caf\xe9' (train) and 'cafe\u0301' (test)"),
        ("007", "7", "'007' (train) and '7' (test)"),
        ("1.0", "1", "'1.0' (train) and '1' (test)"),
        ("nan", "x", "'nan': is it a class, or a gap?"),
        ("10", "1", None),
        (".5", "5.", None),
    ],
)
def test_one_class_under_two_names_and_names_for_gaps_are_told(tmp_path, capsys, train, test, said):
    for split, name in (("train", train), ("train", "other"), ("test", test), ("test", "another")):
        for number in range(2):
            trees.write_image(tmp_path / split / name / f"{number}.jpg", hash((split, name, number)) % 1000)
    assert main(["check", "class_folders", str(tmp_path), "--quick"]) == (said is not None)
    printed = capsys.readouterr().out
    assert said in printed if said else "names:" not in printed
    if said:
        with pytest.warns(DataWarning):
            load("class_folders", tmp_path)


def test_two_test_sides_are_refused_and_other_folders_told(tmp_path):
    trees.class_folders(tmp_path, {"train": 2, "test": 2})
    (tmp_path / "val/x").mkdir(parents=True)
    assert left_out(load("class_folders", tmp_path)) == [f"{tmp_path}: not looked into: val/"]
    trees.class_folders(tmp_path, {"query": 2, "gallery": 2})
    with pytest.raises(DataError, match="take test, or query and gallery"):
        load("class_folders", tmp_path)


def test_the_root_named_one_folder_too_high_is_told(tmp_path):
    trees.class_folders(tmp_path / "mine", {"train": 2, "test": 2})
    with pytest.raises(DataError, match="name it as the root"):
        load("class_folders", tmp_path)


def test_a_table_about_something_else_does_not_hide_the_class_folders(tmp_path):
    trees.class_folders(tmp_path, {"train": 2, "test": 2})
    (tmp_path / "metadata.csv").write_text("photographer,year\nx,2020\n")
    with pytest.warns(DataWarning, match=r"metadata\.csv: there is no column label.*Taken are the class folders"):
        block, _ = own_dataset(tmp_path)
    assert block["name"] == "class_folders"


def test_names_that_a_terminal_would_obey_are_escaped(tmp_path, capsys):
    trees.class_folders(tmp_path, {"train": 2, "test": 2})
    (tmp_path / "train/class000").rename(tmp_path / "train/a\x1b[31m\nb")
    assert main(["check", "class_folders", str(tmp_path), "--quick"]) == 0
    assert r"a\x1b[31m\nb" in capsys.readouterr().out
