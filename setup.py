"""What pyproject.toml cannot say: folders of the repository that lie inside the installed package, and the README's links."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
SHIPPED = {
    "ctxtune.search_spaces": "search_spaces",
    "ctxtune.ablations": "ablations",
    "ctxtune.ablations.bases": "ablations/bases",
    "ctxtune.schemas": "schemas",
}


def readme() -> str:
    """The README with absolute links: a package index has no neighbouring files."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    home = re.search(r'^Repository = "(.+)"$', project, re.MULTILINE)[1]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"(!\[[^\]]*\]\()(?!https?:)([^)#]+)", rf"\1{home}/raw/main/\2", text)
    return re.sub(r"((?<!!)\[[^\]]*\]\()(?!https?:|#)([^)]+)", rf"\1{home}/blob/main/\2", text)


setup(
    packages=[*find_packages(include=["ctxtune*"]), *SHIPPED],
    package_dir=SHIPPED,
    long_description=readme(),
    long_description_content_type="text/markdown",
)
