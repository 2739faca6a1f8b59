"""Hooks of mkdocs: the README as the first page, and links to files of the repository that are not on the site."""

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)]*)?\)")


def _repository() -> str:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^Repository = "(.+)"$', project, re.MULTILINE)
    assert found is not None
    return found[1]


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A page's text as the site has it. Raises FileNotFoundError for a link to a file that is not there."""
    place = page.file.src_uri
    text, folder = (markdown, posixpath.dirname(f"docs/{place}"))
    if place == "index.md":
        text, folder = (ROOT / "README.md").read_text(encoding="utf-8"), ""
    repository = _repository()

    def moved(match: re.Match[str]) -> str:
        target = match[2]
        if "://" in target or target.startswith(("mailto:", "/")):
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        if not (ROOT / path).exists():
            raise FileNotFoundError(f"{place}: the link {target} leads to {path}, which is not there")
        if path.startswith("docs/") and (ROOT / path).is_file():
            return f"{match[1]}{posixpath.relpath(path, posixpath.dirname(f'docs/{place}'))}{match[3] or ''})"
        return f"{match[1]}{repository}/blob/main/{path})"

    return LINK.sub(moved, text)
