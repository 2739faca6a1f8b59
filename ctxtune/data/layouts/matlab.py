"""MATLAB files, read by SciPy in a process of its own: on some damaged ones its reader ends the process."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ctxtune.errors import DataError
from ctxtune.text import shortened

_PATIENCE = 600.0
_READER = """
import pickle, sys
from scipy.io import loadmat
try:
    found = loadmat(sys.argv[1], squeeze_me=True), ""
except BaseException as error:
    found = {}, str(error) or type(error).__name__
pickle.dump(found, sys.stdout.buffer)
"""


def mat_content(path: Path) -> dict[str, Any]:
    """The variables of a MATLAB file. Raises DataError with the file's name."""
    try:
        with path.open("rb") as file:
            file.read(1)
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    return _content(path.absolute(), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=8)
def _content(path: Path, size: int, changed: int) -> dict[str, Any]:
    """Read once as long as size and time of change are the same."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _READER, str(path)], capture_output=True, timeout=_PATIENCE, check=True
        )
        content, problem = pickle.loads(done.stdout)
    except subprocess.CalledProcessError:
        content, problem = {}, "its reader crashed: the file is damaged"
    except subprocess.TimeoutExpired:
        content, problem = {}, f"not within {_PATIENCE:.0f} s"
    if problem:
        raise DataError(f"{path}: not a MATLAB file that SciPy can read ({shortened(problem, 200)})")
    found: dict[str, Any] = content
    return found


def read_mat(path: Path, variable: str, fields: Sequence[str]) -> Any:
    """The struct array `variable` of a MATLAB file, checked for `fields`. Raises DataError with the file's name."""
    content = mat_content(path)
    if variable not in content:
        found = ", ".join(sorted(key for key in content if not key.startswith("__"))) or "nothing"
        raise DataError(f"{path}: no variable {variable!r} in it, found {shortened(found)}")
    array = np.asarray(content[variable])
    lacking = [name for name in fields if name not in (array.dtype.names or ())]
    if lacking:
        raise DataError(f"{path}: {variable} has no field {', '.join(lacking)}, found {array.dtype.names}")
    return array.reshape(-1)
