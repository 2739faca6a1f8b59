"""Somebody on the network who has no token: which ports a process tree listens on, and what can be got done there."""

import contextlib
import functools
import http.client
import importlib
import os
import pkgutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import psutil
import ray.core.generated

_REFUSALS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED)
PAGES = (
    ("GET", "/"),
    ("GET", "/metrics"),
    ("GET", "/nodes?view=summary"),
    ("GET", "/api/version"),
    ("GET", "/api/jobs/"),
    ("POST", "/api/jobs/"),
    ("POST", "/api/job_agent/jobs/"),
    ("GET", "/api/v0/tasks"),
    ("POST", "/get_or_create_runtime_env"),
    ("POST", "/delete_runtime_env_if_possible"),
    ("POST", "/get_runtime_envs_info"),
)
TASK = """
import sys
import ray
gcs, mark = sys.argv[1:]
ray.init(address=gcs, log_to_driver=False, logging_level="critical")
ray.get(ray.remote(num_cpus=0)(lambda: open(mark, "w").write("was here")).remote())
"""
KEY_VALUE = """
import sys
from ray._raylet import GcsClient
assert GcsClient(sys.argv[1]).internal_kv_put(b"intruder", b"was here", True, None, timeout=5) == 1
"""


def machine_addresses() -> list[str]:
    """Every address of this machine, the loopback's too."""
    found = []
    for interface in psutil.net_if_addrs().values():
        for address in interface:
            if address.family in (socket.AF_INET, socket.AF_INET6):
                found.append(address.address)
    return found


def listening_ports(process: int) -> dict[int, str]:
    """The TCP ports that a process and its descendants listen on, and who it is."""
    root = psutil.Process(process)
    found = {}
    for each in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            for connection in each.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    found[connection.laddr.port] = f"{each.name()} on {connection.laddr.ip}"
    return found


def reachable(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return False
    return True


@functools.cache
def remote_methods() -> list[str]:
    """Every method of every gRPC service that Ray has."""
    found = {f"/ray.rpc.ObjectManagerService/{name}" for name in ("Push", "Pull", "FreeObjects")}
    for module in pkgutil.iter_modules(ray.core.generated.__path__, "ray.core.generated."):
        if module.name.endswith("_pb2"):
            with contextlib.suppress(ImportError, TypeError):
                for service in importlib.import_module(module.name).DESCRIPTOR.services_by_name.values():
                    found |= {f"/{service.full_name}/{method.name}" for method in service.methods}
    return sorted(found)


def calls_answered(address: str, port: int) -> list[str]:
    """The remote procedures that a port carries out, or would, for somebody without a token."""
    host = f"[{address}]" if ":" in address else address
    with grpc.insecure_channel(f"{host}:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        if _refusal(channel, "/nobody.has.such.a.Service/Method") == grpc.StatusCode.UNAVAILABLE:
            return []  # no gRPC is spoken there
        # What ends the process is carried out, too.
        return [name for name in remote_methods() if _refusal(channel, name) not in _REFUSALS]


def _refusal(channel: grpc.Channel, method: str) -> grpc.StatusCode | None:
    """Why a call is not carried out; None if it is."""
    try:
        next(iter(channel.stream_stream(method)(iter([b""]), timeout=2)), None)
    except grpc.RpcError as error:
        return error.code()
    return None


def pages_answered(address: str, port: int) -> list[str]:
    """The requests by HTTP that somebody without a token gets more for than figures for Prometheus or that it is well."""
    answered = []
    for method, path in PAGES:
        connection = http.client.HTTPConnection(address.partition("%")[0], port, timeout=5)
        try:
            connection.request(method, path, body=b"{}" if method == "POST" else None)
            reply = connection.getresponse()
            body = reply.read()
        except (OSError, http.client.HTTPException):
            continue
        finally:
            connection.close()
        figures = method == "GET" and (not body.strip() or body.startswith(b"# HELP"))
        if reply.status < 400 and not figures:
            answered.append(f"{method} {path}: {reply.status}")
    return answered


def clients_succeed(gcs: str, folder: Path, seconds: float = 25.0) -> list[str]:
    """Which of Ray's own clients get something done at an address of its GCS: a value stored, a task run."""
    mark = folder / "task-was-here"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(folder), "RAY_AUTH_MODE": "disabled"}
    clients = {
        name: subprocess.Popen(
            [sys.executable, "-c", script, gcs, str(mark)], env=environment, cwd=folder, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for name, script in (("task", TASK), ("key-value store", KEY_VALUE))
    }  # fmt: skip
    done = []
    for name, client in clients.items():
        with contextlib.suppress(subprocess.TimeoutExpired):
            if client.wait(seconds) == 0:
                done.append(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(client.pid, signal.SIGKILL)
        client.wait()
    return [*done, *(["file of a task"] if mark.exists() else [])]
