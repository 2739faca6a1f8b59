"""Connections to MLflow: quiet, without telemetry, with errors sorted into "later" and "never"."""

import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from ctxtune.database_drivers import missing_driver
from ctxtune.errors import TrackingError
from ctxtune.text import shortened
from ctxtune.tracking.addresses import redact, redact_text, sqlite_path
from ctxtune.tracking.answers import check_answers
from ctxtune.tracking.errors import Refused, RequestTooLarge, Unreachable
from ctxtune.tracking.processes import set_defaults
from ctxtune.tracking.redirection import redirection
from ctxtune.tracking.sqlite_store import make_sqlite_store
from ctxtune.tracking.views import EXPERIMENT_TAGS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

NO_CONTENT = "its answer is without content: is this an MLflow server, and what stands before it?"
_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
_MAKING_SECONDS = 60
"""So long ago nobody is still making a store."""
# Answers that no later attempt will change. BAD_REQUEST is not among them: MLflow uses it for trouble in its database.
_NEVER = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE"}

_WAITED = ("failed with timeout exception", "ReadTimeoutError", "ConnectTimeoutError")
_UNANSWERED = ("failed with exception", "failed with timeout exception")
"""MLflow gives its own INTERNAL_ERROR also to requests that no server has answered."""
_STATUS = re.compile(
    r"too many (\d{3}) error responses|failed with error code (\d{3})\b|^(\d{3}) (?:Client|Server) Error"
)
"""In these words MLflow's client, and requests for uploads, say that a server has answered with an error of its own."""
_DENIED = {"UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED"}
_CREDENTIALS = (
    "it takes no requests with these credentials: set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and "
    "MLFLOW_TRACKING_PASSWORD"
)


def import_client(*, retries: int, timeout_seconds: int) -> "type[MlflowClient]":
    """MLflow's client class, without telemetry and chatter. Importing it takes some 2 s.

    `retries` and `timeout_seconds` hold for each request over HTTP, unless the user's environment says otherwise.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # At the end of each run MLflow would ask for the run once more, to print its address.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    set_defaults(
        {
            _RETRIES: str(retries),
            "MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout_seconds),
            "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
        }
    )
    from mlflow import MlflowClient

    check_answers()
    for name in ("mlflow", "alembic", "sqlalchemy"):  # importing MLflow sets other levels
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return MlflowClient


def connect(uri: str, *, retries: int, timeout_seconds: int) -> "MlflowClient":
    """A client of the store at `uri` (see `addresses.absolute_uri`), creating an SQLite store's tables where needed.

    Raises Unreachable, Refused, and TrackingError where the database's driver is missing.
    """
    client_class = import_client(retries=retries, timeout_seconds=timeout_seconds)
    check_driver(uri)
    database = sqlite_path(uri)
    with sorted_errors(uri):
        if database is not None:
            make_sqlite_store(database, client_class)
        return client_class(tracking_uri=uri)


def check_driver(uri: str) -> None:
    """Raise TrackingError where Python has no driver for the database at `uri`."""
    if (missing := missing_driver(uri)) is not None:
        raise TrackingError(f"tracking.uri: {redact(uri)} cannot be used: {missing}")


@contextmanager
def single_requests() -> Iterator[None]:
    """Inside, MLflow sends each request once, whatever its environment says: not every request may be repeated."""
    before = os.environ.get(_RETRIES)
    os.environ[_RETRIES] = "0"
    try:
        yield
    finally:
        del os.environ[_RETRIES]
        if before is not None:
            os.environ[_RETRIES] = before


@contextmanager
def sorted_errors(uri: str) -> Iterator[None]:
    """Turn whatever MLflow, SQLAlchemy or requests raise inside into Unreachable or Refused, without secrets."""
    try:
        yield
    except (Unreachable, Refused, TrackingError):
        raise
    except Exception as error:  # noqa: BLE001 - the libraries below raise errors of many kinds
        message = redact_text(_first_line(error), uri)
        code = getattr(error, "error_code", None)
        if code in _NEVER and not _is_outage(error):
            raise Refused(f"{code}: {message}") from None
        if (elsewhere := redirection(uri, error)) is not None:
            raise Unreachable(elsewhere) from None
        status = _status(error)
        if status == "413":
            raise RequestTooLarge(message) from None
        if status in ("401", "403") or code in _DENIED:
            message = f"{message}; {_CREDENTIALS}"
        silent = any(words in str(error) for words in _UNANSWERED) and status is None
        answered = status is not None or (code is not None and not silent)
        waited = any(words in str(error) for words in _WAITED)
        raise Unreachable(message, answered=answered, waited=waited) from None


@contextmanager
def usable(uri: str) -> Iterator[None]:
    """Turn Unreachable and Refused into the message for a user whose server cannot be used: a TrackingError."""
    try:
        yield
    except Unreachable as error:
        raise TrackingError(f"The tracking server {redact(uri)} cannot be used: {error}") from None
    except Refused as error:
        raise TrackingError(f"The tracking server {redact(uri)} refuses: {error}") from None


def ensure_experiment(client: "MlflowClient", uri: str, name: str) -> tuple[str, bool]:
    """The id of the experiment, made where it is missing, and whether it was made just now.

    Raises TrackingError where it was deleted, Unreachable, Refused.
    """
    with sorted_errors(uri):
        experiment = client.get_experiment_by_name(name)
        made = False
        if experiment is None:
            made = _create_experiment(client, uri, name)
            experiment = client.get_experiment_by_name(name)
        if experiment is None:
            raise Unreachable(f"experiment {name!r} was made but is not found")
        check_active(experiment, uri)
        return experiment.experiment_id, made


def check_active(experiment: "Experiment", uri: str) -> None:
    """Raise TrackingError where an experiment was deleted, Unreachable where the answer holds none."""
    if not experiment.experiment_id:
        raise Unreachable(NO_CONTENT, answered=True)
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"The experiment {experiment.name!r} in {redact(uri)} was deleted. Restore it (mlflow experiments restore "
            f"--experiment-id {experiment.experiment_id}) or give the sweep another name"
        )


def _create_experiment(client: "MlflowClient", uri: str, name: str) -> bool:
    database = sqlite_path(uri)
    # Without a place of its own MLflow puts artifacts under the working directory of whoever came first.
    location = None if database is None else (database.parent / "mlruns" / quote(name, safe=" ")).as_uri()
    try:
        client.create_experiment(name, artifact_location=location, tags=EXPERIMENT_TAGS)
    except Exception as error:
        if getattr(error, "error_code", None) != "RESOURCE_ALREADY_EXISTS":
            raise
        return False
    return True


def check_file_store(path: Path) -> bool:
    """Whether the SQLite store at `path` has tables yet. Raises TrackingError where it cannot be used."""
    import sqlite3

    try:
        there = path.exists()
        folder = next(parent for parent in path.parents if parent.exists())
    except OSError as error:  # a name that is too long, or a folder that nobody may look into
        raise TrackingError(f"The tracking store {shortened(str(path))} cannot be used: {error.strerror}") from None
    if not there:
        try:
            with tempfile.TemporaryDirectory(
                prefix=".ctxtune-", dir=folder
            ):  # root may write everywhere, but for /proc
                return False
        except OSError:
            raise TrackingError(
                f"The tracking store {path} cannot be made: {folder} is not a writable folder"
            ) from None
    if path.is_dir() or not os.access(path, os.R_OK | os.W_OK) or not os.access(path.parent, os.W_OK):
        raise TrackingError(f"The tracking store {path} is not a file that can be read and written")
    try:
        with sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5) as database:
            rows = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            holds_runs = ("runs",) in rows and bool(database.execute("SELECT 1 FROM runs LIMIT 1").fetchall())
    except sqlite3.Error as error:
        raise TrackingError(f"The tracking store {path} cannot be read: {error}") from None
    names = {name for (name,) in rows}
    if names and "experiments" not in names:
        raise TrackingError(f"The tracking store {path} is an SQLite file, but not one of MLflow's")
    making = names and "alembic_version" not in names and not holds_runs  # with runs it is one of an old MLflow's
    if making and time.time() - path.stat().st_mtime > _MAKING_SECONDS:
        raise TrackingError(
            f"The tracking store {path} is half made: MLflow was killed while it made its tables. It holds no runs; delete it"
        )
    return "alembic_version" in names


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # requests wraps the reason in the whole URL, the pool and the number of attempts
    cause = re.search(r"Caused by \w+\((?:.*?\): )?[\"']?(.*?)[\"']?\)\)$", lines[0])
    return (cause[1] if cause else lines[0])[:400]


def _status(error: object) -> str | None:
    """The HTTP status of a server's answer that was an error."""
    found = _STATUS.search(str(error))
    return None if found is None else next(status for status in found.groups() if status)


def _is_outage(error: object) -> bool:
    # A proxy's 404 for a server that is starting has no MLflow answer in it.
    return "Response body" in str(error) or "failed with error code 5" in str(error)
