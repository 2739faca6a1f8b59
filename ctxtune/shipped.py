"""The search spaces and ablations that come with the package, by name.

In a checkout they lie in the top-level folders; in an installed package, inside it (setup.py).
"""

import difflib
from collections.abc import Sequence
from pathlib import Path

from ctxtune.errors import ConfigError, no_such_file

KINDS = ("search_spaces", "ablations")
"""The folders."""
_PACKAGE = Path(__file__).resolve().parent
_TITLES = {"search_spaces": "search space", "ablations": "ablation"}


def shipped_folder(kind: str) -> Path:
    """The folder of a kind: `search_spaces`, `ablations` or `schemas`."""
    inside = _PACKAGE / kind
    return inside if inside.is_dir() else _PACKAGE.parent / kind


def shipped_files(kind: str) -> dict[str, Path]:
    """Name to file, sorted; what ablations only build on (`bases/omniglot`) is among them."""
    folder = shipped_folder(kind)
    found = sorted(folder.rglob("*.yaml"))
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in found}


def find_file(text: str, kinds: Sequence[str] = KINDS) -> Path:
    """The file that a command line names: a path, or else the name of a shipped file.

    A name may be written `cars`, `search_spaces/cars` or `search_spaces/cars.yaml`. A file that is there comes first.

    Args:
        text: as given.
        kinds: where to look for names, in this order.

    Raises:
        ConfigError: there is neither.
    """
    path = Path(text)
    try:
        if path.exists() and not (path.is_dir() and text == path.name):
            return path
    except OSError:  # a name that is too long for a file is too long for a shipped one
        raise no_such_file(path) from None
    found = named(text, kinds)
    if found:
        return found[0]
    if len(path.parts) > 1 or path.suffix:
        raise no_such_file(path)
    known = {name: kind for kind in reversed(kinds) for name in shipped_files(kind)}
    near = difflib.get_close_matches(text, known, n=1)
    hint = f"did you mean {near[0]}?" if near else "python -m ctxtune.copy lists them"
    raise ConfigError(f"{text}: no such file, and no shipped {' or '.join(_TITLES[kind] for kind in kinds)}; {hint}")


def named(text: str, kinds: Sequence[str] = KINDS) -> list[Path]:
    """The shipped files of a name, at most one of each kind."""
    files = []
    for kind in kinds:
        name = text.removesuffix(".yaml").removeprefix(f"{kind}/")
        if text.endswith(".yaml") and not text.startswith(f"{kind}/"):
            continue  # a file's name says that a file is meant
        if file := shipped_files(kind).get(name):
            files.append(file)
    return files


def described(file: Path) -> str:
    """The first sentence of a shipped file's comments."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        text = line.lstrip("# ").strip()
        if not text.startswith("yaml-language-server"):
            lines.append(text)
    sentence, _, _ = " ".join(lines).partition(". ")
    return sentence.rstrip(".")
