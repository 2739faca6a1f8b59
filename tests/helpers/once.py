"""Things that take long to make, made once for all test processes of a session."""

import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from filelock import FileLock

T = TypeVar("T")
Finished = tuple[Path, subprocess.CompletedProcess[str]]
"""The folder in which a command was run, and what it said."""


SESSION = Path()
"""A folder that all processes of this test session share; set by conftest."""


def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of this session: pytest-xdist gives each process one of its own in it."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if base.name.startswith("popen-") else base


def once(name: str, make: Callable[[Path], T]) -> tuple[Path, T]:
    """A folder and what ``make(folder)`` returned, whichever process of the session called it first; the others wait."""
    assert SESSION.parts, "outside of pytest there is no session"
    folder = SESSION / f"once-{name}"
    result = folder.with_suffix(".pickle")
    with FileLock(folder.with_suffix(".lock")):
        if not result.exists():
            folder.mkdir(exist_ok=True)
            result.write_bytes(pickle.dumps(make(folder)))
        return folder, pickle.loads(result.read_bytes())
