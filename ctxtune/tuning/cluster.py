"""Ray itself: starting it on this machine, and what one run gets of it."""

import os
from dataclasses import dataclass
from typing import Any

import ray

from ctxtune.config.search import ResourcesSettings
from ctxtune.errors import CtxtuneError

_ENVIRONMENT = {
    # We handle signals, logs and metrics ourselves.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    # Our journal is the state that counts; Ray's own snapshot of the experiment is never read again.
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "1",
}
# A Ray of our own listens on loopback only, for the length of the sweep: it works out of the box, without a token.
_LOCAL_ENVIRONMENT = {"RAY_AUTH_MODE": "disabled"}


@dataclass(frozen=True)
class RunResources:
    """What one run gets, and how many run at a time."""

    cpus: float
    gpus: float
    concurrent: int


def start_ray(address: str | None = None) -> None:
    """Start Ray on this machine, or connect to a cluster.

    Raises:
        CtxtuneError: there is no cluster at the address.
    """
    defaults = _ENVIRONMENT if address else {**_ENVIRONMENT, **_LOCAL_ENVIRONMENT}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": True, "logging_level": "error"}
    if address is None:
        options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(address=address, ignore_reinit_error=True, **options)
    except ConnectionError as error:
        raise CtxtuneError(f"--address {address}: no Ray cluster answers there ({error})") from None


def run_resources(settings: ResourcesSettings, max_concurrent: int | str) -> RunResources:
    """What one run gets on the present cluster: a GPU each where there are GPUs, else a CPU core each.

    Raises:
        CtxtuneError: the cluster cannot fit a single run.
    """
    cluster = ray.cluster_resources()
    all_cpus, all_gpus = cluster.get("CPU", 0.0), cluster.get("GPU", 0.0)
    gpus = (1.0 if all_gpus else 0.0) if settings.gpus == "auto" else float(settings.gpus)
    if settings.cpus == "auto":
        cpus = max(1.0, all_cpus // max(1.0, all_gpus / gpus)) if gpus else 1.0
    else:
        cpus = float(settings.cpus)
    fits = [int(total // each) for total, each in ((all_cpus, cpus), (all_gpus, gpus)) if each]
    most = min(fits, default=1)
    if most < 1:
        raise CtxtuneError(
            f"resources: one run asks for {cpus:g} CPU cores and {gpus:g} GPUs, but the cluster has only {all_cpus:g} and "
            f"{all_gpus:g}; lower resources.cpus and resources.gpus (0 GPUs trains on the CPU)"
        )
    return RunResources(cpus, gpus, most if max_concurrent == "auto" else int(max_concurrent))
