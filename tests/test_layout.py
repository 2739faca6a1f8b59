"""The tests themselves: where they lie, what they import, what they leave alone, and that their map is true."""

import ast
import re
import socket
from pathlib import Path

import pytest

WITHOUT_ROOM = {"benchmarks", "docker", "evaluation", "fixtures", "helpers"}


def imported(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    return names | {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}


def test_no_test_imports_another(repository):
    for file in (repository / "tests").rglob("*.py"):
        others = {name for name in imported(file) if re.match(r"tests(\..*)?\.test_|test_", name)}
        assert not others, f"{file}: what tests share belongs into tests/helpers"


def test_folders_mirror_the_package(repository):
    for folder in {file.parent.relative_to(repository / "tests") for file in (repository / "tests").rglob("test_*.py")}:
        assert (
            folder.parts[:1] in {(), *((name,) for name in WITHOUT_ROOM)} or (repository / "ctxtune" / folder).is_dir()
        )


def test_the_map_of_the_tests_names_what_is_there_and_every_room(repository):
    text = (repository / "docs/testing.md").read_text()
    links = re.findall(r"\]\(\.\./([^)]+)\)", text)
    assert [link for link in links if not (repository / link).exists()] == []
    rooms = {file.relative_to(repository / "tests").parts[0] for file in (repository / "tests").rglob("*/test_*.py")}
    named = {Path(link).parts[1] for link in links if link.startswith("tests/")}
    assert rooms - named - {"benchmarks"} == set()


def test_tests_use_neither_the_users_home_nor_the_network():
    assert "ctxtune-tests" in str(Path.home())
    with pytest.raises(RuntimeError, match="no network"), socket.socket() as outside:
        outside.connect(("192.0.2.1", 80))  # an address for documentation (RFC 5737)
