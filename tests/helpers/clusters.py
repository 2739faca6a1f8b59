"""Ray clusters, an S3-compatible server and MLflow's server as child processes, with ports and folders of their own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from tests.helpers.processes import BIN, free_port, listens, wait_for
from tests.helpers.tracking import kill_server, start_server

START_SECONDS = 180.0
NODE_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_DISABLE_MEMORY_MONITOR": "1",
    "RAY_memory_monitor_refresh_ms": "0",
}
"""Of every node: a death is noticed in seconds, and nothing is killed for another's use of memory."""


@dataclass
class Node:
    """A process group of `ray start --block`."""

    process: subprocess.Popen[bytes]
    address: str

    def kill(self) -> None:
        """As when a machine is lost: every process of it at once, without a word."""
        _end(self.process, signal.SIGKILL)


@dataclass
class RayCluster:
    """A head and its nodes, each with an address of its own on the loopback network."""

    folder: Path
    port: int
    environment: dict[str, str]
    head: Node
    nodes: list[Node] = field(default_factory=list)
    client_port: int = 0
    dashboard_port: int = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def add_node(
        self, *, cpus: float = 1, gpus: float = 0, environment: Mapping[str, str] | None = None
    ) -> Node:  # fmt: skip
        address = f"127.0.0.{len(self.nodes) + 2}"
        command = [
            str(BIN / "ray"), "start", "--block", f"--address={self.address}", f"--node-ip-address={address}",
            f"--num-cpus={cpus:g}", f"--num-gpus={gpus:g}", "--object-store-memory=100000000", "--disable-usage-stats",
            f"--dashboard-agent-listen-port={free_port()}",
            f"--temp-dir={self.folder}/{address}",  # nodes that share one delete each other's runtime environments
        ]  # fmt: skip
        node = Node(
            _child(command, {**self.environment, **(environment or {})}, self.folder / f"{address}.log"), address
        )
        self.nodes.append(node)
        return node

    def alive(self) -> list[str]:
        """The addresses of the nodes that have joined and are there."""
        from ray._raylet import GcsClient

        found = GcsClient(self.address).get_all_node_info(timeout=10).values()
        return [node.node_manager_address for node in found if node.state == 0]

    def wait_for_nodes(self, count: int) -> None:
        """Until so many nodes have joined, the head not counted."""
        wait_for(lambda: len(self.alive()) >= count + 1, START_SECONDS, f"{count} nodes")

    def stop(self) -> None:
        for node in [*self.nodes, self.head]:
            _end(node.process, signal.SIGTERM)
        for node in [*self.nodes, self.head]:
            _end(node.process, signal.SIGKILL)
        _end_leftovers(str(self.folder))
        shutil.rmtree(self.folder, ignore_errors=True)


def start_cluster(
    *,
    head_cpus: float = 0,
    environment: Mapping[str, str] | None = None,
    autoscaling: Mapping[str, Any] | None = None,
    dashboard: bool = False,
    client: bool = False,
) -> RayCluster:
    """A head on a free port; ``autoscaling`` is the ``available_node_types`` of Ray's fake node provider."""
    folder = Path(tempfile.mkdtemp(prefix="ctxc", dir="/tmp"))  # short: sockets lie in it
    port = free_port()
    variables = {**os.environ, **NODE_ENVIRONMENT, **(environment or {})}
    variables.pop("RAY_ADDRESS", None)
    command = [
        str(BIN / "ray"), "start", "--head", "--block", f"--port={port}", "--node-ip-address=127.0.0.1",
        f"--num-cpus={head_cpus:g}", "--num-gpus=0", f"--temp-dir={folder}/ray", "--object-store-memory=100000000",
        "--disable-usage-stats", f"--dashboard-agent-listen-port={free_port()}",
    ]  # fmt: skip
    cluster = RayCluster(folder, port, variables, None)  # type: ignore[arg-type]
    if dashboard:
        cluster.dashboard_port = free_port()
        command += ["--include-dashboard=true", f"--dashboard-port={cluster.dashboard_port}"]
    else:
        command += ["--include-dashboard=false"]
    if client:
        cluster.client_port = free_port()
        command += [f"--ray-client-server-port={cluster.client_port}"]
    if autoscaling is not None:
        file = folder / "autoscaling.yaml"
        file.write_text(yaml.safe_dump(_fake_provider(autoscaling, cluster.address), sort_keys=False))
        command += [f"--autoscaling-config={file}"]
        variables |= {
            "RAY_FAKE_CLUSTER": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_enable_autoscaler_v2": variables.get("RAY_enable_autoscaler_v2", "1"),
        }
    cluster.head = Node(_child(command, variables, folder / "head.log"), "127.0.0.1")
    try:
        wait_for(lambda: listens(port), START_SECONDS, f"Ray's head ({(folder / 'head.log').read_text()[-500:]})")
        if client:
            wait_for(lambda: listens(cluster.client_port), START_SECONDS, "Ray's client server")
        if dashboard:
            wait_for(lambda: listens(cluster.dashboard_port), START_SECONDS, "Ray's dashboard")
    except BaseException:  # Ctrl-C too: nothing may be left running
        cluster.stop()
        raise
    return cluster


def _fake_provider(kinds: Mapping[str, Any], address: str) -> dict[str, Any]:
    """Ray's own fake node provider: its nodes are processes on this machine, everything else is the real autoscaler."""
    head = next(iter(kinds))
    return {
        "cluster_name": "ctxtune-test",
        "max_workers": sum(kind.get("max_workers", 0) for name, kind in kinds.items() if name != head),
        "upscaling_speed": 100.0,
        "idle_timeout_minutes": 0.15,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "use_node_id_as_ip": True,
            "gcs_address": address,
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {name: {"node_config": {}, **kind} for name, kind in kinds.items()},
        "head_node_type": head,
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "cluster_synced_files": [],
        "rsync_exclude": [],
        "rsync_filter": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }


@contextlib.contextmanager
def running_cluster(**options: Any) -> Iterator[RayCluster]:
    cluster = start_cluster(**options)
    try:
        yield cluster
    finally:
        cluster.stop()


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """moto's S3 server with one bucket, ``ctxtune``; yields the environment in which it is found."""
    port = free_port()
    process = _child(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], dict(os.environ), folder / "moto.log"
    )
    address = f"http://127.0.0.1:{port}"
    environment = {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "AKIACTXTUNETEST00001",
        "AWS_SECRET_ACCESS_KEY": "ctxtune-test-secret-key-9f3a71",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    try:
        wait_for(lambda: listens(port), START_SECONDS, "the S3 server")
        request = urllib.request.Request(f"{address}/ctxtune", method="PUT")
        urllib.request.urlopen(request, timeout=10).close()
        yield environment
    finally:
        _end(process, signal.SIGKILL)


def s3_keys(environment: Mapping[str, str], bucket: str = "ctxtune") -> list[str]:
    """The keys of all objects in a bucket."""
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
    )
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


@contextlib.contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """MLflow's own server on the loopback."""
    port = free_port()
    server = start_server(f"sqlite:///{folder}/server.db", port, folder / "artifacts")
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        kill_server(server)


def journal_events(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def _child(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen(
            command, env=environment, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )  # fmt: skip


def _end(process: subprocess.Popen[bytes], number: int) -> None:
    """End a child and whatever it has started in its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)


def _end_leftovers(mark: str) -> None:
    """Processes of Ray whose command line names this cluster's own folder (workers in sessions of their own)."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark.encode() in (entry / "cmdline").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
