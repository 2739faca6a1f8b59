"""Is Ray still there? Without its head or this machine's raylet nothing can go on, and Ray itself says so late, if at all."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import ray

from ctxtune.tuning.backend.ray_internals import connected_from_outside

LOOK_SECONDS = 2.0
LOCAL_PATIENCE_SECONDS = 6.0
"""Processes of this machine that refuse connections for so long have ended; nobody starts them again."""
CLUSTER_PATIENCE_SECONDS = 35.0
"""The head of a cluster may be started again; Ray ends a driver that cannot reach it after 60 seconds."""


_CLOSING_SECONDS = 10.0
STUCK_SECONDS = 20.0
"""How long the driver has to leave the block once Ray is lost; it may be waiting in Ray for an answer."""


@contextlib.contextmanager
def watching_ray(on_lost: Callable[[str], None], on_stuck: Callable[[], None]) -> Iterator[None]:
    """Look every few seconds, in a thread, whether Ray answers.

    Args:
        on_lost: told once, in that thread, what does not answer any more.
        on_stuck: called after it, in that thread, if the block has not been left for `STUCK_SECONDS`.
    """
    if connected_from_outside():  # Ray's client notices, and raises
        yield
        return
    over, places = threading.Event(), _places()

    def watch() -> None:
        lost = _watch(places, over)
        if lost:
            on_lost(lost)
            if not over.wait(STUCK_SECONDS):
                on_stuck()

    thread = threading.Thread(target=watch, name="ctxtune-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def control_service() -> tuple[str, int]:
    """Where Ray's control service (GCS) listens."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    return host.strip("[]"), int(port)


def _places() -> dict[str, tuple[str, int]]:
    """What must answer: the control service (GCS), and the raylet of this machine."""
    places = {"the control service (GCS)": control_service()}
    here = ray.get_runtime_context().get_node_id()
    for node in ray.nodes():
        if node["NodeID"] == here:
            places["the raylet"] = (node["NodeManagerAddress"], int(node["NodeManagerPort"]))
    return places


def _watch(places: dict[str, tuple[str, int]], over: threading.Event) -> str:
    """What does not answer any more; empty where that was not seen before the end."""
    answered = dict.fromkeys(places, time.monotonic())
    while not over.wait(LOOK_SECONDS):
        for name, (host, port) in places.items():
            if answers(host, port):
                answered[name] = time.monotonic()
            patience = LOCAL_PATIENCE_SECONDS if host in ("127.0.0.1", "::1") else CLUSTER_PATIENCE_SECONDS
            if time.monotonic() - answered[name] > patience:
                return f"Ray does not answer any more: {name} at {host}:{port} has ended"
    return ""


def answers(host: str, port: int) -> bool:
    """Whether something listens; one who is too busy to answer does."""
    try:
        socket.create_connection((host, port), timeout=LOOK_SECONDS).close()
    except TimeoutError:
        return True
    except OSError:
        return False
    return True


def shut_down() -> None:
    """Close the connection to Ray, and end a Ray of our own; without waiting long for one that has lost its head."""
    if not ray.is_initialized() or connected_from_outside() or answers(*control_service()):
        ray.shutdown()
        return
    closing = threading.Thread(target=ray.shutdown, daemon=True)
    closing.start()
    closing.join(_CLOSING_SECONDS)
