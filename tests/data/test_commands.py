"""`python -m ctxtune.data`: what it prints, what it writes, and its exit status."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ctxtune.data.__main__ import main
from ctxtune.data.cache import is_sound
from ctxtune.data.loading import load
from tests.helpers import trees


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CTXTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def folders(tmp_path):
    trees.class_folders(tmp_path / "data", {"train": 3, "test": 2}, images=4, size=(60, 40))
    trees.write_image(tmp_path / "data/train/class001/extra.png", 5, (100, 90))
    return tmp_path / "data"


def test_check_says_what_was_found(folders, capsys):
    assert main(["check", "class_folders", str(folders)]) == 0
    printed = capsys.readouterr().out
    for fact in (
        "train/ and test/ with class folders",
        "13",
        "5 (class001)",
        "4 (class000)",
        "60 x 40",
        "100 x 90",
        "Nothing to correct",
    ):
        assert fact in printed


def test_characters_that_fonts_draw_alike_are_told_and_no_fault(capsys):
    assert main(["check", "glyphs"]) == 0
    printed = capsys.readouterr().out
    assert "copies in the data set itself: glyphs/train: " in printed and "with another class" in printed
    assert "Nothing to correct" in printed


def test_check_names_each_unreadable_file_and_returns_1(folders, capsys):
    bad = [folders / "train/class000/1.jpg", folders / "test/class004/2.jpg"]
    content = bad[0].read_bytes()
    bad[0].write_bytes(content[:-200])
    bad[1].write_bytes(b"")
    assert main(["check", "class_folders", str(folders)]) == 1
    printed = capsys.readouterr().out
    assert "class_folders/train: train/class000/1.jpg" in printed
    assert "class_folders/test: test/class004/2.jpg: not an image file (0 bytes)" in printed
    assert "2 unreadable of 21 images" in printed
    assert main(["check", "class_folders", str(folders), "--quick"]) == 0
    assert "not opened" in capsys.readouterr().out


def test_check_returns_1_where_counts_differ_and_2_when_strict(tmp_path, capsys):
    trees.cub200(tmp_path)
    assert main(["check", "cub200", str(tmp_path)]) == 1
    assert "officially 100 classes and 5,864 images" in capsys.readouterr().out
    assert main(["check", "cub200", str(tmp_path), "--set", "dataset.strict=true"]) == 2
    assert "officially" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "cars196", "/nowhere"], "looked in /nowhere"),
        (["check", "cub", "/nowhere"], 'did you mean "cub200"?'),
        (["check", "glyphs", "--set", "image.flipp=true"], "flipp"),
        (["check", "glyphs", "--set", "model.x=1"], "expected image.KEY=VALUE or dataset.KEY=VALUE"),
        (["show", "glyphs", "--split", "gallery"], "glyphs has train, test"),
    ],
)
def test_what_cannot_be_used_is_one_message_and_status_2(arguments, message, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err


def test_prepare_builds_and_verifies_the_train_side_only(folders, tmp_path, capsys):
    arguments = [
        "prepare",
        "class_folders",
        str(folders),
        "--set",
        "image.train_crop=32",
        "--set",
        "image.test_crop=32",
    ]
    assert main([*arguments, "--set", "image.test_resize=36"]) == 0
    assert "13 images" in capsys.readouterr().out
    made = sorted(path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    assert len(made) == 2 and all("train" in path.name for path in made)
    table = load("class_folders", folders).train.table
    assert all(is_sound(path, table) for path in made)
    assert main([*arguments, "--test"]) == 0
    assert any("class-folders-test" in path.name for path in (tmp_path / "cache").iterdir())


def test_prepare_refuses_what_does_not_fit(folders, capsys):
    assert main(["prepare", "class_folders", str(folders), "--set", "image.cache_limit_gib=1e-9"]) == 2
    assert "image.cache_limit_gib" in capsys.readouterr().err


def test_show_writes_a_picture(folders, tmp_path):
    target = tmp_path / "sheet.png"
    assert main(["show", "class_folders", str(folders), "-o", str(target), "--classes", "3", "--images", "2"]) == 0
    with Image.open(target) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (3 * 100 + 4, 180 + 2 * 100, 3)
    assert pixels[:, 180:].std() > 10


def test_it_is_a_command(tmp_path):
    command = [sys.executable, "-m", "ctxtune.data", "check", "omniglot", str(tmp_path / "none")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2 and "Accepted layouts" in run.stderr and run.stdout.strip() == ""
