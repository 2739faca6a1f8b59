"""How many runs are under way: a fixed number, or what the cluster holds as it grows."""

import json

import pytest

from ctxtune.tuning.backend import concurrency
from ctxtune.tuning.backend.cluster import RunResources
from ctxtune.tuning.backend.concurrency import Concurrency
from tests.helpers.processes import PATIENCE
from tests.helpers.sweeps import GRID, start_sweep, wait_for_checkpoints


def test_a_number_stays_and_auto_follows(monkeypatch):
    monkeypatch.setattr(concurrency, "LOOK_SECONDS", 0.0)
    sizes = iter([1, 3, 2])
    assert Concurrency(RunResources(1, 0, 2), lambda _: next(sizes)).limit == 2
    following = Concurrency(RunResources(1, 0, 2, follows=True), lambda _: next(sizes))
    assert [following.limit for _ in range(3)] == [2, 3, 2]
    # Where only waiting runs start nodes, some wait.
    growing = Concurrency(RunResources(1, 0, 1, follows=True, may_grow=True), lambda _: 4)
    assert growing.limit == 8


@pytest.mark.slow
def test_a_node_that_joins_gets_runs(repository, tmp_path, monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("PYTHONPATH", str(repository))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        overrides = [
            *GRID, "trial.schedule.epochs=6", "trial.sampler.batches_per_epoch=20", "search.trials=5",
            "search.max_concurrent=auto",
            "search.space={optimizer.lr: {choice: [1.0e-3, 2.0e-3, 3.0e-3, 4.0e-3, 5.0e-3]}}", "search.start_from=[]",
        ]  # fmt: skip
        arguments = ["--address", cluster.address, "--storage", str(tmp_path / "storage")]
        process = start_sweep(repository, tmp_path, *arguments, overrides=overrides)
        journal_file = tmp_path / "results/quickstart/journal.jsonl"
        wait_for_checkpoints(journal_file, 2, process)
        before = len(journal_file.read_text().splitlines())
        cluster.add_node(num_cpus=1)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
    finally:
        cluster.shutdown()
    running: set[str] = set()
    most = {"before": 0, "after": 0}
    for number, line in enumerate(journal_file.read_text().splitlines()):
        event = json.loads(line)
        if event["event"] == "asked":
            running.add(event["key"])
        elif event["event"] == "ended":
            running.discard(event["key"])
        when = "before" if number < before else "after"
        most[when] = max(most[when], len(running))
    assert most == {"before": 1, "after": 2}
