"""Before anything is spent: what the nodes have of the data, the code, the storage and the precision that runs need."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ctxtune.data import DatasetSettings, load_dataset
from ctxtune.errors import ConfigError, CtxtuneError, DataError, RunFailed
from ctxtune.tracking import run_environment
from ctxtune.training.precision import resolve_precision
from ctxtune.tuning.backend.client import answered
from ctxtune.tuning.backend.cluster import HEAD, RunResources
from ctxtune.tuning.backend.devices import run_device
from ctxtune.tuning.backend.ray_internals import infeasible_requests
from ctxtune.tuning.backend.storage import try_storage

FIRST_NODE_MINUTES = 30.0
"""How long an autoscaling cluster is given for its first node."""
_LOOK_SECONDS = 5.0
_NODE_SECONDS = 300.0


@dataclass(frozen=True)
class NodeReport:
    """What a node says of itself.

    Attributes:
        node: its address in the cluster.
        problem: what it lacks, in words; empty where it has everything.
        fingerprint: of the training split of the data as it lies there.
        environment: versions and hardware (`ctxtune.tracking.run_environment`).
    """

    node: str
    problem: str
    fingerprint: str
    environment: dict[str, str]


def check_nodes(
    dataset: DatasetSettings, resources: RunResources, storage: str, on_note: Callable[[str], None] = lambda text: None
) -> NodeReport:
    """Ask every node that can hold a run for its data and its storage; start the first one where none is up.

    Nodes that an autoscaler adds later are asked by the runs that they get.

    Args:
        dataset: what runs read.
        resources: what one run needs.
        storage: where checkpoints go.
        on_note: told that a first node is waited for.

    Returns:
        the report of one of them, all being alike.

    Raises:
        DataError: nodes lack the data, or it differs between them; ConfigError: something else; each node is named.
        CtxtuneError: no node came up in time.
    """
    arguments = (dataset.model_dump(mode="json"), storage)
    nodes = [node for node in ray.nodes() if node["Alive"] and _fits(node, resources)]
    if nodes:
        answers = {
            node["NodeManagerAddress"]: ray.remote(report_node)
            .options(
                num_cpus=0,
                max_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            )
            .remote(*arguments)
            for node in nodes
        }
        reports = [_answer(address, reference) for address, reference in answers.items()]
    else:
        on_note(
            f"no node of the cluster can hold a run yet ({resources.cpus:g} CPU cores, {resources.gpus:g} GPUs): waiting for "
            "the autoscaler to start one"
        )
        probe = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=3)(report_node)
        reference = probe.remote(*arguments)
        _wait_for_node(reference, resources)
        reports = [_answer("the first node", reference)]
    require_alike(reports)
    return reports[0]


def report_node(dataset: dict[str, object], storage: str) -> NodeReport:
    """What this node has. Runs on it, as a task; never raises for what a node may lack."""
    node = ray.util.get_node_ip_address()
    fingerprint = problem = ""
    try:
        fingerprint = load_dataset(DatasetSettings.model_validate(dataset)).train.fingerprint()
    except (DataError, OSError) as error:
        problem = f"data: {error}"
    problem = problem or (try_storage(storage) or "")
    return NodeReport(node, problem, fingerprint, run_environment())


def worker_precision(resources: RunResources) -> str:
    """What ``precision: auto`` means where the runs will be.

    Raises:
        ConfigError: runs are to have a GPU that PyTorch cannot use there.
        CtxtuneError: Ray could not ask.
    """
    if not resources.gpus:
        return resolve_precision("auto", torch.device("cpu"))
    ask = ray.remote(num_gpus=min(1.0, resources.gpus), num_cpus=0)(
        lambda: resolve_precision("auto", torch.device(run_device(resources.gpus)))
    )
    try:
        return answered(ask.remote())
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RunFailed):
            raise ConfigError(f"resources.gpus: {error.cause}. Runs on the CPU need resources.gpus: 0") from None
        raise


def _fits(node: dict[str, Any], resources: RunResources) -> bool:
    has = node["Resources"]
    return bool(has.get("CPU", 0.0) >= resources.cpus and has.get("GPU", 0.0) >= resources.gpus)


def _answer(address: str, reference: "ray.ObjectRef[NodeReport]") -> NodeReport:
    try:
        return ray.get(reference, timeout=_NODE_SECONDS)
    except ray.exceptions.GetTimeoutError:
        return NodeReport(address, f"gave no answer within {_NODE_SECONDS:.0f} s", "", {})
    except (ray.exceptions.RayError, ImportError) as error:
        # Mostly a package that this node does not have: the last line says which.
        lines = [line for line in str(error).splitlines() if line.strip()]
        return NodeReport(address, f"cannot run ctxtune: {lines[-1].strip() if lines else error}", "", {})


def require_alike(reports: Iterable[NodeReport]) -> None:
    """Raise DataError or ConfigError, naming each node, where one lacks something or its data is not that of the others."""
    reports = list(reports)
    missing = [report for report in reports if report.problem]
    if missing:
        kind = DataError if all(report.problem.startswith("data: ") for report in missing) else ConfigError
        lines = [f"  node {report.node}: {report.problem.removeprefix('data: ')}" for report in missing]
        raise kind(f"{len(missing)} of {len(reports)} nodes of the cluster cannot train:\n" + "\n".join(lines))
    by_fingerprint: dict[str, list[str]] = {}
    for report in reports:
        by_fingerprint.setdefault(report.fingerprint, []).append(report.node)
    if len(by_fingerprint) > 1:
        groups = "; ".join(f"{', '.join(nodes)}: {fingerprint}" for fingerprint, nodes in by_fingerprint.items())
        raise DataError(f"the training data differs between nodes ({groups}); copy it anew from one place")


def _wait_for_node(reference: object, resources: RunResources) -> None:
    end = time.monotonic() + 60 * FIRST_NODE_MINUTES
    while time.monotonic() < end:
        if ray.wait([reference], timeout=_LOOK_SECONDS)[0]:
            return
        if answered(
            ray.remote(_is_infeasible).options(num_cpus=0, resources=HEAD).remote(resources.cpus, resources.gpus)
        ):
            ray.cancel(reference)
            raise ConfigError(
                f"resources: one run asks for {resources.cpus:g} CPU cores and {resources.gpus:g} GPUs on one node, and the "
                "cluster's autoscaler answers that none of its kinds of nodes can ever hold that; lower resources.cpus and "
                "resources.gpus, or give the cluster larger nodes"
            )
    ray.cancel(reference)
    raise CtxtuneError(
        f"the cluster's autoscaler has started no node within {FIRST_NODE_MINUTES:.0f} minutes: look into its log (ray "
        "status, ray monitor) for quotas and for spot capacity that is not to be had"
    )


def _is_infeasible(cpus: float, gpus: float) -> bool:
    """Whether the autoscaler (version 2) counts such a request among those that no kind of node can hold. On the head."""
    asked = {name: value for name, value in (("CPU", cpus), ("GPU", gpus)) if value}
    requests = infeasible_requests(ray.get_runtime_context().gcs_address)
    return any({name: request.get(name) for name in asked} == asked for request in requests)
