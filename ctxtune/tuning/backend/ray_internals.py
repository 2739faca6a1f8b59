"""All that we use of Ray and that Ray promises nobody. Where a version lacks a name, something is lost, never a sweep.

What Ray Tune does although nobody needs it here: it keeps and writes the state of every trial for a `restore` that we
never ask for (the journal is our state); with `num_to_keep` at every few checkpoints, all trials each time, uploaded where
the storage is a bucket. By benchmarks/overhead.py --trials 80 --stock 0 --checkpoints, with and --without-savings, on two slow
cores: 19 and 26 ms of processor time of the control loop a trial (0.73), growing with their number. And it imports MLflow to
count for its statistics which callbacks there are: 0.9 s of the 8 s between a sweep's command line and its first trial.
"""

import functools
import os
import pkgutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import AuthenticationError, RayActorError, RayError, RayTaskError
from ray.tune import Callback, Tuner

AWS_KEYS = "ray.tune.execution.class_cache:ENV_VARS_TO_PROPAGATE"
CONTROLLER_MODULE = "ray.tune.execution.tune_controller"
CONTROLLER = f"{CONTROLLER_MODULE}:TuneController"
PROCESS_CACHE = "_ObjectCache"
TRIAL_MODULE = "ray.tune.experiment.trial"
LOOKUPS = ("get_trainable_cls", "validate_trainable")
ACTOR_MANAGER = "ray.air.execution._internal.actor_manager:RayActorManager"
PRINTING = "ray._private.worker"
STAGING = "ray.train._internal.storage"
SERVICES = "ray._private.services"
NODE = "ray._private.node:Node"
UTILITIES = "ray._private.utils"
CONSTANTS = "ray._private.ray_constants"
GCS_CLIENT = "ray._raylet:GcsClient"
BOOTSTRAP = "ray._private.services:canonicalize_bootstrap_address_or_die"
CHANNEL = "ray._private.grpc_utils:init_grpc_channel"
CLIENT_REQUEST = "ray.core.generated.ray_client_pb2:ClusterInfoRequest"
CLIENT_PING = "ray.core.generated.ray_client_pb2:ClusterInfoType.PING"
CLIENT_STUB = "ray.core.generated.ray_client_pb2_grpc:RayletDriverStub"
CLUSTER_STATUS = "ray.core.generated.autoscaler_pb2:GetClusterStatusReply"
CLIENT = "ray.util.client:ray"
LOCAL_TUNER = "ray.tune.impl.tuner_internal:TunerInternal"
UNRESOLVED = "_Trial__unresolved_config"
PROGRESS = "ray.tune.progress_reporter:TrialProgressCallback"
STATISTICS = "ray.air._internal.usage"
AUTHENTICATION = ("ray._raylet:Config.initialize", "ray._raylet:AuthenticationTokenLoader.instance")


@contextmanager
def thrifty_tune(kept: int = 0) -> Iterator[None]:
    """For the length of one `Tuner.fit`; what the trials do and what we hear of them is the same.

    Args:
        kept: so many processes that are done with their trial wait for the next one; Tune itself keeps a single one, so that
            a stage that ends leaves the next one without.
    """
    cache = internal(f"{CONTROLLER_MODULE}:{PROCESS_CACHE}")
    replaced = {PROCESS_CACHE: _keeping(cache, kept)} if cache and kept else {}
    # Each trial would ask the cluster for what all of them run, three times over, and unpickle a class of its own.
    lookups = {name: functools.cache(found) for name in LOOKUPS if (found := internal(f"{TRIAL_MODULE}:{name}"))}
    with (
        _replaced(CONTROLLER, _get_trial_checkpoints=_no_trials),
        _replaced(CONTROLLER_MODULE, **replaced),
        _replaced(TRIAL_MODULE, **lookups),
        _replaced(STATISTICS, _count_callbacks=_nothing_counted),
    ):
        yield


@contextmanager
def retry_after_out_of_memory() -> Iterator[None]:
    """Let Ray Tune try a run again whose process Ray has ended because the machine runs out of memory.

    Tune does not expect the error of such a process: it would leave `Tuner.fit` and end the whole sweep. So it is passed on as
    that of a process that died.
    """
    handle = getattr(internal(ACTOR_MANAGER), "_actor_task_failed", None)

    def handle_death(manager: Any, tracked_actor_task: Any, exception: Exception) -> None:
        assert handle is not None
        if isinstance(exception, RayError) and not isinstance(exception, (RayActorError, RayTaskError)):
            exception = RayActorError(error_msg=str(exception).split("\n", 1)[0])
        handle(manager, tracked_actor_task, exception)

    with _replaced(ACTOR_MANAGER, _actor_task_failed=handle_death):
        yield


def _keeping(cache: Any, kept: int) -> Any:
    """A cache of processes that takes so many whether or not a trial waits for one."""

    class Keeping(cache):  # type: ignore[misc]
        def cache_object(self, key: Any, obj: Any) -> bool:
            if self.num_cached_objects >= kept:
                return bool(super().cache_object(key, obj))
            self.increase_max(key, kept)
            taken = bool(super().cache_object(key, obj))
            self.decrease_max(key, kept)
            return taken

        def flush_cached_objects(self, force_all: bool = False) -> Iterator[Any]:
            if force_all or self.num_cached_objects > kept:
                yield from super().flush_cached_objects(force_all)

    return Keeping


def _nothing_counted(callbacks: object) -> None:
    """For `_count_callbacks`."""


def _no_trials(controller: Any) -> dict[str, str]:
    """In place of the states of all trials: none."""
    getattr(controller, "_trials_to_cache", set()).clear()
    return {}


@contextmanager
def listening_on_loopback() -> Iterator[None]:
    """Let `ray.init` take 127.0.0.1 for this machine's address, as it does where Ray knows no clusters (macOS, Windows).

    GCS, raylet, workers, agents and the driver then listen on the loopback interface alone.
    """
    with _replaced(CONSTANTS, ENABLE_RAY_CLUSTER=False):
        yield


@contextmanager
def without_monitors() -> Iterator[None]:
    """Let `ray.init` start no autoscaler's monitor, log monitor and API server, of which a Ray of our own needs none.

    Each is a Python process that imports Ray. On two busy cores the start takes 9.7 s without them and 14.1 s with them, its
    processes 3.6 and 6.2 s of processor time until a first task has run. The dashboard's agent starts as in a Ray without
    its extra packages, which neither it nor this process then imports.
    """
    nothing: dict[str, Any] = dict.fromkeys(("start_monitor", "start_log_monitor"), lambda *arguments, **options: None)
    with (
        _replaced(NODE, **nothing),
        _replaced(SERVICES, start_api_server=lambda *arguments, **options: ("", None)),
        _replaced(UTILITIES, get_dashboard_dependency_error=lambda: ImportError("there is no dashboard")),
    ):
        yield


@contextmanager
def patient_start(seconds: float) -> Iterator[None]:
    """Let `ray.init` wait so long for the raylet to be known: on a loaded machine its own 30 s are few, and not to be set."""
    ask = getattr(internal(SERVICES), "get_node", None)

    def ask_until_known(*arguments: Any, **options: Any) -> Any:
        assert ask is not None
        end = time.monotonic() + seconds
        while True:
            try:
                return ask(*arguments, **options)
            except RuntimeError:  # not known yet
                if time.monotonic() > end:
                    raise
            time.sleep(0.1)

    with _replaced(SERVICES, get_node=ask_until_known):
        yield


@contextmanager
def nothing_printed_by_ray() -> Iterator[None]:
    """Keep what Ray prints about its processes (pages of a raylet's state, if that dies) out of our output."""
    with _replaced(PRINTING, print_to_stdstream=lambda data, ignore_prefix: None):
        yield


@contextmanager
def staging_in(folder: Path) -> Iterator[None]:
    """Let Ray Tune stage its driver's files here: over ray:// it would take the folder of a node, which is not here."""
    with _replaced(STAGING, _get_ray_train_session_dir=lambda: str(folder)):
        yield


def read_authentication_anew() -> None:
    """Make this process use RAY_AUTH_MODE and the token as they are in the environment now: Ray reads them once."""
    initialize, loader = (internal(name) for name in AUTHENTICATION)
    if initialize and loader:
        initialize("")
        loader().reset_cache()
    else:  # without the variable Ray turns tokens on by itself
        os.environ.pop("RAY_AUTH_MODE", None)


def keep_aws_keys_here() -> None:
    """Ray Tune would copy the driver's AWS keys into each run's runtime environment, which Ray writes into its logs."""
    propagated = internal(AWS_KEYS) or set()
    for name in [name for name in propagated if name.startswith("AWS_")]:
        propagated.discard(name)


def ask_cluster(address: str) -> None:
    """Ask a cluster whether it lets us in: Ray itself takes a missing token for a silent port, and tries on.

    Args:
        address: auto or HOST:PORT.

    Raises:
        AuthenticationError: it wants a token, or another one.
        ConnectionError, RpcError: there is none.
    """
    client, found = internal(GCS_CLIENT), internal(BOOTSTRAP)
    if client and found:
        client(found(address))


def ask_client_server(host: str, seconds: float) -> None:
    """As `ask_cluster`, for the server behind a ray:// address."""
    channel, stub, request, ping = map(internal, (CHANNEL, CLIENT_STUB, CLIENT_REQUEST, CLIENT_PING))
    if not channel or not stub or not request or ping is None:
        return
    import grpc  # type: ignore[import-untyped]

    with channel(host) as opened:
        try:
            stub(opened).ClusterInfo(
                request(type=ping),
                timeout=seconds,
                metadata=[("client_id", uuid.uuid4().hex)],
            )
        except grpc.RpcError as error:  # whatever else is wrong, Ray says better
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                raise AuthenticationError(error.details()) from None


def connected_from_outside() -> bool:
    """Whether the connection is one by ray://, whose driver is no node of the cluster."""
    client = internal(CLIENT)
    return bool(client and client.is_connected())


def infeasible_requests(gcs_address: str) -> list[dict[str, float]]:
    """The requests that the autoscaler (version 2) says no kind of node can hold; none where it cannot be asked."""
    client, reply = internal(GCS_CLIENT), internal(CLUSTER_STATUS)
    if not (client and reply):
        return []
    status = reply()
    status.ParseFromString(client(gcs_address).get_cluster_status())
    return [dict(request.resources_bundle) for request in status.autoscaling_state.infeasible_resource_requests]


def tuner_here(**options: Any) -> Any:
    """Ray's tuner with its loop in this process: over ray:// Ray would carry it, and our recorder with it, to the head."""
    tuner = internal(LOCAL_TUNER)
    if connected_from_outside() and tuner:
        return tuner(_tuner_kwargs={"_remote": False}, **options)
    return Tuner(**options)


def silent_progress() -> list[Callback]:
    """In place of Ray's own, which prints a line (amid our JSON) of a trial that ends without a result, whatever `verbose`."""
    progress = internal(PROGRESS)
    if progress is None:
        return []
    return [type("Silence", (progress,), {"_print": lambda self, text: None, "__getstate__": lambda self: {}})()]


def end_process(trial: Any) -> None:
    """End the process of a trial that is running at once: Ray gives it 15 s, or the rest of its interval."""
    process = getattr(getattr(trial, "temporary_state", None), "ray_actor", None)
    if process is not None and trial.status == "RUNNING":
        ray.kill(process)


def forget_details(trial: Any) -> None:
    """Let go of what Ray Tune keeps of a trial that has ended: summaries of each metric, and copies of its configuration.

    Its own reports are made of those, which nobody asks for here. What is left of the configuration is its ``key``.
    """
    metadata = getattr(trial, "run_metadata", None)
    for name in ("metric_analysis", "metric_n_steps"):
        getattr(metadata, name, {}).clear()
    for name in ("config", "experiment_tag"):
        getattr(metadata, "last_result", {}).pop(name, None)
    left = {name: value for name, value in getattr(trial, "config", {}).items() if name == "key"}
    for name, value in {"config": left, UNRESOLVED: left, "evaluated_params": {}, "experiment_tag": ""}.items():
        if hasattr(trial, name):
            setattr(trial, name, value)


def error_of(trial: Any) -> str:
    """The last line of what Ray Tune wrote down of a trial's errors."""
    file = Path(getattr(trial, "error_file", None) or os.devnull)
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else "no message"


def internal(name: str) -> Any:
    """Something of Ray's by its full name, as ``package.module:attribute``; None where this version has no such thing."""
    try:
        return pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return None


@contextmanager
def _replaced(name: str, **replacements: Any) -> Iterator[None]:
    """Attributes of something internal replaced, those that it has."""
    owner = internal(name)
    originals = {each: getattr(owner, each) for each in replacements if hasattr(owner, each)}
    for each in originals:
        setattr(owner, each, replacements[each])
    try:
        yield
    finally:
        for each, original in originals.items():
            setattr(owner, each, original)
