"""Tracking URIs: made independent of the working directory, and shown without their secrets."""

import os
import re
from pathlib import Path
from urllib.parse import unquote

from ctxtune.errors import TrackingError
from ctxtune.redaction import redact, split_uri

_SQLITE = "sqlite:///"
_SECRET_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


def absolute_uri(uri: str) -> str:
    """The same store, named so that it is found from any working directory.

    `sqlite:///mlflow.db` is relative to the present working directory; servers and absolute paths stay as they are.
    Raises TrackingError for an empty URI, one that names no host, and MLflow's file store, which MLflow 3 no longer writes.
    """
    uri = uri.strip()
    if not uri:
        raise TrackingError("tracking.uri is empty; write for example sqlite:///mlflow.db or http://HOST:5000")
    if uri.startswith("sqlite:"):
        if not uri.startswith(_SQLITE):
            # SQLAlchemy takes what stands after two slashes for a host, and leaves it out: sqlite://mlflow.db is lflow.db.
            path = uri.removeprefix("sqlite:").lstrip("/") or "mlflow.db"
            raise TrackingError(
                f"tracking.uri: {redact(uri)}: an SQLite store has three slashes before a relative path, four before an "
                f"absolute one; write {_SQLITE}{path} or {_SQLITE}/FOLDER/{path}"
            )
        path = uri[len(_SQLITE) :]
        if not path or path.startswith(":memory:"):
            raise TrackingError("tracking.uri: an SQLite store in memory cannot be shared; write sqlite:///mlflow.db")
        try:
            return _SQLITE + str(Path.cwd() / Path(path).expanduser())
        except RuntimeError:  # ~ of somebody who is not there
            raise TrackingError(f"tracking.uri: {uri}: there is no such user's folder") from None
    if ("://" not in uri and not uri.startswith(("databricks", "uc"))) or uri.startswith("file:"):
        raise TrackingError(
            f"tracking.uri: {redact(uri)!r} is a folder; MLflow 3 keeps runs in a database or behind a server. "
            "Write for example sqlite:///mlflow.db or http://HOST:5000"
        )
    if uri.startswith(("http://", "https://")) and not _names_a_host(uri):
        raise TrackingError(f"tracking.uri: {redact(uri)} names no host and port; write for example http://HOST:5000")
    return uri


def _names_a_host(uri: str) -> bool:
    parts = split_uri(uri)
    try:
        return parts is not None and bool(parts.hostname) and parts.port != 0 and not re.search(r"\s", parts.netloc)
    except ValueError:  # of a port beyond 65,535
        return False


def sqlite_path(uri: str) -> Path | None:
    """The database file of an SQLite URI, None for any other store."""
    return Path(uri[len(_SQLITE) :].split("?")[0]) if uri.startswith(_SQLITE) else None


def has_secret(uri: str) -> bool:
    """True if the URI holds a user name, a password or a query (which may hold a token)."""
    return redact(uri) != uri


def redact_text(text: str, uri: str) -> str:
    """A message of someone else's with every secret of `uri` and of MLflow's environment variables blotted out."""
    text = text.replace(uri, redact(uri))
    secrets = {os.environ.get(name, "") for name in _SECRET_VARIABLES}
    address, _, query = uri.partition("?")
    for text_of in (address, uri):  # a password may hold a question mark
        credentials = text_of.partition("://")[2].rpartition("@")[0]
        user, _, password = credentials.partition(":")
        secrets |= {credentials, password or user, unquote(password or user)}
    secrets |= {query, *re.findall(r"=([^&]+)", query)}
    for secret in sorted((secret for secret in secrets if len(secret) > 2), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
