"""Servers that send their clients elsewhere: what to tell the user of a login page or another address."""

from typing import Any
from urllib.parse import urljoin, urlsplit

from ctxtune.tracking.addresses import redact

_PROBED = "/api/2.0/mlflow/runs/search"
_SECONDS = 5.0
_UNCLEAR = ("Response body", "failed with exception")
"""In MLflow's messages on answers that are not those of an MLflow server, and on requests that got none."""


def redirection(uri: str, error: Exception) -> str | None:
    """What to say where a request failed because the server at `uri` redirects its clients; None where it does not.

    A client follows a redirection, but its POST becomes a GET on the way, and what answers is often a login page: MLflow
    then only says that the answer was no JSON, or that the method is not allowed.
    """
    if not uri.startswith(("http://", "https://")) or not any(words in str(error) for words in _UNCLEAR):
        return None
    target = _location(uri)
    if target is None:
        return None
    asked, found = urlsplit(uri), urlsplit(target)
    same = asked.hostname == found.hostname and target.split("?")[0].endswith(_PROBED)
    if same:
        address = redact(target.split("?")[0].removesuffix(_PROBED))
        return f"it redirects its clients to {address}; give that address as tracking.uri or MLFLOW_TRACKING_URI"
    return (
        f"it redirects its clients to {redact(target.split('?')[0])}: a login page or a proxy stands before it. Give the "
        "address behind it as tracking.uri, or credentials that it takes from programs (MLFLOW_TRACKING_TOKEN, or "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)"
    )


def _location(uri: str) -> str | None:
    """Where a POST is sent, with the credentials that MLflow would send; None where it is not."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    def ask(credentials: Any) -> Any:
        return http_request(
            credentials, _PROBED, "POST", json={"max_results": 1}, max_retries=0, timeout=_SECONDS, allow_redirects=False,
            raise_on_status=False,
        )  # fmt: skip

    try:
        answer = ask(get_default_host_creds(uri))
    except Exception:  # noqa: BLE001 - the first error says more than that of the probe
        return None
    location = answer.headers.get("Location")
    return urljoin(uri, location) if 300 <= answer.status_code < 400 and location else None
