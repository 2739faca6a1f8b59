"""Tables of images in files: CSV, parquet and WebDataset's tar shards, as columns with one set of names."""

from __future__ import annotations

import csv
import difflib
import glob
import json
import re
import tarfile
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from ctxtune.data.shard_sources import ParquetSource, TarSource
from ctxtune.data.sources import is_image_name
from ctxtune.errors import DataError
from ctxtune.text import shortened

COLUMNS = ("path", "image", "label", "split", "super_label", "x1", "y1", "x2", "y2", "is_query", "is_gallery")
"""What a table may hold; all but the first three may be missing."""
SUFFIXES = (".csv", ".tsv", ".parquet", ".tar")
LONGEST_ROW = 2**26
"""Bytes of a CSV file."""


@dataclass(frozen=True)
class ImageRows:
    """The rows of one table, of one file or several.

    Attributes:
        columns: of `COLUMNS`, those that are there, without `image`; each has a value for every row.
        ignored: names of the other columns.
        source: where the images are, if they are in the table itself; `identifiers` then names them there.
        class_names: of whole-number labels, where the file says them (the Hugging Face hub's ClassLabel).
    """

    files: Sequence[Path]
    starts: Sequence[int]
    columns: Mapping[str, Sequence[Any]]
    types: Mapping[str, pa.DataType]
    ignored: tuple[str, ...]
    source: ParquetSource | TarSource | None = None
    identifiers: Sequence[str] = ()
    class_names: tuple[str, ...] | None = None

    @property
    def count(self) -> int:
        """The number of rows."""
        return len(next(iter(self.columns.values()), self.identifiers))

    def place(self, row: int) -> str:
        """The file and the row in it, from 1, for messages."""
        file = bisect_right(self.starts, row) - 1
        return f"{self.files[file]}, row {row - self.starts[file] + 1}"


def table_files(pattern: str, base: Path) -> list[Path]:
    """The files that a path or a glob names, sorted. Raises DataError where there is none, or their kinds differ."""
    place = base / Path(pattern).expanduser()
    try:
        # The pattern may be absolute, which Path.glob does not take.
        found = [str(place)] if place.is_file() else glob.glob(str(place), recursive=True)  # noqa: PTH207
        files = sorted(path for path in map(Path, found) if path.is_file())
    except (OSError, ValueError) as error:
        raise DataError(f"table: dataset.file: {shortened(str(place), 200)} cannot be looked for ({error})") from None
    if not files:
        raise DataError(
            f"table: dataset.file: there is no file {shortened(str(place.absolute()), 300)}; name a .csv, .parquet or .tar "
            "file, or several by a pattern such as data/train-*.parquet"
        )
    kinds = {file.suffix.lower() for file in files}
    if len(kinds) > 1 or not kinds <= set(SUFFIXES):
        raise DataError(
            f"table: dataset.file: {', '.join(sorted(kinds)) or 'no suffix'}: expected {', '.join(SUFFIXES)}, all files of "
            f"one kind ({shortened(str(files[0]), 200)})"
        )
    return files


def read_rows_of(
    files: Sequence[Path], mapping: Mapping[str, str], base: Path, *, label_needed: bool = True
) -> ImageRows:
    """All rows of the files.

    Args:
        files: of `table_files`.
        mapping: of `COLUMNS`, the name that a column has in the files.
        base: the folder from which shards are named.
        label_needed: whether a table without labels is refused.

    Raises:
        DataError: a file that is broken, or has not the columns that it should have.
    """
    if unknown := [name for name in mapping if name not in COLUMNS]:
        raise DataError(f"dataset.columns: there is no {shortened(unknown[0])!r}; it maps {', '.join(COLUMNS)}")
    readers = {".parquet": _parquet, ".tar": _tar}
    needed = (("label",), ("path", "image")) if label_needed else (("path", "image"),)
    return readers.get(files[0].suffix.lower(), _csv)(files, mapping, base, needed)


Needed = tuple[tuple[str, ...], ...]
"""Columns that there must be, one of each group."""


def _named_columns(file: Path, there: Sequence[str], mapping: Mapping[str, str], needed: Needed) -> dict[str, str]:
    """Our name to the file's, of the columns that are there. Raises DataError."""
    if len(set(there)) < len(there):
        twice = next(name for name in there if list(there).count(name) > 1)
        raise DataError(f"{file}: two columns are called {shortened(twice)!r}")
    for ours, theirs in mapping.items():
        if theirs not in there:
            near = difflib.get_close_matches(theirs, there, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {_listed(there)}"
            raise DataError(f"{file}: dataset.columns.{ours}: there is no column {shortened(theirs)!r}; {hint}")
    named = {name: name for name in COLUMNS if name in there and name not in mapping.values()}
    named.update(mapping)
    for wanted in needed:
        if not set(wanted) & set(named):
            near = [found for name in wanted for found in difflib.get_close_matches(name, there, n=1)]
            hint = f"; is it {near[0]!r}" if near else ""
            raise DataError(
                f"{file}: there is no column {' or '.join(wanted)}{hint}. Found: {_listed(there)}. Map names by "
                f"--set 'trial.dataset.columns={{{wanted[0]}: NAME}}'"
            )
    return named


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(shortened(name, 40) for name in names[:20]) or "no columns"
    alone = " (one column: cells are separated by commas, semicolons or tabs)" if len(names) == 1 else ""
    return f"{shown}, ..." if len(names) > 20 else f"{shown}{alone}"


def _gathered(files: Sequence[Path], tables: Sequence[pa.Table], named: Mapping[str, str], **rest: Any) -> ImageRows:
    starts = [0]
    for table in tables:
        starts.append(starts[-1] + table.num_rows)
    columns: dict[str, list[Any]] = {}
    types: dict[str, pa.DataType] = {}
    for ours, theirs in named.items():
        values: list[Any] = []
        for file, table in zip(files, tables, strict=True):
            column = table.column(theirs)
            kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
            if types.setdefault(ours, kind) != kind:
                raise DataError(f"{file}: column {theirs!r} is of type {kind}, in {files[0]} it is {types[ours]}")
            values += column.to_pylist()
        columns[ours] = values
    if not starts[-1]:
        raise DataError(f"{files[0]}: there are no rows in it")
    used = set(named.values())
    ignored = tuple(rest.pop("there")) if "there" in rest else tuple(tables[0].column_names)
    return ImageRows(files, starts[:-1], columns, types, tuple(name for name in ignored if name not in used), **rest)


def _csv(files: Sequence[Path], mapping: Mapping[str, str], base: Path, needed: Needed) -> ImageRows:
    tables = [_csv_table(file) for file in files]
    for file, table in zip(files, tables, strict=True):
        named = _named_columns(file, table.column_names, mapping, needed)
    if "image" in named:  # in a text file it can only be a path
        named["path"] = named.get("path", named["image"])
        del named["image"]
    return _gathered(files, tables, named)


def _csv_table(file: Path) -> pa.Table:
    """All columns as text: 007 is no number."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            line = opened.readline(1_000_000)
            declared = re.fullmatch(r"\"?sep=(.)\"?\s*", line.rstrip("\r\n"), re.IGNORECASE)  # for Excel
            line = opened.readline(1_000_000) if declared else line
        if "\0" in line:
            raise DataError(f"{file}: not a text in UTF-8; it looks like UTF-16: save it as UTF-8")
        separator = declared[1] if declared else max("\t;,", key=line.count) if line.strip() else ","
        names = next(csv.reader([line], delimiter=separator), [])
        table = pa_csv.read_csv(
            file,
            read_options=pa_csv.ReadOptions(use_threads=False, block_size=LONGEST_ROW, skip_rows=1 if declared else 0),
            parse_options=pa_csv.ParseOptions(delimiter=separator, newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True
            ),
        )
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file}: not a text in UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    except (pa.ArrowException, OSError, ValueError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read as a table: {_reason(error)}") from None
    return table


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
    return shortened(text, 300)


def _parquet(files: Sequence[Path], mapping: Mapping[str, str], base: Path, needed: Needed) -> ImageRows:
    tables: list[pa.Table] = []
    source_column, label_names, there = None, None, [""]
    for file in files:
        schema = _schema(file)
        there = schema.names
        named = _named_columns(file, there, mapping, needed)
        column, wanted = _image_column(file, schema, named)
        if tables and column != source_column:
            raise DataError(
                f"{file}: its images are in {column or 'files'}, those of {files[0]} in {source_column or 'files'}"
            )
        source_column = column
        if column is not None:
            named.pop("path", None)
        named.pop("image", None)
        if wanted is not None:
            named["path"] = wanted
        try:
            table = pq.read_table(file, columns=sorted(set(named.values())), use_threads=False, partitioning=None)
        except Exception as error:  # pyarrow raises errors of many kinds for files that are broken
            raise DataError(f"{file}: cannot be read as parquet: {_reason(error)}") from error
        if wanted is not None and "." in wanted:
            struct = table.column(wanted.partition(".")[0]).combine_chunks()
            table = table.append_column(wanted, struct.field("path"))
        label_names = label_names or _hub_class_names(schema, named.get("label", ""))
        tables.append(table)
    names = [file.relative_to(base).as_posix() if file.is_relative_to(base) else file.as_posix() for file in files]
    if source_column is None:
        return _gathered(files, tables, named, there=_beside_images(there, mapping), class_names=label_names)
    identifiers = [f"{name}/{row}" for name, table in zip(names, tables, strict=True) for row in range(table.num_rows)]
    source = ParquetSource(dict(zip(names, files, strict=True)), source_column)
    return _gathered(
        files,
        tables,
        named,
        there=_beside_images(there, mapping),
        source=source,
        identifiers=identifiers,
        class_names=label_names,
    )


def _beside_images(there: Sequence[str], mapping: Mapping[str, str]) -> list[str]:
    used = {mapping.get(name, name) for name in ("image", "path")}
    return [name for name in there if name not in used]


def _schema(file: Path) -> pa.Schema:
    try:
        return pq.read_schema(file)
    except Exception as error:  # as above
        raise DataError(f"{file}: cannot be read as parquet: {_reason(error)}") from error


def schema_names(file: Path) -> list[str]:
    """The columns of a parquet file. Raises DataError where it is none."""
    return list(_schema(file).names)


def _image_column(file: Path, schema: pa.Schema, named: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Where the bytes of the images are, or else the column of their paths. Raises DataError."""
    if "image" not in named:
        return None, named["path"]
    name = named["image"]
    kind = schema.field(name).type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return name, None
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return None, name
    fields = {kind.field(index).name for index in range(kind.num_fields)} if pa.types.is_struct(kind) else set()
    if "bytes" in fields and not ("path" in fields and _all_null(file, f"{name}.bytes")):
        return f"{name}.bytes", None
    if "path" in fields:
        return None, f"{name}.path"
    raise DataError(
        f"{file}: column {name!r} is of type {kind}; images are bytes, the struct {{bytes, path}}, or paths"
    )


def _all_null(file: Path, column: str) -> bool:
    """By the statistics in the file's footer."""
    metadata = pq.read_metadata(file)
    chunks = [
        metadata.row_group(group).column(at)
        for group in range(metadata.num_row_groups)
        for at in range(metadata.num_columns)
    ]
    statistics = [chunk.statistics for chunk in chunks if chunk.path_in_schema == column]
    return bool(statistics) and all(
        each is not None and each.has_null_count and not each.num_values for each in statistics
    )


def _hub_class_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """The names of a ClassLabel of the Hugging Face hub, which stand in the schema's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(map(str, features[label]["names"]))
    except (KeyError, TypeError, ValueError):
        return None


def _tar(files: Sequence[Path], mapping: Mapping[str, str], base: Path, needed: Needed) -> ImageRows:
    """WebDataset's convention: members of one name up to the first dot are one row, their suffixes the columns."""
    archives = {
        file.relative_to(base).as_posix() if file.is_relative_to(base) else file.as_posix(): file for file in files
    }
    members: dict[str, tuple[str, int, int]] = {}
    identifiers: list[str] = []
    tables = []
    for name, file in archives.items():
        rows = _tar_rows(file, name, members)
        identifiers += [row.pop("\0image") for row in rows]
        there = sorted({key for row in rows for key in row})
        arrays = {}
        for key in there:
            values = [row.get(key) for row in rows]
            try:
                arrays[key] = pa.array(values)
            except (pa.ArrowException, OverflowError, ValueError, TypeError):
                arrays[key] = pa.array([None if value is None else str(value) for value in values])
        tables.append(pa.table(arrays or {"": pa.nulls(len(rows))}))  # images alone are rows, too
        if "label" not in there and "label" not in mapping and "cls" in there:
            mapping = {**mapping, "label": "cls"}
        named = _named_columns(
            file, [*there, "image"], {key: value for key, value in mapping.items() if key != "image"}, needed
        )
        named.pop("image")
        named.pop("path", None)
    return _gathered(list(files), tables, named, source=TarSource(archives, members), identifiers=identifiers)


def _tar_rows(file: Path, name: str, members: dict[str, tuple[str, int, int]]) -> list[dict[str, Any]]:
    samples: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(file, "r:") as opened:
            for member in opened:
                if not member.isfile():
                    continue
                folder, _, last = member.name.rpartition("/")
                stem, _, suffix = last.partition(".")
                sample = samples.setdefault(f"{folder}/{stem}", {})
                if is_image_name(member.name):
                    if "\0image" in sample:
                        raise DataError(f"{file}: {stem} has two images; a sample has one")
                    identifier = f"{name}/{member.name}"
                    members[identifier] = name, member.offset_data, member.size
                    sample["\0image"] = identifier
                elif suffix.lower() in ("cls", "txt", "json"):
                    content = opened.extractfile(member)
                    assert content is not None
                    sample |= _cells(file, member.name, suffix.lower(), content.read(1_000_000))
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{file}: cannot be read as an uncompressed tar archive: {_reason(error)}") from None
    rows = [sample for sample in samples.values() if "\0image" in sample]
    if not rows:
        raise DataError(f"{file}: there is no image in it")
    return rows


def _cells(file: Path, name: str, suffix: str, content: bytes) -> dict[str, object]:
    try:
        text = content.decode("utf-8").strip()
        if suffix != "json":
            return {suffix: text}
        found = json.loads(text)
    except ValueError as error:
        raise DataError(f"{file}: {name}: {_reason(error)}") from None
    if not isinstance(found, dict):
        raise DataError(f"{file}: {name}: expected a JSON object with keys such as label")
    return {key: value for key, value in found.items() if isinstance(value, (str, int, float, bool)) or value is None}
