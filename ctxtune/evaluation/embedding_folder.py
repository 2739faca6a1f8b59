"""A folder of embeddings: a parquet table, a faiss index with the same ids, and what made them."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from ctxtune.durable_files import write_durably
from ctxtune.errors import ConfigError, CtxtuneError
from ctxtune.version import __version__

TABLE, INDEX, ABOUT = "embeddings.parquet", "index.faiss", "about.json"
FORMAT = 1


class About(BaseModel):
    """What stands in about.json, written last: without it a folder is not finished.

    `images` is the place of the images, `columns` the mapping of a table's columns, `fold` that of a checkpoint with several
    models, `overrides` what ``--set`` said, `sha256` the content of checkpoint and files.
    """

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    ctxtune: str = __version__
    checkpoint: str
    fold: int | None
    overrides: tuple[str, ...]
    images: str
    columns: dict[str, str]
    count: int
    dimension: int
    left_out: dict[str, str]
    sha256: dict[str, str]


@dataclass(frozen=True)
class Row:
    """An image of the table."""

    path: str
    label: str | None


@dataclass(frozen=True)
class EmbeddingFolder:
    """A folder that was read, its index ready to be searched."""

    folder: Path
    about: About
    rows: Mapping[int, Row]
    _index: Any

    def search(
        self, embeddings: npt.NDArray[np.float32], count: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Ids (q, k) of the nearest images and their cosine similarities (q, k), nearest first; k is `count` or all."""
        similarities, ids = self._index.search(_unit(embeddings), min(count, self.about.count))
        return ids, similarities


def faiss() -> ModuleType:
    """The module. Raises ConfigError where it is not installed."""
    try:
        import faiss as module
    except ImportError:
        raise ConfigError("this needs faiss, which is not installed: pip install 'ctxtune[cpu]' (or [gpu])") from None
    found: ModuleType = module
    return found


def file_sha256(path: Path) -> str:
    """Of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_folder(
    folder: Path,
    ids: npt.NDArray[np.int64],
    rows: Sequence[Row],
    embeddings: npt.NDArray[np.float32],
    about: Callable[[dict[str, str]], About],
) -> About:
    """Write a folder; an earlier one's files are replaced.

    Args:
        folder: made where it is missing.
        ids: (n,) of the images; `rows` (n,) and `embeddings` (n, d) alike.
        about: makes what is said of the folder from the checksums of its files.

    Raises:
        ConfigError: nothing can be written there, or no faiss.
    """
    module = faiss()
    index = module.IndexIDMap2(module.IndexFlatIP(embeddings.shape[1]))
    index.add_with_ids(_unit(embeddings), ids)
    values = pa.array(np.ascontiguousarray(embeddings).reshape(-1))
    table = pa.table(
        {
            "id": ids,
            "path": [row.path for row in rows],
            "label": pa.array([row.label for row in rows], pa.string()),
            "embedding": pa.FixedSizeListArray.from_arrays(values, embeddings.shape[1]),
        }
    )
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    contents = {TABLE: buffer.getvalue().to_pybytes(), INDEX: module.serialize_index(index).tobytes()}
    said = about({name: hashlib.sha256(content).hexdigest() for name, content in contents.items()})
    contents[ABOUT] = f"{said.model_dump_json(indent=2)}\n".encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace_files(folder, contents)
    except OSError as error:
        raise ConfigError(f"--out {folder}: cannot be written ({error.strerror or error})") from None
    return said


def _replace_files(folder: Path, contents: dict[str, bytes]) -> None:
    """Write all files beside their places first: where there is no room for them, the earlier ones stay."""
    beside = {name: folder / f".{name}.new" for name in contents}
    try:
        for name, content in contents.items():
            write_durably(beside[name], [content])
        (folder / ABOUT).unlink(missing_ok=True)
        for name in contents:
            beside[name].replace(folder / name)
    finally:
        for path in beside.values():
            path.unlink(missing_ok=True)


def read_folder(folder: Path) -> EmbeddingFolder:
    """Read what `write_folder` wrote.

    Raises:
        CtxtuneError: there is no such folder, it is not finished, or a file of it is missing, damaged or of another run.
        ConfigError: no faiss.
    """
    module = faiss()
    about = read_about(folder)
    for name in (TABLE, INDEX):
        try:
            found = file_sha256(folder / name)
        except OSError as error:
            raise CtxtuneError(f"{folder / name}: {error.strerror or error}; embed again") from None
        if found != about.sha256.get(name):
            raise CtxtuneError(
                f"{folder / name}: damaged, or not the file that {ABOUT} tells of; embed again, into another folder or "
                "with --force"
            )
    table = pq.read_table((folder / TABLE).absolute(), columns=["id", "path", "label"])
    columns = (table.column(name).to_pylist() for name in ("id", "path", "label"))
    rows = {number: Row(path, label) for number, path, label in zip(*columns, strict=True)}
    return EmbeddingFolder(folder, about, rows, module.read_index(str(folder / INDEX)))


def read_about(folder: Path) -> About:
    """What is said of a folder. Raises CtxtuneError as `read_folder` does."""
    path = folder / ABOUT
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.get("format", FORMAT) != FORMAT:
            raise CtxtuneError(f"{path}: of format {content['format']}, which this version of ctxtune does not know")
        return About.model_validate(content)
    except FileNotFoundError:
        there = "there is no such folder" if not folder.is_dir() else f"no embeddings: {ABOUT} is missing"
        raise CtxtuneError(
            f"{folder}: {there}; python -m ctxtune.embed CHECKPOINT IMAGES --out {folder} makes them"
        ) from None
    except OSError as error:
        raise CtxtuneError(f"{path}: {error.strerror or error}") from None
    except (ValueError, ValidationError):
        raise CtxtuneError(f"{path}: damaged, or not of ctxtune.embed; embed again") from None


def _unit(embeddings: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    norms = np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    return np.ascontiguousarray(embeddings / norms, dtype=np.float32)
