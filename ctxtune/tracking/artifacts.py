"""Artifacts of many runs read at once, and a folder of files given to a run that has ended long ago."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ctxtune.tracking.queries import TrackedRun, reading

if TYPE_CHECKING:
    from mlflow import MlflowClient

_AT_ONCE = 8


def read_texts(uri: str, runs: Sequence[TrackedRun], artifact_file: str) -> dict[str, str]:
    """The text of one artifact of each of many runs, by run_id; runs that do not have it are left out.

    Raises TrackingError if the server cannot be read.
    """
    with reading(uri) as client, ThreadPoolExecutor(_AT_ONCE) as pool:
        texts = pool.map(lambda run: _read(client, run, artifact_file), runs)
        return {run.run_id: text for run, text in zip(runs, texts, strict=True) if text is not None}


def log_folder(uri: str, run_id: str, folder: Path, under: str) -> None:
    """Store all files of a folder as artifacts of a run, below `under`; files of the same name are replaced.

    Raises TrackingError if the server or its artifact store cannot be written.
    """
    with reading(uri) as client:
        client.log_artifacts(run_id, str(folder), under)


def _read(client: "MlflowClient", run: TrackedRun, artifact_file: str) -> str | None:
    parts = urlsplit(run.artifact_uri)
    try:
        if parts.scheme == "file":  # what MLflow would copy to a temporary folder first, slowly
            return (Path(unquote(parts.path)) / artifact_file).read_text(encoding="utf-8")
        with TemporaryDirectory() as folder:
            return Path(client.download_artifacts(run.run_id, artifact_file, folder)).read_text(encoding="utf-8")
    except Exception:  # noqa: BLE001 - each artifact store has its own way to say that a file is not there
        return None
