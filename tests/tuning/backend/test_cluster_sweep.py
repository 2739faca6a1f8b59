"""Whole sweeps on clusters of several nodes, with object store and MLflow server, by their command."""

import contextlib
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from ctxtune.tracking import read_runs
from ctxtune.tuning.record.journal import Journal
from tests.helpers import trees
from tests.helpers.clusters import journal_events, mlflow_server, running_cluster, s3_keys, s3_server
from tests.helpers.processes import environment, wait_for
from tests.helpers.sweeps import CARS_CLASSES, SMALL_CARS, run_sweep, sweep_command


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_several_nodes_an_object_store_and_an_mlflow_server_and_a_driver_that_dies(repository, tmp_path):
    """The sweep's process is killed and resumed; checkpoints are in S3 only, results in a server only."""
    root = tmp_path / "data/cars196"
    trees.cars196(root, "original", CARS_CLASSES, images=6)
    overrides = [
        *SMALL_CARS, f"trial.dataset.root={root}", "trial.schedule.epochs=3", "search.scheduler.name=none", "select=null",
        "resources={cpus: 1, gpus: 0}",
    ]  # fmt: skip
    journal_file = tmp_path / "results/cars-contextual/journal.jsonl"
    caches = [tmp_path / f"cache-{name}" for name in ("first", "second")]
    builds = _Builds(caches)
    with s3_server(tmp_path) as keys, mlflow_server(tmp_path) as tracking:
        variables = {**keys, "MLFLOW_TRACKING_URI": tracking, "RAY_AUTH_MODE": "disabled"}
        with running_cluster(environment=keys, head_cpus=0) as cluster, builds:
            for cache in caches:
                cluster.add_node(cpus=2, environment={"CTXTUNE_CACHE": str(cache)})
            cluster.wait_for_nodes(2)
            arguments = ["--address", cluster.address, "--storage", "s3://ctxtune/sweeps"]
            process = subprocess.Popen(
                sweep_command(repository, *arguments, overrides=overrides, file="cars.yaml"),
                cwd=tmp_path, env={**environment(repository), **variables},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip

            def checkpointed() -> bool:
                if process.poll() is not None:
                    raise AssertionError(process.stdout.read() if process.stdout else "")
                return sum(event["event"] == "checkpointed" for event in journal_events(journal_file)) >= 3

            wait_for(checkpointed, 240, "three checkpoints", step=0.02)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            journal = Journal(journal_file)
            before = {run.key: (run.state, run.checkpoint) for run in journal.runs.values()}
            journal.close()
            done = run_sweep(
                repository, tmp_path, *arguments, "--resume", overrides=overrides, file="cars.yaml",
                variables=variables, timeout=500,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
        assert "running" in {state for state, _ in before.values()}  # it was killed in the middle
        require_whole(journal_file, keys, tracking)
    # Each node has caches of its own, and built each of them once although it had several runs at a time.
    assert all(builds.seen[cache] for cache in caches), builds.seen
    assert all(len(inodes) == 1 for cache in caches for inodes in builds.seen[cache].values()), builds.seen


def require_whole(journal_file: Path, keys: dict[str, str], tracking: str) -> None:
    """Every run complete: journal, checkpoints in the store and nowhere else, runs in the server."""
    journal = Journal(journal_file)
    assert {run.state for run in journal.runs.values()} == {"completed"}
    for run in journal.runs.values():
        assert [report.epoch for report in run.reports] == [1, 2, 3]
        assert run.checkpoint and run.checkpoint.startswith("s3://ctxtune/sweeps/")
    assert any(key.endswith("checkpoint.pt") for key in s3_keys(keys))
    folder = journal_file.parent
    assert not list(folder.rglob("checkpoint_*"))  # nothing on the driver's disk
    assert (folder / "best.pt").stat().st_size > 1000  # fetched from the store
    tracked = read_runs(tracking, "cars-contextual")
    assert sorted(run.name for run in tracked if run.kind != "sweep") == sorted(journal.runs)
    assert {run.state for run in tracked} == {"completed"}


class _Builds(threading.Thread):
    """Watches folders of caches: which files of images were ever put there; a second build of one would be a new file."""

    def __init__(self, folders: list[Path]) -> None:
        super().__init__(daemon=True)
        self.seen: dict[Path, dict[str, set[int]]] = {folder: {} for folder in folders}
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.05):
            for folder, files in self.seen.items():
                for file in folder.glob("*/data.bin"):
                    with contextlib.suppress(OSError):
                        if not file.parent.name.endswith(".tmp"):
                            files.setdefault(file.parent.name, set()).add(file.stat().st_ino)

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self.join()
