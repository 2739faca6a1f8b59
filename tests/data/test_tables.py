"""Tables of one's own images: CSV, parquet, tar shards: what is read."""

import io
import json
import pickle
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ctxtune.data import (
    DatasetSettings,
    EvaluationImages,
    ImageSettings,
    TrainingImages,
    ValidationSettings,
    load,
    load_dataset,
    split,
)
from ctxtune.data.__main__ import main as data_command
from ctxtune.data.official_counts import DataWarning
from ctxtune.errors import DataError
from tests.helpers.tables import STRUCT, hub_parquet, photographs, png, table, write_csv


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CTXTUNE_CACHE", str(tmp_path / "cache"))


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_a_csv_with_text_labels_and_a_split(tmp_path):
    benchmark = table(write_csv(tmp_path / "items.csv", photographs(tmp_path)))
    assert (len(benchmark.train), len(benchmark.test)) == (12, 12)
    assert [benchmark.train.class_names[int(label)] for label in benchmark.train.labels[::4]] == [
        "bird 0",
        "bird 1",
        "bird 2",
    ]
    assert next(iter(benchmark.test.paths)) == "images/3_0.png" and benchmark.test.read(0).size == (40, 30)


@pytest.mark.parametrize(
    ("written", "names"),
    [
        (["3", "12", "3", "40"], {3: "3", 12: "12", 40: "40"}),  # whole numbers as they are
        (["007", "7", "007", "8"], {0: "007", 1: "7", 2: "8"}),  # text is no number
        (["größe", "b", "größe", "c, d"], {0: "b", 1: "c, d", 2: "größe"}),
    ],
)
def test_labels_are_whole_numbers_or_text(tmp_path, written, names):
    rows = photographs(tmp_path, classes=4, images=2)
    for row, number in zip(rows, [0, 0, 0, 0, 1, 1, 3, 3], strict=True):
        row["label"] = written[number]
    benchmark = table(write_csv(tmp_path / "items.csv", rows))
    assert {**benchmark.train.class_names, **benchmark.test.class_names} == names


def test_numbers_that_pandas_made_floats_of_are_whole(tmp_path):
    rows = photographs(tmp_path, classes=4)
    labels = pa.array([float(int(str(row["label"])[-1])) for row in rows])
    pq.write_table(pa.table({"path": [row["path"] for row in rows], "label": labels}), tmp_path / "items.parquet")
    benchmark = table(tmp_path / "items.parquet")
    assert set(benchmark.train.labels) | set(benchmark.test.labels) == {0, 1, 2, 3}


def test_without_a_split_classes_are_drawn_by_a_seed(tmp_path):
    rows = [{key: row[key] for key in ("path", "label")} for row in photographs(tmp_path, classes=8)]
    file = write_csv(tmp_path / "items.csv", rows)
    names = {}
    for seed in range(4):
        benchmark = table(file, split_seed=seed, test_fraction=0.25)
        assert len(benchmark.test.classes()) == 2
        assert not set(benchmark.train.labels) & set(benchmark.test.labels)
        names[seed] = tuple(benchmark.test.class_names.values())
        assert tuple(table(file, split_seed=seed, test_fraction=0.25).test.class_names.values()) == names[seed]
    assert len(set(names.values())) > 1
    assert "25% of the classes for test, by seed 3" in benchmark.layout


def test_columns_are_mapped_and_what_is_not_used_is_told(tmp_path):
    rows = [
        {
            "file": row["path"],
            "species": row["label"],
            "part": row["split"],
            "height": 30,
            "genus": "g" + str(row["label"])[-1],
        }
        for row in photographs(tmp_path)
    ]
    file = write_csv(tmp_path / "items.csv", rows)
    mapping = {"path": "file", "label": "species", "split": "part", "super_label": "genus"}
    with pytest.warns(DataWarning, match="columns not used: height"):
        benchmark = load("table", file=str(file), columns=mapping)
    assert "not used: height" in benchmark.layout and set(benchmark.train.super_labels) == {0, 1, 2}


@pytest.mark.parametrize(
    ("separator", "first"), [(";", ""), ("\t", ""), (";", "sep=;\r\n"), ("|", '"SEP=|"\r\n'), (",", "sep=,\r\n")]
)
def test_other_separators_a_byte_order_mark_excel_s_first_line_and_windows_paths(tmp_path, separator, first):
    rows = photographs(tmp_path)
    lines = [
        separator.join(map(str, [str(row["path"]).replace("/", "\\"), row["label"], row["split"]])) for row in rows
    ]
    text = "\r\n".join([separator.join(["path", "label", "split"]), *lines])
    (tmp_path / "items.csv").write_bytes(b"\xef\xbb\xbf" + (first + text).encode())
    assert len(table(tmp_path / "items.csv").train) == 12


def test_boxes_are_cut_out_of_their_images(tmp_path):
    rows = photographs(tmp_path, classes=4, images=2)
    for number, row in enumerate(rows):
        row |= {"path": rows[0]["path"], "x1": number, "y1": 2, "x2": number + 9.5, "y2": 12}
    rows[-1] |= dict.fromkeys(("x1", "y1", "x2", "y2"), "")  # the whole image
    benchmark = table(write_csv(tmp_path / "items.csv", rows))
    whole = np.asarray(Image.open(tmp_path / str(rows[0]["path"])).convert("RGB"))
    assert np.array_equal(np.asarray(benchmark.train.read(1)), whole[2:12, 1:11])
    assert benchmark.test.read(3).size == (40, 30)
    source = benchmark.train.table.source
    assert np.array_equal(pixels(source.encoded(benchmark.train.path(1))), whole[2:12, 1:11])


def test_a_box_outside_of_its_image_makes_it_unreadable(tmp_path):
    rows = photographs(tmp_path, classes=4, images=2)
    for row in rows:
        row |= {"x1": 100, "y1": 0, "x2": 110, "y2": 9}
    with pytest.raises(OSError, match="100,0,110,9 is outside of the image, which has 40 x 30 pixels"):
        table(write_csv(tmp_path / "items.csv", rows)).train.read(0)


def test_queries_and_gallery_by_split_or_by_marks(tmp_path):
    rows = photographs(tmp_path)
    marked = [{**row, "is_query": index % 2 == 0, "is_gallery": index % 2 == 1} for index, row in enumerate(rows)]
    by_marks = table(write_csv(tmp_path / "marks.csv", marked))
    named = [dict(row) for row in rows]
    for index, row in enumerate(named):
        row["split"] = ("query", "gallery")[index % 2] if row["split"] == "test" else "train"
    by_split = table(write_csv(tmp_path / "named.csv", named))
    for benchmark in (by_marks, by_split):
        assert benchmark.test is None and len(benchmark.query) == len(benchmark.gallery) == 6
    assert list(by_marks.query.paths) == list(by_split.query.paths)
    everything = table(
        write_csv(tmp_path / "both.csv", [{**row, "is_query": True, "is_gallery": True} for row in rows])
    )
    assert everything.query is None and len(everything.test) == 12
    marked[-2]["is_gallery"] = True
    with pytest.raises(DataError, match=r"both\.csv, row 23: 1 image with is_query and is_gallery"):
        table(write_csv(tmp_path / "both.csv", marked))


def test_images_in_parquet_shards(tmp_path):
    labels = [number % 6 for number in range(40)]
    hub_parquet(tmp_path / "data", labels, [f"bird {number}" for number in range(6)])
    benchmark = table("data/*.parquet", tmp_path)
    assert len(benchmark.train) + len(benchmark.test) == 40
    assert set(benchmark.train.class_names.values()) < {f"bird {number}" for number in range(6)}
    where = {path: index for index, path in enumerate(benchmark.train.paths)}
    for row in (0, 17, 39):  # whichever of them is for training
        path = (
            f"data/train-00000-of-00002.parquet/{row}" if row < 20 else f"data/test-00001-of-00002.parquet/{row - 20}"
        )
        if path in where:
            assert np.array_equal(np.asarray(benchmark.train.read(where[path])), pixels(png(row)))
            assert benchmark.train.labels[where[path]] == labels[row]
    named = table({"train": "data/train-*.parquet", "test": "data/test-*.parquet"}, tmp_path, closed_set=True)
    assert (len(named.train), len(named.test)) == (20, 20)
    again = pickle.loads(pickle.dumps(named.train))
    assert again.fingerprint() == named.train.fingerprint()


def test_a_table_is_trained_and_scored_on_like_files(tmp_path):
    """Every cache gives the pixels of the same images in a folder."""
    labels = [number % 4 for number in range(16)]
    hub_parquet(tmp_path, labels, None, shards=1)
    for row, label in enumerate(labels):
        path = tmp_path / f"folders/{'train' if label % 2 else 'test'}/{label}/{row:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(row))
    inside = table("*.parquet", tmp_path, split_seed=0, test_fraction=0.5)
    label = int(inside.train.labels[0])
    rows = np.flatnonzero(inside.train.labels == label)
    settings = ImageSettings(train_crop=16, test_resize=24, test_crop=16)
    files = load("class_folders", tmp_path / "folders")
    other = files.train if label % 2 else files.test
    same = other.select(np.flatnonzero([other.class_names[int(each)] == str(label) for each in other.labels]), "same")
    batches = [
        next(iter(EvaluationImages(part, settings).batches(8)))[0] for part in (inside.train.select(rows, "own"), same)
    ]
    assert batches[0].shape == (4, 3, 16, 16) and bool((batches[0] == batches[1]).all())
    for cache in ("decoded", "encoded", "none"):
        images = TrainingImages(inside.train, settings.model_copy(update={"cache": cache}), workers=2)
        found, _ = next(images.batches(np.array([[0, 1, 2, 3]]), epoch=1))
        images.close()
        assert found.shape == (4, 3, 16, 16) and not images.unreadable


@pytest.mark.parametrize(
    ("name", "classes", "train", "images"), [("cub200", 200, 100, (5864, 5924)), ("cars196", 196, 98, (8054, 8131))]
)
@pytest.mark.parametrize("first", [0, 1])
def test_copies_of_the_hub_have_the_official_split_and_counts(tmp_path, name, classes, train, images, first):
    sides = [*np.array_split(np.arange(images[0]), train), *np.array_split(np.arange(images[1]), classes - train)]
    sizes = list(map(len, sides))
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(classes), sizes))
    one = png(0, (8, 8))
    for shard, rows in enumerate(np.array_split(labels, 2)):  # the classification split, with every class on both sides
        struct = pa.array([{"bytes": one, "path": None}] * len(rows), STRUCT)
        content = pa.table({"image": struct, "label": pa.array(rows + first), "unused": pa.array(rows)})
        (tmp_path / "data").mkdir(exist_ok=True)
        pq.write_table(content, tmp_path / f"data/{('test', 'train')[shard]}-00000-of-00001.parquet")
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        benchmark = load(name, tmp_path, strict=True)
    assert set(benchmark.train.labels) == set(range(1, train + 1))
    assert set(benchmark.test.labels) == set(range(train + 1, classes + 1))
    assert benchmark.test.read(0).size == (8, 8) and "parquet" in benchmark.layout


def test_class_names_with_their_number_say_it_themselves(tmp_path):
    names = [f"{number:03d}.Bird" for number in (2, 1, 150, 200)]
    hub_parquet(tmp_path, [0, 1, 2, 3] * 3, names)
    with pytest.warns(DataWarning, match="officially 100 classes"):
        benchmark = load("cub200", tmp_path)
    assert list(benchmark.train.labels[:2]) == [2, 1] and set(benchmark.test.labels) == {150, 200}


def test_another_table_is_no_copy_of_a_benchmark(tmp_path):
    hub_parquet(tmp_path, list(range(300)), None)
    with pytest.raises(DataError, match=r"class 201 in column 'label'; cub200 has the classes 1 to 200"):
        load("cub200", tmp_path)


def write_tar(path: Path, samples: list[tuple[str, dict[str, bytes]]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for key, members in samples:
            for suffix, content in members.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def test_shards_of_webdataset(tmp_path):
    for shard in range(2):
        samples = []
        for row in range(12):
            cells = {"split": "train" if row % 4 < 2 else "test", "super_label": "s", "height": 3}
            members = {"png": png(shard * 12 + row), "cls": str(row % 4).encode(), "json": json.dumps(cells).encode()}
            samples.append((f"x/{row:04d}", members))
        write_tar(tmp_path / f"shard-{shard:03d}.tar", samples)
    benchmark = table("shard-*.tar", tmp_path)
    assert (len(benchmark.train), len(benchmark.test), set(benchmark.train.labels)) == (12, 12, {0, 1})
    assert benchmark.train.path(6) == "shard-001.tar/x/0000.png"
    assert np.array_equal(np.asarray(benchmark.train.read(6)), pixels(png(12)))
    assert pickle.loads(pickle.dumps(benchmark.test)).read(0).size == (40, 30)


def test_known_classes_on_both_sides_only_when_asked_for(tmp_path):
    rows = [{key: row[key] for key in ("path", "label")} for row in photographs(tmp_path, images=7)]
    file = write_csv(tmp_path / "items.csv", rows)
    split_by_image = [{**row, "split": ("train", "test")[index % 2]} for index, row in enumerate(rows)]
    both = write_csv(tmp_path / "both.csv", split_by_image)
    with pytest.raises(
        DataError, match=r"both in train and in test.*closed_set: true and validation.scheme: image_hold"
    ):
        table(both)
    benchmark = table(file, closed_set=True)
    assert set(benchmark.train.labels) == set(benchmark.test.labels)
    assert not set(benchmark.train.paths) & set(benchmark.test.paths)
    (fold,) = split(benchmark.train, ValidationSettings(scheme="image_holdout", fraction=0.4))
    assert set(fold.fit.labels) == set(fold.validation.labels) == set(benchmark.train.labels)
    assert not set(fold.fit.rows) & set(fold.validation.rows) and len(fold.fit) + len(fold.validation) == len(
        benchmark.train
    )
    assert np.unique(fold.validation.labels, return_counts=True)[1].min() >= 2  # each finds another of its class


# ---- what is wrong with a table


def test_the_block_of_a_file_and_the_command(tmp_path, capsys):
    file = write_csv(tmp_path / "items.csv", [{**row, "colour": "red"} for row in photographs(tmp_path)])
    with pytest.warns(DataWarning, match="colour"):
        benchmark = load_dataset(DatasetSettings(name="table", file=str(file)))
    assert len(benchmark.train) == 12
    assert data_command(["check", "table", str(file)]) == 0
    said = capsys.readouterr().out
    assert "items.csv, columns path, label, split; columns not used: colour" in said and "Nothing to correct" in said
