"""Temporary folders of our own: closed to other users, deleted at the end, and cleared away after a process that was killed.

Each holds a locked file for as long as its process lives: a folder whose file can be locked belongs to nobody any more.
"""

import contextlib
import os
import platform
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ctxtune.locks import lock_for_certain

PREFIX = "ctxtune-"
_LOCK = "lock"


@contextlib.contextmanager
def private_folder(parent: Path | None = None) -> Iterator[Path]:
    """A new folder that only this user can enter, deleted at the end.

    Args:
        parent: where it lies; None for the system's temporary folder.

    Raises:
        OSError: it cannot be made.
    """
    parent = parent or Path(tempfile.gettempdir())
    # Under its final name it is never seen without the lock.
    new = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=parent))
    folder = new.with_name(new.name.removeprefix("."))
    descriptor = None
    try:
        descriptor = os.open(new / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(descriptor, platform.node().encode())
        lock_for_certain(descriptor)  # on a file system without locks such a folder is never taken for abandoned
        new.rename(folder)
        yield folder
    finally:
        for path in (folder, new):
            _remove(path)
        if descriptor is not None:
            os.close(descriptor)


def remove_abandoned(parent: Path | None = None) -> list[Path]:
    """Delete this user's private folders whose process was killed.

    Args:
        parent: where they lie; None for the system's temporary folder.

    Returns:
        those that were deleted.
    """
    removed = []
    with contextlib.suppress(OSError):
        for folder in (parent or Path(tempfile.gettempdir())).glob(f"{PREFIX}*"):
            if _is_abandoned(folder):
                _remove(folder)
                removed.append(folder)
    return removed


def _remove(folder: Path) -> None:
    """Delete a folder, its lock last: one that Ray's last processes still write into is then cleared away by a later run."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != _LOCK:
                path.unlink()
        if all(path.name == _LOCK for path in folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    try:
        kind = folder.lstat()
        if not stat.S_ISDIR(kind.st_mode) or kind.st_uid != os.getuid():
            return False
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:  # not one of ours, or just deleted by its own process
        return False
    try:
        # The folder may be shared between machines that do not see each other's locks.
        return lock_for_certain(descriptor) and os.read(descriptor, 1024) == platform.node().encode()
    except OSError:
        return False
    finally:
        os.close(descriptor)
