"""Files that are whole or not there at all: after an error, after a full disk, after a power cut."""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What says that a disk is full, or that no more may be written on it."""


def write_durably(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file beside its place and put it there once the disk holds it, then have the disk hold its name.

    Raises:
        OSError: it cannot be written, its name with it; what was there before is unchanged, and nothing half-written is left.
    """
    _put(path, path.with_name(f".{path.name}.part"), pieces, durably=True)
    sync_folder(path.parent)


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file that a user asked for beside its place and put it there when it is whole; text as UTF-8.

    Through a link its target is written. A pipe or a device takes the content as it comes.

    Raises:
        OSError: as `write_durably`.
        UnicodeEncodeError: the text is no UTF-8; nothing was changed.
    """
    raw = content.encode() if isinstance(content, str) else content
    if path.exists() and not path.is_file():
        with named(path):
            path.write_bytes(raw)
        return
    target = path.resolve()
    # Two commands may write the same file; a name may have no room for much more.
    _put(target, target.with_name(f".{target.name[:40]}.{os.getpid()}.part"), [raw], durably=False)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Inside, an error of a file is of this one: what a full disk refuses has no name by itself.

    Raises:
        OSError: also where torch has made another error of it.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__ or error.__context__
        if not isinstance(cause, OSError):
            raise
        raise OSError(cause.errno, cause.strerror or str(cause), str(path)) from error


def _put(path: Path, temporary: Path, pieces: Iterable[bytes], *, durably: bool) -> None:
    with named(path):
        try:
            with temporary.open("wb") as file:
                file.writelines(pieces)
                if durably:
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def sync_folder(folder: Path) -> None:
    """Have the disk hold the names in a folder, where its file system can be asked for that."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        return
    finally:
        os.close(handle)
