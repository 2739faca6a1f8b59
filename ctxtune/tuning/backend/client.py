"""Before Ray connects to a cluster: what it would say late, or wrongly."""

import os
import uuid
from pathlib import Path
from urllib.parse import urlsplit

from ray._private import services
from ray._private.grpc_utils import init_grpc_channel
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated.ray_client_pb2 import ClusterInfoRequest, ClusterInfoType
from ray.core.generated.ray_client_pb2_grpc import RayletDriverStub
from ray.exceptions import AuthenticationError

from ctxtune.errors import ConfigError

_ANSWER_SECONDS = 10.0


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
        _ask_client_server(urlsplit(address).netloc)
    else:
        GcsClient(services.canonicalize_bootstrap_address_or_die(address))


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


def _ask_client_server(host: str) -> None:
    import grpc  # type: ignore[import-untyped]

    with init_grpc_channel(host) as channel:
        try:
            RayletDriverStub(channel).ClusterInfo(
                ClusterInfoRequest(type=ClusterInfoType.PING),
                timeout=_ANSWER_SECONDS,
                metadata=[("client_id", uuid.uuid4().hex)],
            )
        except grpc.RpcError as error:  # whatever else is wrong, Ray says better
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                raise AuthenticationError(error.details()) from None
