"""Locks on files, freed when their process ends, however it ends.

Written out over `fcntl` because the library for it (filelock) takes a file system that has no locks (ENOLCK: NFS without
a lock service) for one whose lock is held by somebody else.
"""

import fcntl
import warnings
from typing import IO


def try_lock(file: IO[str] | int) -> bool:
    """Lock an open file until it is closed; false if another process holds it.

    Where the file system has no locks the user is warned and the file counts as locked.
    """
    return _locked(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def lock(file: IO[str] | int) -> None:
    """As `try_lock`, but wait for another process."""
    _locked(file, fcntl.LOCK_EX)


def _locked(file: IO[str] | int, how: int) -> bool:
    try:
        fcntl.flock(file, how)
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
