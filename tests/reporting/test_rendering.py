"""Texts of the user's in a report's files: seen as they are, by whatever reads the file."""

import csv
import io
import re

import pytest

from ctxtune.reporting.document import Document, Section, Table
from ctxtune.reporting.rendering import csv_table, latex_table, markdown, markdown_table, write_document
from tests.helpers.disks import fill, tiny_disk

HOSTILE = [
    "<script>alert(1)</script>",
    '=HYPERLINK("http://x")',
    "+cmd|' /C calc'!A0",
    "-2+3+cmd",
    "@SUM(A1)",
    "[1ex]",
    "*",
]


def table(cells: list[str], header: list[str] | None = None) -> Table:
    return Table(
        "names", "Names <b>bold</b>.", header or ["name", "score"], [[cell, "0.5"] for cell in cells], note="<i>n</i>"
    )


def test_markdown_shows_tags_and_leaves_signs_of_comparison():
    text = markdown_table(table([*HOSTILE, "p < 0.05", "a<5"]))
    assert "<script" not in text and "<b>" not in text and "<i>" not in text
    assert "&lt;script>alert(1)&lt;/script>" in text and "p < 0.05" in text and "a<5" in text


def test_a_markdown_document_holds_no_html_of_the_users():
    section = Section("<h1>", ["<img src=x onerror=alert(1)>", table(HOSTILE)])
    text = markdown(Document("<svg>", "<p>", {"<a>": "<a>"}, ["<u>"], [section], notes=["<!-- -->"], study="x"))
    assert not any(tag in text for tag in ("<svg", "<p>", "<a>", "<u>", "<h1", "<img", "<!--", "<script"))


def test_markdown_follows_no_link_and_fetches_no_picture_of_the_users():
    cells = ["![x](http://y/z)", "[x](javascript:alert(1))", "![x][ref]", "&lt;script&gt;"]
    text = markdown_table(table(cells))
    assert r"![x\](http" in text and r"![x\][ref]" in text and "&amp;lt;script&amp;gt;" in text
    assert not re.search(r"[^\\]\][(\[]", text)


def test_a_full_disk_leaves_the_report_that_was_there(tmp_path):
    with tiny_disk(tmp_path / "disk", 256) as disk:
        made = [write_document(Document("first", "", {}, [], [Section("names", [table(HOSTILE)])], study="x"), disk)]
        before = {path: path.read_bytes() for path in disk.rglob("*.*")}
        fill(disk / "ballast")
        with pytest.raises(OSError, match="No space left on device"):
            write_document(Document("second", "", {}, [], [Section("names", [table(HOSTILE * 9)])], study="x"), disk)
        (disk / "ballast").unlink()
        assert made[0].page in before and {path: path.read_bytes() for path in disk.rglob("*.*")} == before


@pytest.mark.parametrize("cell", [text for text in HOSTILE if text[0] in "=+-@"])
def test_a_spreadsheet_computes_nothing(cell):
    for made in (table([cell]), Table("n", "c", ["name"], [], records=[{"name": cell, "score": -0.5}])):
        rows = list(csv.reader(io.StringIO(csv_table(made))))
        assert rows[1][0] == f"'{cell}" and rows[1][1] in ("0.5", "-0.5")


@pytest.mark.parametrize(
    "cell", ["-0.31", "+0.31", "-1.2e-05", "-0.3 ± 0.2", "-", "-1.2 [-3.0, 0.4]", "+12.5 %", "-inf"]
)
def test_figures_keep_their_sign(cell):
    assert next(csv.reader(io.StringIO(csv_table(table(["x"], [cell, "score"]))))) == [cell, "score"]


@pytest.mark.parametrize("cell", ["[1ex]", "*", " [2]"])
def test_no_row_is_an_argument_of_the_rule_or_row_above(cell):
    text = latex_table(table(["first", cell, cell], [cell, "score"]))
    lines = [line for line in text.splitlines() if cell.strip() in line]
    assert len(lines) == 3 and all(line.startswith("{}") for line in lines)
