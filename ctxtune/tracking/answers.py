"""Answers that MLflow's client takes for success although they are none: empty ones, and pages of a proxy.

MLflow reads an empty answer as an empty JSON object, which is what a server says to most writes, and of an upload it only
looks at the status, which a login page has as well. What was sent would be lost in silence.
"""

import json
import re
from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from requests import Response

_API = re.compile(r"/(ajax-)?api/\d+\.\d+/mlflow/")
_UPLOADS = "/mlflow-artifacts/"
_SEND = "_get_http_response_with_retries"
"""MLflow's function that API and uploads pass; nothing public is there for both."""


def check_answers() -> None:
    """From now on MLflow's client raises its own error at such answers. May be called twice.

    Where this MLflow sends in another way, such answers are taken as it takes them.
    """
    from mlflow.utils import rest_utils

    send = getattr(rest_utils, _SEND, None)
    if send is None or hasattr(send, "__wrapped__"):
        return

    @wraps(send)
    def checked(method: str, url: str, *arguments: Any, **options: Any) -> "Response":
        response: Response = send(method, url, *arguments, **options)
        _check(method, url, response)
        return response

    setattr(rest_utils, _SEND, checked)


def _check(method: str, url: str, response: "Response") -> None:
    from mlflow.exceptions import MlflowException

    if not response.ok:
        return  # MLflow's client says so itself
    if _API.search(url) and response.status_code == 200:
        good = bool(response.content.strip())  # what else is no JSON object MLflow's client finds itself
    elif _UPLOADS in url and method not in ("GET", "HEAD"):
        # A server says nothing, or an empty object. What follows a redirection is a GET.
        good = (
            response.status_code == 200
            and response.request.method == method
            and (not response.content.strip() or _is_object(response.text))
        )
    else:
        return
    if not good:
        raise MlflowException(f"The answer is not that of an MLflow server. Response body: {response.text[:100]!r}")


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
