"""Nobody on the network gets anything done with the processes of a sweep on this machine."""

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.intruder import (
    calls_answered,
    clients_succeed,
    listening_ports,
    machine_addresses,
    pages_answered,
    reachable,
)
from tests.helpers.processes import PATIENCE
from tests.helpers.sweeps import SMALL, start_sweep, wait_for_checkpoints

LONG = [
    *SMALL,
    "trial.schedule.epochs=100000",
    "search.trials=1",
    "search.scheduler.name=none",
    "select=null",
    "confirm=null",
]
OPEN = """
import sys
import ray
ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
pytestmark = pytest.mark.ray
linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")


def gcs_addresses(ports: dict[int, str]) -> list[str]:
    return [
        f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        for port, who in ports.items()
        for address in machine_addresses()
        if who.startswith("gcs_server") and reachable(address, port)
    ]


@dataclass
class Sweep:
    """A sweep under way.

    Attributes:
        temporary: its folder for temporary files; ``ray`` the one for Ray's.
    """

    process: subprocess.Popen[str]
    folder: Path
    temporary: Path
    ray: Path


@pytest.fixture(scope="module")
def sweep(repository, tmp_path_factory):
    """One that lasts longer than the tests; at its end all that it kept for itself is gone."""
    folder, temporary = tmp_path_factory.mktemp("sweep"), tmp_path_factory.mktemp("temporary")
    ray_folder = Path(tempfile.mkdtemp(prefix="ctx", dir="/tmp"))  # short, for sockets
    variables = {"RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": str(ray_folder), "TMPDIR": str(temporary)}
    process = start_sweep(repository, folder, overrides=LONG, variables=variables)
    try:
        wait_for_checkpoints(folder / "results/quickstart/journal.jsonl", 1, process)
        yield Sweep(process, folder, temporary, ray_folder)
        assert process.poll() is None  # all that was tried did it no harm
    finally:
        process.send_signal(signal.SIGINT)
        output = "".join(process.communicate(timeout=PATIENCE))
    assert process.returncode == 130, output
    assert "SIGINT: stopping" in output and "--resume" in output and "Traceback" not in output
    assert [*ray_folder.iterdir(), *temporary.glob("*ctxtune*")] == []
    ray_folder.rmdir()


@linux
def test_without_the_token_nothing_gets_done_at_any_port_of_a_sweep(sweep):
    ports = listening_ports(sweep.process.pid)
    assert {"gcs_server", "raylet"} <= {who.split()[0] for who in ports.values()} and len(ports) >= 5
    answered = {
        f"{address} {port} ({who})": calls_answered(address, port) + pages_answered(address, port)
        for port, who in ports.items()
        for address in machine_addresses()
        if reachable(address, port)
    }
    assert {key: done for key, done in answered.items() if done} == {}
    assert all(key.startswith(("127.0.0.1 ", "::1 ")) for key in answered), answered.keys()  # loopback only


@linux
@pytest.mark.slow
def test_rays_own_clients_get_nothing_done_without_the_token(sweep, tmp_path):
    addresses = gcs_addresses(listening_ports(sweep.process.pid))
    assert addresses
    for address in addresses:
        assert clients_succeed(address, tmp_path) == []


@linux
def test_the_token_is_in_one_file_that_only_its_user_can_read_and_nowhere_else(sweep):
    (token,) = sweep.ray.glob("ctxtune-*/token")
    secret = token.read_bytes()
    assert len(secret) == 64 and token.stat().st_mode & 0o177 == 0
    for folder in [token.parent, *sweep.temporary.glob("ctxtune-*")]:
        assert folder.stat().st_mode & 0o077 == 0
    for kept in [*sweep.ray.rglob("*"), *sweep.folder.rglob("*")]:
        assert kept == token or not kept.is_file() or secret not in read(kept), kept
    for process in [sweep.process.pid, *descendants(sweep.process.pid)]:
        for file in ("environ", "cmdline"):
            assert secret not in read(Path(f"/proc/{process}/{file}"))


def descendants(process: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(process).children(recursive=True)]


def read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # ended meanwhile
        return b""


@linux
@pytest.mark.slow
def test_the_intruder_is_one_who_gets_in_where_ray_has_no_token(tmp_path):
    """What a sweep's Ray was before it had a token: the test above would have failed."""
    variables = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    ray = subprocess.Popen(
        [sys.executable, "-c", OPEN], env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        gcs = ray.stdout.readline().strip()
        host, _, port = gcs.rpartition(":")
        assert clients_succeed(gcs, tmp_path) == ["task", "key-value store", "file of a task"]
        assert calls_answered(host, int(port))
    finally:
        ray.stdin.close()
        ray.wait(60)
