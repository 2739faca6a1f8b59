"""`ctxtune new`: from one's own images to a file that a sweep takes at once."""

import csv
import shutil
from types import SimpleNamespace

import pytest

from ctxtune import new, sweep
from ctxtune.config import load_search_space
from ctxtune.data.own_data import own_dataset
from ctxtune.new_space import Shape, space_text
from tests.helpers import trees
from tests.helpers.processes import run_here


@pytest.fixture
def photographs(tmp_path):
    for label in range(12):
        for image in range(6):
            trees.write_image(tmp_path / f"my photos/bird {label:02d}/{image}.jpg", label * 100 + image, (80, 60))
    return tmp_path / "my photos"


def as_table(folder, columns=lambda row: row):
    rows = [
        {"path": path.relative_to(folder).as_posix(), "label": path.parent.name}
        for path in sorted(folder.rglob("*.jpg"))
    ]
    rows = [columns(row) for row in rows]
    with (folder / "items.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "items.csv"


def written(data, tmp_path, *arguments):
    done = run_here(new.main, tmp_path, str(data), *arguments)
    return done, load_search_space(tmp_path / f"{data.stem}.yaml") if done.returncode < 2 else None


def test_class_folders_become_a_search_space(photographs, tmp_path):
    done, space = written(photographs, tmp_path)
    assert done.returncode == 0 and "no unreadable image, no copies" in done.stdout, done.stdout + done.stderr
    assert "36 images of 6 classes, 6 to 6 a class" in done.stdout and "80 x 60" in done.stdout
    assert space.name == "my-photos" and space.trial.dataset.root == str(photographs)
    assert space.trial.image.train_crop == 56  # the short side, in whole cells of 8
    again = run_here(new.main, tmp_path, str(photographs))
    assert again.returncode == 2 and "is there already" in again.stderr
    assert run_here(new.main, tmp_path, str(photographs), "--force", "--quick").returncode == 0


@pytest.mark.parametrize("classes", range(16, 48, 3))
def test_where_there_are_images_enough_more_than_one_k_is_searched(tmp_path, classes):
    benchmark = SimpleNamespace(layout="class folders")
    file = tmp_path / "my.yaml"
    block = {"name": "image_list", "root": "x"}
    file.write_text(space_text(block, benchmark, Shape(classes, 60, 128), file, tmp_path, gpu=False))
    space = load_search_space(file)
    choices = space.search.space["loss.k"].choices
    assert len(choices) >= 2 and 4 in choices
    assert all(space.trial.sampler.batch_size % k == 0 for k in choices)


def test_a_table_becomes_one_and_a_leak_is_told(photographs, tmp_path):
    for number in range(12):  # whichever of the classes are drawn for test
        shutil.copy(photographs / "bird 00/0.jpg", photographs / f"bird {number:02d}/copy.jpg")
    done, space = written(as_table(photographs), tmp_path)
    assert done.returncode == 1 and "a leak: it raises Recall@1" in done.stdout
    assert space.trial.dataset.name == "table" and space.trial.dataset.file == str(photographs / "items.csv")


def test_the_same_classes_in_train_and_test_are_told_as_closed_set(photographs, tmp_path):
    file = as_table(
        photographs, lambda row: {**row, "split": "test" if row["path"].endswith(("0.jpg", "1.jpg")) else "train"}
    )
    done, space = written(file, tmp_path)
    assert done.returncode == 0 and "closed-set retrieval" in done.stdout
    assert space.trial.dataset.closed_set and space.validation.scheme == "image_holdout"
    assert "zero-shot" not in done.stdout + (tmp_path / "items.yaml").read_text()


@pytest.mark.parametrize("content", ["", "path,label\n", "a,b\n1,2\n"])
def test_what_is_no_data_is_one_message(tmp_path, content):
    (tmp_path / "items.csv").write_text(content)
    done = run_here(new.main, tmp_path, "items.csv")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "items.csv" in done.stderr
    assert run_here(new.main, tmp_path, "nothing").returncode == 2
    (tmp_path / "other.csv").write_text("")
    assert "several tables (items.csv, other.csv)" in run_here(new.main, tmp_path, ".").stderr


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize(("classes", "images"), [(2, 2), (4, 3), (9, 8), (40, 100), (5000, 5)])
def test_the_file_is_valid_whatever_the_data(photographs, tmp_path, gpu, classes, images):
    block, benchmark = own_dataset(photographs)
    target = tmp_path / "space.yaml"
    for closed in (False, True):
        own = {**block, "closed_set": True} if closed else block
        target.write_text(space_text(own, benchmark, Shape(classes, images, None), target, photographs, gpu))
        space = load_search_space(target)
        assert space.trial.sampler.images_per_class <= images or images < 2
        assert space.trial.model.backbone == ("resnet50" if gpu else "small_conv")


@pytest.mark.slow
def test_the_file_runs_dry_at_once(photographs, tmp_path):
    written(photographs, tmp_path)
    done = run_here(sweep.main, tmp_path, "my photos.yaml", "--dry-run")
    assert done.returncode == 0 and "nothing was started" in done.stdout, done.stdout + done.stderr
