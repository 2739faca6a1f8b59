"""Locks on files, freed when their process ends, however it ends.

Written out over `fcntl`, since the library for it (filelock) cannot keep two promises. Up to version 3, the last for
Python 3.10, it takes almost every error of `flock` for a lock that somebody else holds: on NFS without a lock service
(ENOLCK) a sweep would be refused as running already. From version 4 on it falls back, where there is no `flock` (ENOSYS), to
a file whose existence is the lock, and which a killed process leaves behind.
"""

import warnings
from pathlib import Path
from typing import IO

from ctxtune.errors import ConfigError

try:
    import fcntl
except ImportError:  # a system that has no such locks
    fcntl = None  # type: ignore[assignment]


def open_lock(path: Path) -> IO[str]:
    """Open a file that is to be locked, made where it is missing.

    Raises:
        ConfigError: it is no file, or it may not be written.
    """
    try:
        return path.open("a")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be opened for a lock ({error.strerror or error}); put that right, or move it away"
        ) from None


def lock_for_certain(file: IO[str] | int) -> bool:
    """Lock an open file until it is closed; true only if that is certain: no other process, and no lack of locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def try_lock(file: IO[str] | int) -> bool:
    """Lock an open file until it is closed; false if another process holds it.

    Where the file system has no locks the user is warned and the file counts as locked.
    """
    return _locked(file, wait=False)


def lock(file: IO[str] | int) -> None:
    """As `try_lock`, but wait for another process."""
    _locked(file, wait=True)


def _locked(file: IO[str] | int, wait: bool) -> bool:
    try:
        if fcntl is None:
            raise OSError("this system has none")
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        name = getattr(file, "name", "a file")
        why = error.strerror or error
        warnings.warn(
            f"{name}: its file system has no locks ({why}); see that no second process works in this folder",
            stacklevel=3,
        )
    return True
