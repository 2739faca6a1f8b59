"""All that we use of Ray and that Ray promises nobody. Where a version lacks a name, something is lost, never a sweep.

What Ray Tune does again for every trial although once, or not at all, is enough: it keeps and writes the state of every
trial for a `restore` that we never ask for (the journal is our state); with `num_to_keep` at every few checkpoints, all
trials each time, uploaded where the storage is a bucket. It fetches the trainable from the cluster's table five times a
trial, each time as a new class, which it exports anew. And it imports MLflow, wandb and others to count, for its makers,
which of their callbacks are used.
"""

import functools
import os
import pkgutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

CONTROLLER = "ray.tune.execution.tune_controller:TuneController"
REGISTRY = "ray.tune.registry:_Registry"
CALLBACK_USAGE = "ray.air._internal.usage"
STAGING = "ray.train._internal.storage"
CONSTANTS = "ray._private.ray_constants"
AUTHENTICATION = ("ray._raylet:Config.initialize", "ray._raylet:AuthenticationTokenLoader.instance")


@contextmanager
def thrifty_tune() -> Iterator[None]:
    """For the length of one `Tuner.fit`; what the trials do and what we hear of them is the same."""
    with ExitStack() as replaced:
        replaced.enter_context(_replaced(CONTROLLER, _get_trial_checkpoints=_no_trials))
        replaced.enter_context(_replaced(CALLBACK_USAGE, tag_callbacks=lambda callbacks: False))
        if fetch := internal(f"{REGISTRY}.get"):
            replaced.enter_context(_replaced(REGISTRY, **_fetching_once(fetch)))
        yield


def _fetching_once(fetch: Any) -> dict[str, Any]:
    @functools.cache
    def fetch_once(registry: Any, category: str, key: str) -> Any:
        return fetch(registry, category, key)

    def is_there(registry: Any, category: str, key: str) -> bool:
        try:
            fetch_once(registry, category, key)
        except (KeyError, ValueError):  # the first one before there is a cluster
            return False
        return True

    return {"get": fetch_once, "contains": is_there}


def _no_trials(controller: Any) -> dict[str, str]:
    """In place of the states of all trials: none."""
    getattr(controller, "_trials_to_cache", set()).clear()
    return {}


def forget_metrics(trial: Any) -> None:
    """Drop the summaries that Tune keeps of each metric of a trial, half of what a trial costs in memory."""
    for name in ("metric_analysis", "metric_n_steps"):
        getattr(getattr(trial, "run_metadata", None), name, {}).clear()


@contextmanager
def listening_on_loopback() -> Iterator[None]:
    """Let `ray.init` take 127.0.0.1 for this machine's address, as it does where Ray knows no clusters (macOS, Windows).

    GCS, raylet, workers, agents and the driver then listen on the loopback interface alone.
    """
    with _replaced(CONSTANTS, ENABLE_RAY_CLUSTER=False):
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
