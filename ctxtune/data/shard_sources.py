"""Image files inside larger files: rows of parquet files, members of tar shards; and boxes cut out of images."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ctxtune.data.sources import decode

if TYPE_CHECKING:
    from ctxtune.data.split import ImageSource

KEPT_BYTES = 1 << 29
"""Of row groups in memory; the newest one stays, however large it is."""


class ParquetSource:
    """Image files in a column of parquet files; identifiers are `FILE/ROW`.

    A row group is read as a whole and kept for a while: going through the images in their order reads each once.
    """

    image_size: tuple[int, int] | None = None
    gray = False

    def __init__(self, files: Mapping[str, Path], column: str) -> None:
        """`files`: name to place; `column`: that of the bytes, `image.bytes` where it is a field of a struct."""
        self.files = dict(files)
        self.column = column
        self._lock = threading.Lock()
        self._groups: OrderedDict[tuple[str, int], Any] = OrderedDict()
        self._metadata: dict[str, tuple[Any, np.ndarray]] = {}

    def __getstate__(self) -> dict[str, object]:
        return {"files": self.files, "column": self.column}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(state["files"], state["column"])  # type: ignore[misc]

    def read(self, path: str) -> Image.Image:
        """The image as upright RGB."""
        return decode(self.encoded(path))

    def encoded(self, path: str) -> bytes:
        """The bytes in a row. Raises OSError where the file is broken or the row has none."""
        name, _, row = path.rpartition("/")
        with self._lock:
            group, first = self._place(name, int(row))
            value = self._group(name, group)[int(row) - first].as_py()
        if not value:
            raise OSError(f"{self.files[name]}, row {int(row) + 1}: there is no image in it")
        return bytes(value)

    def size_in_bytes(self, path: str) -> int:
        """The size of the column in the image's row group: more would have to be read."""
        name, _, row = path.rpartition("/")
        with self._lock:
            group, _ = self._place(name, int(row))
            chunks = self._metadata[name][0].row_group(group)
            sizes = [chunks.column(index) for index in range(chunks.num_columns)]
            return int(next(chunk.total_compressed_size for chunk in sizes if chunk.path_in_schema == self.column))

    def stamp(self, path: str) -> tuple[int, int]:
        """Size and time of change of the parquet file."""
        status = self.files[path.rpartition("/")[0]].stat()
        return status.st_size, status.st_mtime_ns

    def description(self) -> str:
        """Rows speak for themselves."""
        return "rows of parquet files"

    def _place(self, name: str, row: int) -> tuple[int, int]:
        """The row group of a row, and that group's first row."""
        if name not in self._metadata:
            import pyarrow.parquet as pq

            try:
                metadata = pq.read_metadata(self.files[name])
            except Exception as error:  # pyarrow raises errors of many kinds for files that are broken
                raise OSError(f"{self.files[name]}: {error}") from error
            counts = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
            self._metadata[name] = metadata, np.cumsum([0, *counts])
        starts = self._metadata[name][1]
        group = int(np.searchsorted(starts, row, side="right")) - 1
        return group, int(starts[group])

    def _group(self, name: str, group: int) -> Any:
        if (name, group) in self._groups:
            self._groups.move_to_end((name, group))
            return self._groups[name, group]
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.files[name]) as file:
                found = file.read_row_group(group, columns=[self.column], use_threads=False).column(0)
        except Exception as error:  # as above
            raise OSError(f"{self.files[name]}: {error}") from error
        if pa.types.is_struct(found.type):
            found = pa.chunked_array([chunk.field("bytes") for chunk in found.chunks])
        self._groups[name, group] = found
        while len(self._groups) > 1 and sum(each.nbytes for each in self._groups.values()) > KEPT_BYTES:
            self._groups.popitem(last=False)
        return found


class TarSource:
    """Image files in tar archives that are not compressed; identifiers are `ARCHIVE/MEMBER`."""

    image_size: tuple[int, int] | None = None
    gray = False

    def __init__(self, archives: Mapping[str, Path], members: Mapping[str, tuple[str, int, int]]) -> None:
        """`archives`: name to place; `members`: identifier to archive name, offset and size in bytes."""
        self.archives = dict(archives)
        self.members = dict(members)

    def read(self, path: str) -> Image.Image:
        """The image as upright RGB."""
        return decode(self.encoded(path))

    def encoded(self, path: str) -> bytes:
        """The member's bytes. Raises OSError where the archive has been cut short."""
        name, offset, size = self.members[path]
        with self.archives[name].open("rb") as file:
            file.seek(offset)
            content = file.read(size)
        if len(content) < size:
            raise OSError(f"{self.archives[name]}: cut short inside {path}")
        return content

    def size_in_bytes(self, path: str) -> int:
        """The member's size."""
        return self.members[path][2]

    def stamp(self, path: str) -> tuple[int, int]:
        """The member's size, and the time of change of its archive."""
        name, _, size = self.members[path]
        return size, self.archives[name].stat().st_mtime_ns

    def description(self) -> str:
        """Files speak for themselves."""
        return "files"


class BoxSource:
    """Boxes of another source's images; identifiers are `IMAGE#x1,y1,x2,y2`, in pixels of the upright image."""

    image_size: tuple[int, int] | None = None
    gray = False

    def __init__(self, source: ImageSource) -> None:
        self.source = source

    def read(self, path: str) -> Image.Image:
        """The box as RGB. Raises OSError where it lies outside of its image."""
        inner, _, box = path.rpartition("#")
        image = self.source.read(inner)
        if not box:
            return image
        left, upper, right, lower = map(int, box.split(","))
        right, lower = min(right, image.width), min(lower, image.height)
        if left >= right or upper >= lower:
            raise OSError(f"the box {box} is outside of the image, which has {image.width} x {image.height} pixels")
        return image.crop((left, upper, right, lower))

    def encoded(self, path: str) -> bytes:
        """The box as a PNG file: without loss."""
        content = io.BytesIO()
        self.read(path).save(content, "PNG", compress_level=1)
        return content.getvalue()

    def size_in_bytes(self, path: str) -> int:
        """That of the whole image's file."""
        return self.source.size_in_bytes(path.rpartition("#")[0])

    def stamp(self, path: str) -> tuple[int, int]:
        """That of the whole image's file."""
        return self.source.stamp(path.rpartition("#")[0])

    def description(self) -> str:
        """The files, and that boxes are cut out."""
        return f"{self.source.description()}, boxes of them"
