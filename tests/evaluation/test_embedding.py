"""`ctxtune embed` and `ctxtune search`: real checkpoints and files, and everything that may be wrong told in one message."""

import io
import json
import re
import sys
import tarfile
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from ctxtune import embed, search, train
from ctxtune.data import load
from ctxtune.data.augmentation import normalized
from ctxtune.data.collection import image_collection
from ctxtune.data.reading import evaluation_pixels
from ctxtune.errors import ConfigError, CtxtuneError, DataError
from ctxtune.evaluation import read_checkpoint, restore_model
from ctxtune.evaluation.embedding_folder import ABOUT, INDEX, TABLE, About, Row, read_folder, write_folder
from tests.helpers.disks import tiny_disk
from tests.helpers.trees import write_image

TRIAL_FILE = """
name: {name}
trial:
  dataset: {dataset}
  model: {{backbone: small_conv, width: 8, embedding_dim: 16}}
  sampler: {{batch_size: 16, batches_per_epoch: 2}}
  optimizer: {{lr: 3.0e-3}}
  schedule: {{name: cosine, epochs: 1}}
  image: {image}
  evaluation: {{every: 1, recall_at: [1]}}
"""


def trained(folder: Path, name: str, dataset: str, image: str) -> Path:
    """The folder of a real, short run."""
    (folder / f"{name}.yaml").write_text(TRIAL_FILE.format(name=name, dataset=dataset, image=image))
    with pytest.MonkeyPatch.context() as patch:
        where = ["--results", str(folder / "results"), "--quiet", "--device", "cpu"]
        patch.setattr(sys, "argv", ["train", str(folder / f"{name}.yaml"), *where])
        assert train.main() == 0
    return folder / "results" / name / "train-seed0"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """Class folders of pictures in several sizes, two files that are none among them, one at the top."""
    root = tmp_path_factory.mktemp("photographs")
    for label in range(16):
        for number in range(4):
            write_image(root / f"thing-{label:02d}" / f"{number}.png", 10 * label + number, (40 + number, 34))
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, photographs) -> Path:
    image = "{train_crop: 24, test_resize: 28, test_crop: 24}"
    return trained(tmp_path_factory.mktemp("trained"), "things", f"{{name: class_folders, root: {photographs}}}", image)


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command in this process: its standard output."""

    def call(command, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [command.__name__, *map(str, arguments), "--device", "cpu"])
        assert command.main() == 0
        return capsys.readouterr().out

    return call


@pytest.fixture
def embedded(run, checkpoint, photographs, tmp_path) -> Path:
    run(embed, checkpoint, photographs, "--out", tmp_path / "embedded")
    return tmp_path / "embedded"


def one_by_one(checkpoint: Path, images: list[Image.Image]) -> np.ndarray:
    """The embeddings by another way: each picture by itself, prepared as for the test."""
    stored = read_checkpoint(checkpoint, [])
    model = restore_model(stored)
    views = [torch.from_numpy(evaluation_pixels(image, stored.trial.images).copy()) for image in images]
    with torch.no_grad():
        return torch.cat(
            [model(normalized(view.permute(2, 0, 1)[None], stored.trial.images)) for view in views]
        ).numpy()


def test_a_folder_becomes_a_table_and_an_index_with_the_same_ids(run, checkpoint, photographs, tmp_path):
    (photographs / "broken.jpg").write_bytes(b"no picture")
    try:
        said = run(embed, checkpoint, photographs, "--out", tmp_path / "out")
    finally:
        (photographs / "broken.jpg").unlink()
    assert "unreadable, left out: broken.jpg: not an image file" in said and "64 images embedded as 16 numbers" in said
    table = pq.read_table(tmp_path / "out" / "embeddings.parquet")
    paths, ids = table.column("path").to_pylist(), table.column("id").to_pylist()
    assert len(paths) == 64 and "broken.jpg" not in paths and ids == list(range(1, 65))  # 0 would be broken.jpg
    assert table.column("label").to_pylist() == [path.partition("/")[0] for path in paths]
    values = np.array(table.column("embedding").to_pylist(), dtype=np.float32)
    expected = one_by_one(checkpoint, [Image.open(photographs / path).convert("RGB") for path in paths])
    np.testing.assert_allclose(values, expected, atol=1e-4)
    index = faiss.read_index(str(tmp_path / "out" / "index.faiss"))
    for row in (0, 40):
        np.testing.assert_allclose(index.reconstruct(ids[row]), values[row] / np.linalg.norm(values[row]), atol=1e-5)
    said = json.loads((tmp_path / "out" / "about.json").read_text())
    assert (said["count"], said["dimension"], list(said["left_out"])) == (64, 16, ["broken.jpg"])


def test_pictures_of_data_that_is_made_here_are_prepared_as_those(run, tmp_path):
    """The images of glyphs have one size from the start; a file of another size is brought to it."""
    image = "{train_crop: 32, test_resize: null, test_crop: null}"
    folder = trained(tmp_path, "letters", "{name: glyphs, image_size: 32}", image)
    test = load("glyphs", image_size=32).test
    for index in (3, 400):
        test.read(index).save(tmp_path / f"{index}.png")
    (tmp_path / "pictures").mkdir()
    for index in (3, 400):
        picture = Image.open(tmp_path / f"{index}.png")
        picture.resize((96, 96), Image.Resampling.NEAREST).save(tmp_path / "pictures" / f"{index:03d}.png")
    run(embed, folder, tmp_path / "pictures", "--out", tmp_path / "out")
    found = np.array(pq.read_table(tmp_path / "out" / "embeddings.parquet").column("embedding").to_pylist())
    expected = one_by_one(folder, [test.read(index) for index in (3, 400)])
    cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert (cosines > 0.98).all()


def test_a_search_finds_the_picture_itself_first_and_shows_what_it_found(run, embedded, photographs, tmp_path):
    copy = tmp_path / "a copy & <one>.png"
    copy.write_bytes((photographs / "thing-07" / "2.png").read_bytes())
    said = run(search, embedded, copy, tmp_path / "missing.png", "--top", 3)
    assert f"unreadable, left out: {tmp_path / 'missing.png'}: No such file or directory" in said
    assert re.search(r"1\s+1\.0000\s+thing-07/2\.png\n", said)
    page = (embedded / "search.html").read_text()
    assert page.count("<img") == 4 and page.count("data:image/") == 4
    assert "a copy &amp; &lt;one&gt;.png" in page and "<script" not in page and "http" not in page
    found = json.loads(run(search, embedded, copy, "--json", "--page", tmp_path / "new" / "page.html"))
    assert [len(each["found"]) for each in found] == [8] and (tmp_path / "new" / "page.html").is_file()
    scores = [image["similarity"] for image in found[0]["found"]]
    assert scores == sorted(scores, reverse=True)
    table = pq.read_table(embedded / "embeddings.parquet")
    values = np.array(table.column("embedding").to_pylist())
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    nearest = np.argsort(-values @ values[table.column("path").to_pylist().index("thing-07/2.png")])[:8]
    assert {table.column("id")[int(row)].as_py() for row in nearest} == {image["id"] for image in found[0]["found"]}


def _bytes(seed: int) -> bytes:
    picture = Image.fromarray(np.random.default_rng(seed).integers(0, 255, (30, 36, 3), dtype=np.uint8))
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


@pytest.mark.parametrize("kind", ["parquet", "named", "csv", "tar"])
def test_a_table_needs_no_labels(run, checkpoint, tmp_path, kind):
    place, options = tmp_path / f"items.{kind}", []
    if kind in ("parquet", "named"):
        place, name = tmp_path / "items.parquet", "photo" if kind == "named" else "image"
        pq.write_table(pa.table({name: [_bytes(seed) for seed in range(3)], "price": [1, 2, 3]}), place)
        options = ["--set", "trial.dataset.columns={image: photo}"] if kind == "named" else []
    elif kind == "csv":
        for seed in range(3):
            (tmp_path / f"{seed}.png").write_bytes(_bytes(seed))
        place.write_text("path\n0.png\n1.png\n2.png\n")
    else:
        with tarfile.open(place, "w") as archive:
            for seed in range(3):
                member = tarfile.TarInfo(f"{seed}.png")
                member.size = len(_bytes(seed))
                archive.addfile(member, io.BytesIO(_bytes(seed)))
    run(embed, checkpoint, place, "--out", tmp_path / "out", *options)
    assert pq.read_table(tmp_path / "out" / "embeddings.parquet").column("label").to_pylist() == [None] * 3
    (tmp_path / "query.png").write_bytes(_bytes(1))
    run(search, tmp_path / "out", tmp_path / "query.png")
    assert (tmp_path / "out" / "search.html").read_text().count("<img") == 4


def test_a_folder_is_looked_through_once_and_hidden_files_are_left(tmp_path):
    for name in ("b.png", "deep/er/a.PNG", ".hidden/c.png", "deep/._d.png"):
        write_image(tmp_path / name, 1)
    (tmp_path / "deep" / "loop").symlink_to(tmp_path)
    found = image_collection(tmp_path)
    assert list(found.images.paths) == ["b.png", "deep/er/a.PNG"] and found.labels == (None, "er")


def test_what_is_wrong_with_an_embedding_is_said(run, checkpoint, photographs, embedded, tmp_path):
    empty, broken = tmp_path / "empty", tmp_path / "broken"
    empty.mkdir()
    broken.mkdir()
    (broken / "x.png").write_bytes(b"x")
    table = tmp_path / "table.csv"
    table.write_text("name,label\na,b\n")
    for arguments, words in {
        (tmp_path / "none", photographs): "none: no such checkpoint",
        (table, photographs): "not a checkpoint",
        (checkpoint, tmp_path / "gone"): "there is no such file or folder",
        (checkpoint, empty): "there is no image file in it",
        (checkpoint, broken): "none of its 1 images can be read; the first: x.png: not an image file",
        (checkpoint, table): "there is no column path or image",
    }.items():
        with pytest.raises(CtxtuneError, match=re.escape(words)):
            run(embed, *arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(CtxtuneError, match="holds embeddings; name another folder"):
        run(embed, checkpoint, photographs, "--out", embedded)
    run(embed, checkpoint, photographs, "--out", embedded, "--force")
    with pytest.raises(CtxtuneError, match="--out: nothing can be written"):
        run(embed, checkpoint, photographs, "--out", "/proc/none")


def test_an_index_that_cannot_be_trusted_is_refused(run, checkpoint, photographs, embedded, tmp_path):
    query = photographs / "thing-00" / "0.png"

    def refused(words: str, *options: object, folder: Path = embedded) -> None:
        with pytest.raises(CtxtuneError, match=re.escape(words)):
            run(search, folder, query, *options)

    refused("there is no such folder", folder=tmp_path / "none")
    refused("no embeddings: about.json is missing", folder=photographs)
    refused("--top 0: expected a number from 1", "--top", 0)
    refused("cannot be written", "--page", "/proc/none/page.html")
    refused("no such checkpoint", "--checkpoint", tmp_path / "none.pt")
    other = trained(
        tmp_path, "other", f"{{name: class_folders, root: {photographs}}}", "{train_crop: 24, test_crop: 24}"
    )
    refused("is not the checkpoint that made", "--checkpoint", other)
    refused("there is no such file or folder", "--data", tmp_path / "gone")
    for name in ("index.faiss", "embeddings.parquet"):
        content = bytearray((embedded / name).read_bytes())
        content[len(content) // 2] ^= 1
        whole = (embedded / name).read_bytes()
        (embedded / name).write_bytes(content)
        refused(f"{name}: damaged")
        (embedded / name).unlink()
        refused(f"{name}: No such file")
        (embedded / name).write_bytes(whole)
    about = (embedded / "about.json").read_text()
    (embedded / "about.json").write_text(about.replace('"format": 1', '"format": 2'))
    refused("of format 2, which this version of ctxtune does not know")
    (embedded / "about.json").write_text(about[:-20])
    refused("about.json: damaged")


def test_a_page_without_the_indexed_pictures_says_so(run, checkpoint, photographs, tmp_path):
    moved = tmp_path / "here"
    for path in ("a/1.png", "b/2.png"):
        write_image(moved / path, 3)
    run(embed, checkpoint, moved, "--out", tmp_path / "out")
    moved.rename(tmp_path / "there")
    query = tmp_path / "there" / "a" / "1.png"
    said = run(search, tmp_path / "out", query)
    assert "the page has no pictures of what was found" in said and "a/1.png" in said
    assert (tmp_path / "out" / "search.html").read_text().count("cannot be read") == 2
    run(search, tmp_path / "out", query, "--data", tmp_path / "there")
    assert "cannot be read" not in (tmp_path / "out" / "search.html").read_text()


def test_a_name_that_is_no_utf_8_is_told_before_anything_is_embedded(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "a.png").rename(tmp_path / "\udcff.png")
    with pytest.raises(DataError, match=r"\\udcff.png: a name that is no UTF-8 cannot stand in a table \(1 image\)"):
        image_collection(tmp_path)


def test_embeddings_that_find_no_room_leave_the_earlier_ones(tmp_path):
    def write(count: int) -> About:
        embeddings = np.random.default_rng(count).normal(size=(count, 16)).astype(np.float32)

        def about(sums: dict[str, str]) -> About:
            return About(
                checkpoint="best.pt", fold=None, overrides=(), images="images", columns={}, count=count, dimension=16,
                left_out={}, sha256=sums,
            )  # fmt: skip

        rows = [Row(f"{number}.png", None) for number in range(count)]
        return write_folder(disk / "embedded", np.arange(count), rows, embeddings, about)

    with tiny_disk(tmp_path / "disk", 64) as disk:
        write(20)
        with pytest.raises(ConfigError, match="No space left"):
            write(2000)
        assert read_folder(disk / "embedded").about.count == 20
        assert sorted(path.name for path in (disk / "embedded").iterdir()) == sorted([ABOUT, INDEX, TABLE])
        write(30)
        assert read_folder(disk / "embedded").about.count == 30
