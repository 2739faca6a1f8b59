"""What all layouts share: where data is looked for, how lists are read, and the messages when something is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from ctxtune.errors import DataError
from ctxtune.text import shortened

LARGEST_LABEL = 2**63 - 1
MOST_DIGITS = 30
ANY_LIST = (
    "image lists (header 'image_id class_id super_class_id path', single spaces), one per split: "
    "--set 'trial.dataset.lists={train: FILE, test: FILE}'"
)


def data_root(name: str, root: str | Path | None) -> Path:
    """`root`, or `$CTXTUNE_DATA/NAME`, or `data/NAME` under the working directory."""
    return Path(root) if root is not None else Path(os.environ.get("CTXTUNE_DATA") or "data") / name


def not_found(name: str, root: Path, layouts: Sequence[str], detail: str = "") -> DataError:
    """The one message for data that is not where it should be: where we looked, what we accept, how to say where."""
    state = "there, but in no layout that we know" if root.exists() else "there is no such file or folder"
    in_general = () if name in ("class_folders", "image_list", "omniglot") else (ANY_LIST,)
    accepted = "\n".join(f"  - {layout}" for layout in (*layouts, *in_general))
    return DataError(
        f"{name}: looked in {root.absolute()}: {state}{f' ({detail})' if detail else ''}.\n"
        f"Accepted layouts:\n{accepted}\n"
        "Name another root with --set trial.dataset.root=PATH, or the folder that holds all data sets "
        f"in the environment variable CTXTUNE_DATA (then {name} is expected in $CTXTUNE_DATA/{name})."
    )


def first_folder(candidates: Iterable[Path], *needed: str) -> Path | None:
    """The first candidate that has all `needed` files or folders."""
    return next((path for path in candidates if all((path / item).exists() for item in needed)), None)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, without ends. Raises DataError where it is missing or not UTF-8."""
    try:
        # Not splitlines: file names may hold U+2028 and the like, which ends no line of a file.
        return path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def read_rows(
    path: Path,
    columns: Sequence[str],
    *,
    header: bool = False,
    separator: str | None = " ",
    last_may_hold_it: bool = True,
) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of a text file with `columns`, empty lines left out.

    `header`: the first line must hold the column names. `separator` None is any run of blanks. The last column may
    hold the separator itself (paths with spaces), unless told otherwise. Raises DataError with file and line.
    """
    names = " ".join(columns) if separator in (" ", None) else separator.join(columns)
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        cells = line.strip().split(separator, len(columns) - 1 if last_may_hold_it else -1)
        if header:
            header = False
            if cells != list(columns):
                raise DataError(f"{path}, line {number}: expected the header {names!r}, found {shortened(line)!r}")
            continue
        if len(cells) != len(columns):
            raise DataError(
                f"{path}, line {number}: expected {len(columns)} columns ({names}), found {shortened(line)!r}"
            )
        yield number, cells
    if header:
        raise DataError(f"{path}: empty; expected the header {names!r}")


def whole_number(text: str, what: str, path: Path, line: int) -> int:
    """An integer cell of up to 63 bits. Raises DataError with file and line."""
    if not (text.isascii() and text.removeprefix("-").isdecimal()):
        raise DataError(f"{path}, line {line}: {what} must be a whole number, found {shortened(text)!r}")
    if len(text) > MOST_DIGITS or abs(int(text)) > LARGEST_LABEL:
        raise DataError(f"{path}, line {line}: {what} must be at most {LARGEST_LABEL}, found {shortened(text)}")
    return int(text)


def require_files(root: Path, paths: Sequence[str], where: Callable[[int], str]) -> None:
    """Every path must be a file under `root`; each folder is listed once, no file is opened.

    `where(position)` names the place that asks for it. Raises DataError with the first that is missing, and how many.
    """
    listed: dict[str, frozenset[str]] = {}
    missing = []
    for position, path in enumerate(paths):
        folder, _, name = path.rpartition("/")
        if folder not in listed:
            listed[folder] = _names(root / folder)
        if name not in listed[folder]:
            missing.append(position)
    if missing:
        first = missing[0]
        more = f"; {len(missing)} of its {len(paths)} images are missing" if len(missing) > 1 else ""
        slashes = "; folders are separated by / and not by \\" if "\\" in paths[first] else ""
        raise DataError(
            f"{where(first)}: the image {shortened(paths[first], 200)} is not under {root.absolute()}{slashes}{more}"
        )


def _names(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries)
    except (OSError, ValueError):  # ValueError: a NUL in a path
        return frozenset()


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in `folder`, sorted, hidden ones left out."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
