"""Making an SQLite store: whole or not at all."""

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient


def make_sqlite_store(path: Path, client_class: "type[MlflowClient]") -> None:
    """Make MLflow's tables where there is no file, or an empty one.

    That takes some seconds, in a file beside it which gets its name only when it is whole: MLflow would fail for ever
    over one whose maker was killed on the way. Who comes second finds the other's.
    """
    if path.exists() and path.stat().st_size > 0:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        made = Path(folder) / path.name
        client = client_class(tracking_uri=f"sqlite:///{made}")
        client.search_experiments(max_results=1)  # asks for tables, so that there are some
        client._tracking_client.store.engine.dispose()
        if path.exists() and path.stat().st_size == 0:
            path.unlink()
        with contextlib.suppress(FileExistsError):
            _link(made, path)


def _link(source: Path, target: Path) -> None:
    """Give a file its name if that is free. A file system without links is trusted to have one user at a time."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        if not target.exists():
            source.replace(target)
