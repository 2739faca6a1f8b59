"""Before Ray connects to a cluster: what it would say late, or wrongly, and what it lacks for a driver by ray://."""

import atexit
import shutil
import tempfile
import uuid
from functools import partial
from urllib.parse import urlsplit

from ray._private import services
from ray._private.grpc_utils import init_grpc_channel
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated.ray_client_pb2 import ClusterInfoRequest, ClusterInfoType
from ray.core.generated.ray_client_pb2_grpc import RayletDriverStub
from ray.exceptions import AuthenticationError
from ray.train._internal import storage

_ANSWER_SECONDS = 10.0


def require_token(address: str) -> None:
    """Ask the cluster whether it lets us in: Ray itself takes a missing token for a silent port, and tries on.

    Args:
        address: auto, HOST:PORT or ray://HOST:PORT.

    Raises:
        AuthenticationError: it wants a token, or another one.
        ConnectionError, RpcError: there is none.
    """
    if address.startswith("ray://"):
        _ask_client_server(urlsplit(address).netloc)
    else:
        GcsClient(services.canonicalize_bootstrap_address_or_die(address))


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


def stage_here() -> None:
    """Give Ray Tune a folder on this machine: it stages its driver's files in that of a node, which is not here."""
    folder = tempfile.mkdtemp(prefix="ctxtune-driver-")
    atexit.register(partial(shutil.rmtree, folder, ignore_errors=True))
    storage._get_ray_train_session_dir = lambda: folder
