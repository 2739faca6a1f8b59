"""Ray itself: starting it on this machine or joining a cluster, what the cluster can hold, and what one run gets of it."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
import yaml
from ray.exceptions import AuthenticationError, RpcError

import ctxtune
from ctxtune.config.sweep import ResourcesSettings
from ctxtune.errors import ConfigError, CtxtuneError
from ctxtune.redaction import redact
from ctxtune.tuning.backend.client import answered, require_token
from ctxtune.tuning.backend.local_ray import local_ray, own_sigterm
from ctxtune.tuning.backend.private_folders import private_folder
from ctxtune.tuning.backend.ray_internals import (
    connected_from_outside,
    keep_aws_keys_here,
    nothing_printed_by_ray,
    staging_in,
)
from ctxtune.tuning.backend.watch import shut_down
from ctxtune.yaml_text import Tree

_ENVIRONMENT = {
    # We handle signals, logs and metrics ourselves.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    # Seconds that a process has to be done with one run before it is used for the next; two are few on a busy machine.
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",
    # How many runs wait for a place is ours to say (`Concurrency`).
    "TUNE_MAX_PENDING_TRIALS_PG": "100000",
    # Our journal is the state that counts; Ray's own snapshot of the experiment is never read again.
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "1",
}
# Not secret, and needed wherever a checkpoint is written. Keys never travel: nodes have roles, or secrets of their own.
_SHIPPED_ENVIRONMENT = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION", "AWS_REGION")
_ANSWER_SECONDS = 10.0
HEAD = {"node:__internal_head__": 0.001}
"""Ray's own mark of the head node, to pin a task there."""


@dataclass(frozen=True)
class RunResources:
    """What one run gets, and how many run at a time.

    Attributes:
        concurrent: the most at a time, as known at the start.
        follows: more, where nodes join later.
        may_grow: nobody can say how far: nodes may be started for what waits.
    """

    cpus: float
    gpus: float
    concurrent: int
    follows: bool = False
    may_grow: bool = False
    price_per_gpu_hour: float | None = None


@dataclass(frozen=True)
class NodeKind:
    """Nodes that a cluster has, or may start: ``most`` of them, each with so many CPU cores and GPUs."""

    name: str
    cpus: float
    gpus: float
    most: int

    def runs(self, cpus: float, gpus: float) -> int:
        """How many runs one such node holds at a time."""
        shares = [int(total / each + 1e-6) for total, each in ((self.cpus, cpus), (self.gpus, gpus)) if each]
        return min(shares, default=1)

    def __str__(self) -> str:
        return f"{self.name} ({self.cpus:g} CPU cores, {self.gpus:g} GPUs, {self.most} of them at most)"


def cluster_address(asked: str | None) -> str | None:
    """The cluster to use: as asked for, or the one that this process is a job of; None: a Ray of our own.

    `ray job submit` names its cluster to the job by RAY_ADDRESS.
    """
    address = asked or os.environ.get("RAY_ADDRESS") or None
    return None if address == "local" else address  # Ray's word for one of our own


def _named(address: str) -> str:
    """An address as the user gave it: by the option, or by the environment, which is easily forgotten."""
    inherited = os.environ.get("RAY_ADDRESS") == address
    shown = redact(address)
    return f"RAY_ADDRESS={shown} (in the environment)" if inherited else f"--address {shown}"


@contextlib.contextmanager
def running_ray(
    address: str | None = None,
    modules: Sequence[Path] = (),
    on_note: Callable[[str], None] = lambda text: None,
) -> Iterator[None]:
    """Ray, started on this machine, or a cluster, connected to and sent this package.

    Args:
        address: auto, HOST:PORT of a cluster that this machine is a node of, or ray://HOST:PORT from anywhere; None: a Ray
            of our own, closed to others (`ctxtune.tuning.backend.local_ray`).
        modules: packages and modules of the user's that runs need, sent along.
        on_note: told what the user should know.

    A Ray that this process has started or joined before is used as it is, and left running.

    Raises:
        CtxtuneError: there is no cluster at the address, or it does not let us in.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    keep_aws_keys_here()
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": True, "logging_level": "error"}
    with contextlib.ExitStack() as opened:
        opened.enter_context(nothing_printed_by_ray())
        if address is None:
            opened.enter_context(local_ray(options, on_note))
            yield
            return
        if address.startswith("ray://"):
            opened.enter_context(staging_in(opened.enter_context(private_folder())))
        opened.callback(shut_down)
        _join(address, {**options, "runtime_env": _runtime_env(modules)})
        yield


def _join(address: str, options: dict[str, Any]) -> None:
    _require_answer(address)
    try:
        require_token(address)
        with own_sigterm():
            ray.init(address=address, ignore_reinit_error=True, **options)
    except AuthenticationError:
        raise ConfigError(
            f"{_named(address)}: the cluster wants a token. Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH (a file that "
            "holds the cluster's token) or RAY_AUTH_TOKEN; on Kubernetes it lies in the secret that KubeRay made"
        ) from None
    except (ConnectionError, RpcError, RuntimeError, ValueError, TimeoutError) as error:
        raise CtxtuneError(f"{_named(address)}: {_why_not(address, error)}") from None


def _why_not(address: str, error: Exception) -> str:
    text = str(error)
    if "token" in text.lower() or "unauthenticated" in text.lower():
        return f"the cluster wants a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN ({text})"
    if not address.startswith("ray://") and ("node_ip_address" in text or "raylet" in text):
        return (
            "this machine is no node of that cluster. Run the sweep on the head (ray attach, kubectl exec, ray job "
            f"submit), or connect from here by ray://HOST:10001 ({text})"
        )
    return f"no Ray cluster answers there; is it up, is its port forwarded? ({text})"


def _require_answer(address: str) -> None:
    """Raise ConfigError at once where nothing listens: Ray itself tries for a minute."""
    if address == "auto":
        return
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        port = parts.port
    except ValueError:
        port = None
    if not parts.hostname or port is None or parts.scheme not in ("", "ray"):
        raise ConfigError(f"{_named(address)}: expected auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((parts.hostname, port), timeout=_ANSWER_SECONDS).close()
    except OSError as error:
        raise CtxtuneError(
            f"{_named(address)}: no Ray cluster answers there; is it up, is its port forwarded? ({error})"
        ) from None


def _runtime_env(modules: Sequence[Path]) -> dict[str, object]:
    """This package and the user's modules, as they are here, for every node: an image may hold older ones."""
    package = Path(ctxtune.__file__).resolve().parent
    environment: dict[str, object] = {"py_modules": [str(package), *(str(path) for path in modules)]}
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:  # a submitted job has a runtime environment of its own
        environment["env_vars"] = {name: os.environ[name] for name in _SHIPPED_ENVIRONMENT if os.environ.get(name)}
    return environment


def run_resources(settings: ResourcesSettings, max_concurrent: int | str) -> RunResources:
    """What one run gets on the present cluster: a GPU each where there are GPUs, else a CPU core each.

    An autoscaling cluster counts with all the nodes that it may start.

    Raises:
        ConfigError: the cluster cannot ever fit a single run.
    """
    return resources_on(*node_kinds(), settings, max_concurrent)


def resources_on(
    kinds: Sequence[NodeKind], known: bool, settings: ResourcesSettings, max_concurrent: int | str
) -> RunResources:
    """What one run gets on nodes of these kinds; ``known``: there will be no others.

    Raises:
        ConfigError: none of them can hold a single run, or it asks for GPUs and a half.
    """
    have_gpus = [kind for kind in kinds if kind.gpus]
    gpus = (1.0 if have_gpus else 0.0) if settings.gpus == "auto" else float(settings.gpus)
    process_count(gpus)
    cpus = _auto_cpus(have_gpus, gpus) if settings.cpus == "auto" else float(settings.cpus)
    most = sum(kind.most * kind.runs(cpus, gpus) for kind in kinds)
    if most < 1 and known:
        raise ConfigError(
            f"resources: one run asks for {cpus:g} CPU cores and {gpus:g} GPUs on one node, but no node there "
            f"can ever hold that: {'; '.join(map(str, kinds))}. Lower resources.cpus and resources.gpus (0 GPUs trains on "
            "the CPU), or give the cluster larger nodes"
        )
    if max_concurrent != "auto":
        return RunResources(cpus, gpus, int(max_concurrent))
    return RunResources(cpus, gpus, max(most, 1), follows=True, may_grow=not known)


def process_count(gpus: float) -> int:
    """How many processes train one run: one for each GPU, and one where it has a fraction of a GPU or none.

    Raises:
        ConfigError: more than one GPU, and not a whole number of them.
    """
    if gpus > 1 and gpus != int(gpus):
        raise ConfigError(f"resources.gpus: {gpus:g}: several GPUs for one run must be a whole number of them")
    return max(1, int(gpus))


def _auto_cpus(have_gpus: Sequence[NodeKind], gpus: float) -> float:
    """A GPU node's cores, shared evenly among the runs that its GPUs hold; without GPUs a core."""
    shares = [kind.cpus // max(1.0, kind.gpus / gpus) for kind in have_gpus if gpus and kind.gpus >= gpus]
    return max(1.0, min(shares, default=1.0))


def node_kinds() -> tuple[list[NodeKind], bool]:
    """The nodes that the cluster has or may start, and whether that is all of them.

    Ray's autoscaler knows kinds of nodes from its file on the head; KubeRay keeps them outside the cluster, where only
    the nodes that are up can be seen.
    """
    # The driver is mostly on the head itself; a task there costs seconds.
    scaling = (
        _autoscaling()
        if _on_head()
        else answered(ray.remote(_autoscaling).options(num_cpus=0, resources=HEAD).remote())
    )
    if scaling.get("kinds"):
        return [NodeKind(*kind) for kind in scaling["kinds"]], True
    return alive_nodes(), not scaling.get("elsewhere")


def alive_nodes() -> list[NodeKind]:
    """The nodes that are up now, each as a kind of its own."""
    return [NodeKind(f"node {node['NodeManagerAddress']}", *_size(node), 1) for node in ray.nodes() if node["Alive"]]


def _on_head() -> bool:
    if connected_from_outside():
        return False
    return ray.get_runtime_context().gcs_address.rpartition(":")[0] == ray.util.get_node_ip_address()


def _size(node: dict[str, Any]) -> tuple[float, float]:
    return node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)


def _autoscaling() -> Tree:
    """What the head knows of autoscaling: ``kinds`` of nodes, or that they are kept ``elsewhere``. Runs there."""
    if os.environ.get("KUBERAY_GEN_RAY_START_CMD") or os.environ.get("RAY_USAGE_STATS_KUBERAY_IN_USE") == "1":
        return {"elsewhere": True}
    address = ray.get_runtime_context().gcs_address
    for arguments in _monitors():
        options = dict(part.split("=", 1) for part in arguments if part.startswith("--") and "=" in part)
        if options.get("--gcs-address") == address and options.get("--autoscaling-config"):
            text = Path(options["--autoscaling-config"]).expanduser().read_text(encoding="utf-8")
            return {"kinds": list(configured_kinds(yaml.safe_load(text)))}
    return {}


def _monitors() -> Iterator[list[str]]:
    """The command lines of Ray's monitors on this machine: one for each cluster whose head is here."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if "monitor.py" in line and "--gcs-address" in line:
                yield line.split("\0")


def configured_kinds(config: Tree) -> Iterator[tuple[str, float, float, int]]:
    """Name, CPU cores, GPUs and greatest number of each kind of node in the configuration of Ray's autoscaler."""
    most = config.get("max_workers", 2)
    for name, kind in config["available_node_types"].items():
        size = kind.get("resources", {})
        count = 1 if name == config["head_node_type"] else min(kind.get("max_workers", most), most)
        yield name, float(size.get("CPU", 0)), float(size.get("GPU", 0)), count
