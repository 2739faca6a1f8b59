"""Image files: in a folder, in a zip archive, scaled to one size; all read as upright RGB."""

from __future__ import annotations

import io
import os
import re
import stat
import threading
import warnings
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ctxtune.image_modes import to_rgb

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm"})

# RuntimeError: encrypted; NotImplementedError is one: an unknown compression or version. ValueError: places that cannot be.
BROKEN_ZIP = (KeyError, zipfile.BadZipFile, RuntimeError, zlib.error, EOFError, ValueError)

# Broken EXIF is not our concern. Said once: images are decoded in threads, and filters that several threads set and
# take back at a time end up mixed (`warnings.catch_warnings` is for one thread).
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
# What is large is told by `check`; what is too large is refused below.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def is_image_name(name: str) -> bool:
    """True for names of image files; `._*` (macOS resource forks) and hidden files are none."""
    base = name.rsplit("/", 1)[-1]
    return not base.startswith(".") and os.path.splitext(base)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122


def decode(data: bytes) -> Image.Image:
    """An encoded image as upright RGB, fully decoded. Raises OSError or ValueError where it is broken."""
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            return to_rgb(image)
    except UnidentifiedImageError:
        raise OSError(f"not an image file ({len(data)} bytes)") from None
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        found = f"{int(pixels[0]) / 1e6:,.0f} million pixels" if pixels else "too many pixels"
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise OSError(f"{found}; images of up to {most:,.0f} million are read: scale it down") from None
    except MemoryError:
        raise OSError("the memory of this machine does not hold it") from None
    except (OSError, ValueError):
        raise
    except Exception as error:  # Pillow's decoders raise errors of many kinds for files that are broken
        raise OSError(f"broken: {str(error) or type(error).__name__}") from error


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """What Pillow reads itself: it hands EPS, whatever the file is called, to the program Ghostscript, if there is one."""
    Image.init()
    return tuple(name for name in Image.OPEN if name != "EPS")


def _file_content(path: str) -> bytes:
    """The bytes of a file. Raises OSError, also for a folder, and for a pipe or device: reading those may never end."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError("not a file, but a folder, a pipe or a device")
        with open(handle, "rb", closefd=False) as file:  # a handle, not a path
            content = file.read()
        if content is None:  # of a special file that has nothing to give now
            raise OSError("nothing can be read from it")
        return content
    finally:
        os.close(handle)


class FolderSource:
    """Image files under one folder; identifiers are paths relative to it, with `/`."""

    image_size: tuple[int, int] | None = None
    gray = False

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._prefix = f"{self.root}/"

    def read(self, path: str) -> Image.Image:
        """The image as upright RGB."""
        return decode(self.encoded(path))

    def encoded(self, path: str) -> bytes:
        """The file's bytes."""
        return _file_content(os.path.join(self.root, path))  # noqa: PTH118  # Path is slower

    def size_in_bytes(self, path: str) -> int:
        """The file's size, by stat."""
        return (self.root / path).stat().st_size

    def stamp(self, path: str) -> tuple[int, int]:
        """The file's size and time of change."""
        status = os.stat(f"{self._prefix}{path}")  # noqa: PTH116  # half a million of them: Path is slower
        return status.st_size, status.st_mtime_ns

    def description(self) -> str:
        """Files speak for themselves."""
        return "files"


class ZipSource:
    """Image files in a zip archive; identifiers are member names. Safe after a fork and under threads."""

    image_size: tuple[int, int] | None = None
    gray = False

    def __init__(self, archive: str | Path) -> None:
        self.archive = Path(archive)
        self._opened: tuple[int, zipfile.ZipFile] | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        return {"archive": self.archive}

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.__init__(state["archive"])  # type: ignore[misc]

    def _zip(self) -> zipfile.ZipFile:
        # A forked child must not share the parent's file offset.
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), zipfile.ZipFile(self.archive))
        return self._opened[1]

    def read(self, path: str) -> Image.Image:
        """The image as upright RGB."""
        return decode(self.encoded(path))

    def encoded(self, path: str) -> bytes:
        """The member's bytes. Raises OSError where the archive or the member is broken."""
        with self._lock:
            try:
                return self._zip().read(path)
            except BROKEN_ZIP as error:
                raise OSError(f"{self.archive}: {error}") from error

    def size_in_bytes(self, path: str) -> int:
        """The member's size, from the archive's directory."""
        with self._lock:
            try:
                return self._zip().getinfo(path).file_size
            except BROKEN_ZIP as error:
                raise OSError(f"{self.archive}: {error}") from error

    def stamp(self, path: str) -> tuple[int, int]:
        """The member's size and checksum, from the archive's directory."""
        with self._lock:
            try:
                member = self._zip().getinfo(path)
            except BROKEN_ZIP as error:
                raise OSError(f"{self.archive}: {error}") from error
        return member.file_size, member.CRC

    def description(self) -> str:
        """Files speak for themselves."""
        return "files"


class ScaledSource:
    """The images of another source, scaled to one square size (antialiased, aspect not kept)."""

    def __init__(self, source: FolderSource | ZipSource, size: int, *, gray: bool) -> None:
        self.source = source
        self.size = size
        self.gray = gray
        self.image_size = (size, size)

    def read(self, path: str) -> Image.Image:
        """The scaled image as RGB."""
        return self.source.read(path).resize((self.size, self.size), Image.Resampling.BILINEAR)

    def encoded(self, path: str) -> bytes:
        """The bytes of the file before scaling."""
        return self.source.encoded(path)

    def size_in_bytes(self, path: str) -> int:
        """The size of the file before scaling."""
        return self.source.size_in_bytes(path)

    def stamp(self, path: str) -> tuple[int, int]:
        """That of the file before scaling."""
        return self.source.stamp(path)

    def description(self) -> str:
        """The files and the size."""
        return f"{self.source.description()}, scaled to {self.size}"
