"""What names say is printed, by every command, and never obeyed."""

import pytest
from rich.table import Table
from rich.text import Text

from ctxtune.consoles import Console
from ctxtune.data.__main__ import main as data
from tests.helpers import trees

HOSTILE = "a\x1b[2J\u202e\r:cat:[b]"
SEEN = r"a\x1b[2J\u202e:cat:[b]"


def in_table(text):
    table = Table()
    table.add_column()
    table.add_row(text)
    return table


@pytest.mark.parametrize("given", [lambda text: text, Text, in_table], ids=["text", "styled", "table"])
def test_names_are_printed_as_they_are_and_obeyed_in_nothing(capsys, given):
    Console(soft_wrap=True).print(given(HOSTILE), given("one\ntwo"))
    said = capsys.readouterr().out
    assert "\x1b" not in said and "\r" not in said and "\u202e" not in said
    assert (SEEN in said or SEEN.replace(":cat", r"\r:cat") in said) and "one" in said and r"one\ntwo" not in said


def test_check_prints_file_names_with_control_characters_as_escapes(tmp_path, capsys):
    trees.class_folders(tmp_path, {"train": 2, "test": 2})
    (tmp_path / f"train/class000/{HOSTILE}.jpg").write_bytes(b"no picture")
    (tmp_path / f"train/class000/{HOSTILE}.txt").write_bytes(b"")
    assert data(["check", "class_folders", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "\x1b" not in said and said.count(r"a\x1b[2J\u202e\r:cat:[b]") >= 2
