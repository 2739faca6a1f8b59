"""The site of the docs is built strictly, and its pages fetch nothing from elsewhere."""

import re
import subprocess
import sys

import pytest

from tests.helpers.processes import PATIENCE, environment

FETCHED = re.compile(
    r'<(?:script|img|iframe|source)\b[^>]*\bsrc="(https?:|//)'
    r'|<link\b[^>]*rel="(?:stylesheet|preconnect|icon)"[^>]*href="https?:'
)


@pytest.mark.slow  # `make docs`, which CI runs too, builds it as strictly
def test_the_site_is_built_strictly_and_needs_no_network(repository, tmp_path):
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=repository,
        env=environment(repository, NO_MKDOCS_2_WARNING="1"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    pages = {
        page.relative_to(tmp_path).as_posix(): page.read_text(encoding="utf-8") for page in tmp_path.rglob("*.html")
    }
    texts = (repository / "docs").rglob("*.md")
    sources = {file.relative_to(repository / "docs").with_suffix(".html").as_posix() for file in texts}
    assert sources <= set(pages)
    assert {name for name, page in pages.items() if FETCHED.search(page)} == set()
    assert "contextual_similarity" in pages["reference.html"] and "epsilon" in pages["reference.html"]
    assert "Two commands" in pages["index.html"]  # the README


def test_what_is_fetched_from_elsewhere_is_seen():
    """The check above is not blind."""
    assert FETCHED.search('<link rel="stylesheet" href="https://fonts.googleapis.com/css">')
    assert FETCHED.search('<script src="https://unpkg.com/x.js"></script>') and not FETCHED.search(
        '<a href="https://x.org">'
    )
