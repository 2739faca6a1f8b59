"""MATLAB files, read by SciPy in a process of its own: on some damaged ones its reader ends the process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from ctxtune.errors import DataError
from ctxtune.text import shortened

_PATIENCE = 600.0
_READER = """
import json, sys
import numpy as np
from scipy.io import loadmat

def plain(value):
    if isinstance(value, np.ndarray) and value.dtype.names:
        return {name: plain(value.reshape(-1)[name]) for name in value.dtype.names}
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)

try:
    found = [{name: plain(value) for name, value in loadmat(sys.argv[1], squeeze_me=True).items()}, ""]
except BaseException as error:
    found = [{}, str(error) or type(error).__name__]
json.dump(found, sys.stdout)
"""


def mat_content(path: Path) -> dict[str, object]:
    """The variables of a MATLAB file: arrays as lists, struct arrays as a list for each field.

    Raises DataError with the file's name.
    """
    try:
        with path.open("rb") as file:
            file.read(1)
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    return _content(path.absolute(), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=8)
def _content(path: Path, size: int, changed: int) -> dict[str, object]:
    """Read once as long as size and time of change are the same."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _READER, str(path)], capture_output=True, timeout=_PATIENCE, check=True
        )
        content, problem = json.loads(done.stdout)
    except subprocess.CalledProcessError:
        content, problem = {}, "its reader crashed: the file is damaged"
    except subprocess.TimeoutExpired:
        content, problem = {}, f"not within {_PATIENCE:.0f} s"
    if problem:
        raise DataError(f"{path}: not a MATLAB file that SciPy can read ({shortened(problem, 200)})")
    found: dict[str, object] = content
    return found


def read_mat(path: Path, variable: str, fields: Sequence[str]) -> dict[str, list[object]]:
    """The `fields` of the struct array `variable` of a MATLAB file. Raises DataError with the file's name."""
    content = mat_content(path)
    if variable not in content:
        found = ", ".join(sorted(key for key in content if not key.startswith("__"))) or "nothing"
        raise DataError(f"{path}: no variable {variable!r} in it, found {shortened(found)}")
    columns = content[variable]
    lacking = [name for name in fields if not isinstance(columns, dict) or name not in columns]
    if not isinstance(columns, dict) or lacking:
        named = ", ".join(columns) if isinstance(columns, dict) else "no struct"
        raise DataError(f"{path}: {variable} has no field {', '.join(lacking)}, found {shortened(named)}")
    return {name: columns[name] for name in fields}
