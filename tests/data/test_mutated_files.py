"""Files of data sets with random damage: they are read, or refused in one message; nothing crashes."""

import warnings
from pathlib import Path

import pytest

from ctxtune.data import load
from ctxtune.data.layouts.omniglot import TEST_ALPHABETS, TRAIN_ALPHABETS
from ctxtune.errors import DataError
from tests.helpers import trees
from tests.helpers.mutations import mutated

CLASSES = (1, 2, 99, 100)
CRASHES = (81, 239)
"""On the file with this damage SciPy 1.15's reader ends its process."""
MANY = 200


def read_damaged(file: Path, name: str, root: Path, seeds: range) -> list[str]:
    """What is said of a data set one file of which has one damage after the other."""
    content, told = file.read_bytes(), []
    for seed in seeds:
        file.write_bytes(mutated(content, seed))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                benchmark = load(name, root)
            for split in benchmark.splits().values():
                for index in range(min(len(split), 4)):
                    try:
                        split.read(index)
                    except (OSError, ValueError) as error:
                        assert str(error)
        except DataError as error:
            told.append(str(error))
    file.write_bytes(content)
    assert all(0 < len(text) < 1500 for text in told)
    return told


def zip_of_characters(folder: Path) -> Path:
    trees.omniglot_folders(folder / "characters", TRAIN_ALPHABETS + TEST_ALPHABETS, characters=1, images=2)
    (folder / "zip").mkdir()
    return trees.zipped(folder / "characters", folder / "zip/omniglot.zip")


def test_matlab_files_that_end_their_reader_are_told(tmp_path, monkeypatch):
    trees.cars196(tmp_path, "original", CLASSES, images=2)
    for seed in CRASHES:
        (told,) = read_damaged(tmp_path / "cars_annos.mat", "cars196", tmp_path, range(seed, seed + 1))
        assert "cars_annos.mat: not a MATLAB file that SciPy can read" in told
    monkeypatch.setattr("ctxtune.data.layouts.matlab._READER", "import os; os.abort()")
    with pytest.raises(DataError, match=r"cars_annos.mat: not a MATLAB file .*its reader crashed: the file is damaged"):
        load("cars196", tmp_path)


def test_archives_with_random_damage(tmp_path):
    archive = zip_of_characters(tmp_path)
    assert read_damaged(archive, "omniglot", archive.parent, range(25))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("layout", ["original", "torchvision"])
def test_many_damaged_matlab_files(tmp_path, layout):
    trees.cars196(tmp_path, layout, CLASSES, images=2)
    for file in sorted(tmp_path.rglob("*.mat")):
        assert read_damaged(file, "cars196", tmp_path, range(MANY))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_damaged_archives(tmp_path):
    archive = zip_of_characters(tmp_path)
    assert read_damaged(archive, "omniglot", archive.parent, range(3 * MANY))
