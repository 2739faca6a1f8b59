"""Runs that a server holds twice: which one counts, and what becomes of the others.

A server that is slower than its clients wait makes a run after the request for it was given up and sent again. The two
share our key. The one that holds the data counts; the other is marked with the id of that one, closed, taken out of the
ledger of test scorings and, where it holds no data, deleted (as in MLflow's UI: it can be restored).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

KEY_TAG = "ctxtune.key"
DUPLICATE_TAG = "ctxtune.duplicate_of"
TEST_TAG = "ctxtune.test_scored"
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Doubled:
    """Runs of one key. `spares`: the ids of those that do not count; `kept`: of these, those that hold data of their own."""

    key: str
    run_id: str
    spares: tuple[str, ...]
    kept: tuple[str, ...] = ()


def counted_run(runs: Sequence["Run"]) -> "Run":
    """Of MLflow's runs of one key the one that counts: not marked, with the most data, the earliest of equals."""

    def rank(run: "Run") -> tuple[bool, bool, int, int, str]:
        deleted = run.info.lifecycle_stage != "active"
        data = len(run.data.metrics) + len(run.data.params)
        return (DUPLICATE_TAG in run.data.tags, deleted, -data, run.info.start_time or 0, run.info.run_id)

    return min(runs, key=rank)


def without_duplicates(runs: Iterable["Run"]) -> Iterator["Run"]:
    """MLflow's runs, in their order, without those that are there a second time."""
    runs = list(runs)
    counted = {run.info.run_id for group in _by_key(runs).values() for run in [counted_run(group)]}
    for run in runs:
        if not run.data.tags.get(KEY_TAG) or run.info.run_id in counted:
            yield run


class Ask(Protocol):
    """Makes a request, in whatever way."""

    def __call__(self, call: Callable[[], Answer]) -> Answer:
        """What the request is answered by."""


def at_once(call: Callable[[], Answer]) -> Answer:
    """Make a request, once."""
    return call()


def set_aside(client: "MlflowClient", run: "Run", counts: str, ask: Ask = at_once) -> bool:
    """Mark a run as a duplicate of the run with the id `counts`, and close it; whether it is deleted, having no data.

    Args:
        run: as MLflow's client gives it.
        ask: makes each request.
    """
    from mlflow.entities import RunTag

    reason = f"made twice by a slow server; the run that counts is {counts}"
    tags = [RunTag(DUPLICATE_TAG, counts), RunTag("state", "killed"), RunTag("reason", reason)]
    identifier = run.info.run_id
    ask(lambda: client.log_batch(identifier, tags=tags))
    if TEST_TAG in run.data.tags:
        ask(lambda: client.delete_tag(identifier, TEST_TAG))
    if run.info.status == "RUNNING":
        ask(lambda: client.set_terminated(identifier, "KILLED"))
    if run.data.metrics or run.data.params:
        return False
    ask(lambda: client.delete_run(identifier))
    return True


def dedupe_experiment(client: "MlflowClient", experiment_id: str) -> list[Doubled]:
    """Set aside what an experiment holds twice; what that was."""
    found = []
    for (_, key), runs in _by_key(_keyed(client, experiment_id)).items():
        counts = counted_run(runs)
        spares = [run for run in runs if run is not counts and not is_settled(run)]
        kept = tuple(run.info.run_id for run in spares if not set_aside(client, run, counts.info.run_id))
        if spares:
            found.append(Doubled(key, counts.info.run_id, tuple(run.info.run_id for run in spares), kept))
    return found


def is_settled(run: "Run") -> bool:
    """Whether a run has been set aside."""
    return DUPLICATE_TAG in run.data.tags and run.info.status != "RUNNING" and TEST_TAG not in run.data.tags


def _by_key(runs: Iterable["Run"]) -> dict[tuple[str, str], list["Run"]]:
    """MLflow's runs by experiment and key."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if key := run.data.tags.get(KEY_TAG):
            groups.setdefault((run.info.experiment_id, key), []).append(run)
    return groups


def _keyed(client: "MlflowClient", experiment_id: str) -> Iterator["Run"]:
    token = None
    while True:
        page = client.search_runs([experiment_id], f"tags.`{KEY_TAG}` LIKE '%'", max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
