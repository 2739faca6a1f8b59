"""What Ray Tune does again for every trial although once, or not at all, is enough.

Tune keeps and writes the state of every trial for a `restore` that we never ask for (the journal is our state): with
`num_to_keep` at every few checkpoints, all trials each time, uploaded where the storage is a bucket. And it fetches the
trainable from the cluster's table five times a trial, each time as a new class, which it exports anew. And it imports
MLflow, wandb and others to count, for its makers, which of their callbacks are used.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray.air._internal import usage
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.registry import _Registry


@contextmanager
def thrifty_tune() -> Iterator[None]:
    """For the length of one `Tuner.fit`; what the trials do and what we hear of them is the same."""
    fetch = _Registry.get

    @functools.cache
    def fetch_once(registry: _Registry, category: str, key: str) -> Any:
        return fetch(registry, category, key)

    def is_there(registry: _Registry, category: str, key: str) -> bool:
        try:
            fetch_once(registry, category, key)
        except (KeyError, ValueError):  # the first one before there is a cluster
            return False
        return True

    with (
        _replaced(TuneController, "_get_trial_checkpoints", _no_trials),
        _replaced(_Registry, "get", fetch_once),
        _replaced(_Registry, "contains", is_there),
        _replaced(usage, "tag_callbacks", lambda callbacks: False),
    ):
        yield


def _no_trials(controller: TuneController) -> dict[str, str]:
    """In place of the states of all trials: none."""
    controller._trials_to_cache.clear()
    return {}


def forget_metrics(trial: Trial) -> None:
    """Drop the summaries that Tune keeps of each metric of a trial, half of what a trial costs in memory."""
    trial.run_metadata.metric_analysis.clear()
    trial.run_metadata.metric_n_steps.clear()


@contextmanager
def _replaced(owner: object, name: str, replacement: Callable[..., Any]) -> Iterator[None]:
    original = getattr(owner, name, None)
    if original is None:  # another version of Ray: nothing is saved, nothing is lost
        yield
        return
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, original)
