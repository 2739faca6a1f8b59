"""What Ray would say late, or wrongly: whether a cluster lets us in, and what became of a task."""

import os
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import ray
from ray.exceptions import RayError, RayTaskError

from ctxtune.errors import ConfigError, CtxtuneError
from ctxtune.tuning.backend.ray_internals import ask_client_server, ask_cluster

_ANSWER_SECONDS = 10.0
Answer = TypeVar("Answer")


def require_token(address: str) -> None:
    """Ask the cluster whether it lets us in: Ray itself takes a missing token for a silent port, and tries on.

    Args:
        address: auto, HOST:PORT or ray://HOST:PORT.

    Raises:
        ConfigError: a token is to be shown, and there is none here.
        AuthenticationError: it wants a token, or another one.
        ConnectionError, RpcError: there is none.
    """
    _find_token()
    if address.startswith("ray://"):
        ask_client_server(urlsplit(address).netloc, _ANSWER_SECONDS)
    else:
        ask_cluster(address)


def _find_token() -> None:
    """Look where Ray will look: where it finds none, it ends the process with a dump of its stack."""
    if os.environ.get("RAY_AUTH_MODE") != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    try:
        found = bool(path.read_text().strip())
    except OSError:
        found = False
    if not found:
        raise ConfigError(
            f"RAY_AUTH_MODE is token, but {path} holds no token: let RAY_AUTH_TOKEN_PATH name a file with the cluster's, or "
            "set RAY_AUTH_TOKEN"
        )


def answered(reference: "ray.ObjectRef[Answer]") -> Answer:
    """What a task has returned.

    Raises:
        RayTaskError: it raised an error.
        CtxtuneError: Ray could not run it to its end: its process or node died, or there was no memory for it.
    """
    try:
        return ray.get(reference)
    except RayTaskError:
        raise
    except RayError as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CtxtuneError(f"Ray could not run a task that has to come before the runs ({reason}); try again") from None
