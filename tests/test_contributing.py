"""The walks of CONTRIBUTING.md are followed, line by line, in a copy of the package; what such files name is there."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ctxtune.version import __version__
from tests.helpers.processes import PATIENCE, environment

FENCE = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def walks(repository: Path) -> dict[str, list[tuple[str, str, str]]]:
    """Heading to its blocks: kind (diff, new, python), file, text."""
    text = (repository / "CONTRIBUTING.md").read_text(encoding="utf-8")
    sections = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    found = {title: FENCE.findall(body) for title, body in zip(sections[1::2], sections[2::2], strict=True)}
    return {title: blocks for title, blocks in found.items() if blocks}


def changed(text: str, diff: str) -> str:
    """The text after a change; what the change shows of it must stand there, once."""
    lines = diff.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] in " -")
    after = "".join(line[1:] for line in lines if line[0] in " +")
    assert text.count(before) == 1, f"not there once: {before}"
    return text.replace(before, after)


def test_the_walks_lead_where_they_say(repository, tmp_path):
    for folder in ("ctxtune", "search_spaces", "ablations", "schemas"):
        shutil.copytree(repository / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    found = walks(repository)
    assert set(found) == {"A loss", "A data set", "A scheduler", "A backbone"}
    script = ""
    for title, blocks in found.items():
        assert blocks[-1][0] == "python"
        for kind, file, text in blocks:
            place = tmp_path / file
            if kind == "diff":
                place.write_text(changed(place.read_text(encoding="utf-8"), text), encoding="utf-8")
            elif kind == "new":
                place.write_text(text, encoding="utf-8")
            else:
                script += f"{text}\nprint({title!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == list(found)


@pytest.mark.parametrize("file", ["CONTRIBUTING.md", "CHANGELOG.md", "README.md"])
def test_links_lead_to_what_is_there(repository, file):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", (repository / file).read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (repository / link).exists()] == []


def test_the_version_is_the_same_everywhere(repository):
    citation = yaml.safe_load((repository / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert re.search(rf"^## {re.escape(__version__)}\b", (repository / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_the_hooks_are_the_linters_of_the_environment(repository):
    hooks = yaml.safe_load((repository / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    lint = (repository / "Makefile").read_text()
    for hook in hooks:
        words = hook["entry"].removeprefix(".venv/bin/").split()
        assert f"$(BIN)/{' '.join(words[: 1 + (words[0] == 'ruff')])}" in lint


@pytest.mark.slow
def test_the_notebook_runs_on_a_cpu(repository, tmp_path):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(repository / "docs/examples/first_steps.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=PATIENCE, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = json.dumps([cell.get("outputs", []) for cell in notebook.cells])
    assert "map_at_r" in printed and "Traceback" not in printed
