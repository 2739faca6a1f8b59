"""Tables in which something is wrong: what is said, and that nothing else than one message comes of it."""

import csv

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxtune.data import load
from ctxtune.data.official_counts import DataWarning
from ctxtune.errors import DataError
from tests.helpers.tables import hub_parquet, photographs, table, write_csv


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CTXTUNE_CACHE", str(tmp_path / "cache"))


GOOD = {"path": "images/0_0.png", "label": "bird 0", "split": "train"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": ""}, "row 3: there is no label"),
        ({"path": ""}, "row 3: there is no path"),
        ({"split": ""}, "row 3: there is no split"),
        (
            {"split": "trian"},
            r"row 3: split 'trian': expected train, and test or query and gallery; found test \(12\), train \(11\), trian",
        ),
        ({"path": "images/none.png"}, r"row 3: the image images/none\.png is not under"),
        ({"label": "a\x1b[31m"}, r"row 3: label: a control character \(U\+001B\)"),
        ({"label": "x" * 3_000_000}, "row 3: label: a text of 3,000,000 characters is too long"),
        ({"path": "../0_0.png"}, r"row 3: the path \.\./0_0\.png leads out of .*trial\.dataset\.root"),
        ({"path": "/etc/passwd"}, "row 3: the path /etc/passwd leads out of"),
        ({"path": "https://example.org/1.png"}, "row 3: https://example.org/1.png is an address"),
    ],
)
def test_a_wrong_cell_is_named_with_its_row(tmp_path, change, said):
    rows = photographs(tmp_path)
    rows[2] |= change
    with pytest.raises(DataError, match=r"items\.csv, " + said):
        table(write_csv(tmp_path / "items.csv", rows))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (pa.array([1.0, float("nan"), 2.0, 3.0]), "row 2: there is no label"),
        (pa.array([1, None, 2, None]), "row 2: there is no label; 2 of 4 rows have none"),
        (
            pa.array([1.5, 2.0, 3.0, 4.0]),
            "row 1: label must be text or whole numbers; found 1.5 in a column of type double",
        ),
        (
            pa.array([[1], [2], [3], [4]]),
            r"row 1: label must be text or whole numbers; found \[1\] in a column of type list",
        ),
        (pa.array([b"a", b"b", b"c", b"d"]), "of type binary"),
    ],
)
def test_labels_of_a_wrong_type(tmp_path, values, said):
    photographs(tmp_path)
    content = pa.table({"path": [f"images/{row}_0.png" for row in range(4)], "label": values})
    pq.write_table(content, tmp_path / "items.parquet")
    with pytest.raises(DataError, match=said):
        table(tmp_path / "items.parquet")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.csv", None, "there is no file"),
        ("empty.csv", b"", "cannot be read as a table"),
        ("head.csv", b"path,label\n", "there are no rows in it"),
        ("twice.csv", b"path,label,label\na,b,c\n", "two columns are called 'label'"),
        ("ragged.csv", b"path,label\na,b\nc\n", "cannot be read as a table"),
        ("bytes.csv", b"path,label\n\xff\xfe,b\n", "cannot be read as a table|not a text in UTF-8"),
        ("near.csv", b"path,lable\na,b\n", "there is no column label; is it 'lable'"),
        ("other.csv", b"a,b\n1,2\n", "there is no column label. Found: a, b"),
        ("no.parquet", b"PAR1 this is none PAR1", "cannot be read as parquet"),
        ("no.tar", b"x" * 2000, "cannot be read as an uncompressed tar archive"),
        ("wide.csv", "path,label\na,b\n".encode("utf-16-le"), "looks like UTF-16"),
        ("pipes.csv", b"path|label\na|b\n", "one column: cells are separated by commas, semicolons or tabs"),
        ("items.xlsx", b"PK", "expected .csv, .tsv, .parquet, .tar"),
    ],
)
def test_a_file_that_is_no_table(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        table(tmp_path / name)


def test_a_mapping_of_columns_that_are_not_there(tmp_path):
    file = write_csv(tmp_path / "items.csv", photographs(tmp_path))
    with pytest.raises(DataError, match=r"dataset.columns.label: there is no column 'lbl'; did you mean label\?"):
        table(file, columns={"label": "lbl"})
    with pytest.raises(DataError, match=r"dataset.columns: there is no 'klass'; it maps path, image, label"):
        table(file, columns={"klass": "label"})


@given(cut=st.floats(0, 1), noise=st.binary(max_size=3), place=st.floats(0, 1))
def test_a_damaged_parquet_file_is_one_message_or_unreadable_images(tmp_path_factory, cut, noise, place):
    folder = tmp_path_factory.mktemp("damaged")
    hub_parquet(folder, [number % 4 for number in range(12)], None, shards=1)
    (file,) = folder.glob("*.parquet")
    content = file.read_bytes()
    at = int(place * len(content))
    content = content[:at] + noise + content[at + len(noise) :]
    file.write_bytes(content[: int((0.5 + cut) * len(content))])
    try:
        benchmark = table(file)
    except DataError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
        return
    for index in range(len(benchmark.train)):
        try:
            benchmark.train.read(index)
        except (OSError, ValueError) as error:
            assert str(error)


WORDS = st.sampled_from(["nan", "train", "test", "1e400"])
CELLS = st.one_of(st.none(), st.text(max_size=5), st.integers(-3, 3).map(str), WORDS)
NAMES = st.permutations(["path", "label", "split", "x1", "is_query"])


@given(rows=st.lists(st.lists(CELLS, min_size=5, max_size=5), min_size=1, max_size=8), names=NAMES)
def test_any_csv_is_read_or_refused(tmp_path_factory, rows, names):
    folder = tmp_path_factory.mktemp("any")
    file = folder / "items.csv"
    with file.open("w", newline="", encoding="utf-8", errors="surrogateescape") as opened:
        writer = csv.writer(opened)
        writer.writerow(names)
        writer.writerows([["" if cell is None else cell for cell in row] for row in rows])
    with pytest.raises(DataError) as refused:
        table(file)
    assert len(str(refused.value)) < 2000


def test_a_class_in_two_super_classes_is_told(tmp_path):
    rows = [row | {"super_label": number % 2} for number, row in enumerate(photographs(tmp_path))]
    with pytest.warns(
        DataWarning, match=r"3 of its classes lie in several super-classes \('bird 0', .*a class has one"
    ):
        load("table", file=str(write_csv(tmp_path / "items.csv", rows)))
