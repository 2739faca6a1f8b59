"""The two ways into a cluster from outside, with and without its token: Ray's client and a submitted job."""

import subprocess
import sys
from pathlib import Path

import pytest

from ctxtune.tuning.record.journal import Journal
from tests.helpers.clusters import journal_events, running_cluster
from tests.helpers.processes import BIN, PATIENCE, environment, wait_for
from tests.helpers.sweeps import TINY, run_sweep

SETTINGS = [*TINY, "search.trials=2", "select=null", "confirm=null", "resources.cpus=1"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_over_ray_client_and_as_a_submitted_job_on_a_cluster_with_a_token(repository, tmp_path):
    """The two ways in from outside; both need the cluster's token, and neither works without it."""
    token = tmp_path / "token"
    token.write_text("e1d0c4" * 11)
    authentication = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    overrides = SETTINGS
    storage = ["--storage", str(tmp_path / "storage")]
    with running_cluster(environment=authentication, client=True, dashboard=True) as cluster:
        cluster.add_node(cpus=2)
        wait_for(lambda: "Active" in status(cluster, authentication), 90, "the node")
        outside = ["--address", f"ray://127.0.0.1:{cluster.client_port}", *storage]
        for name, address in (("outside", outside), ("inside", ["--address", cluster.address, *storage])):
            (tmp_path / name).mkdir()
            denied = run_sweep(
                repository, tmp_path / name, *address, overrides=overrides, variables={"RAY_AUTH_MODE": "disabled"}
            )
            assert denied.returncode == 2 and "the cluster wants a token" in denied.stderr, denied.stderr
            assert "Traceback" not in denied.stderr
        done = run_sweep(
            repository, tmp_path, *outside, "--name", "from-outside", overrides=overrides, variables=authentication
        )
        assert done.returncode == 0, done.stderr
        assert states(tmp_path, "from-outside") <= ENDED
        submit = [
            str(BIN / "ray"), "job", "submit", "--address", f"http://127.0.0.1:{cluster.dashboard_port}",
            "--working-dir", str(repository / "search_spaces"), "--",
            *job_command(tmp_path, overrides, storage),
        ]  # fmt: skip
        open_door = subprocess.run(
            submit, cwd=tmp_path, env={**environment(repository), "RAY_AUTH_MODE": "disabled"},
            capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        assert open_door.returncode != 0
        job = subprocess.run(
            submit, cwd=tmp_path, env={**environment(repository), **authentication},
            capture_output=True, text=True, timeout=400,
        )  # fmt: skip
        assert job.returncode == 0, job.stdout + job.stderr
        assert "succeeded" in (job.stdout + job.stderr).lower()
    assert states(tmp_path, "as-a-job") <= ENDED


ENDED = {"completed", "pruned"}


def states(folder: Path, name: str) -> set[str]:
    """Of the two trials of a sweep."""
    trials = Journal(folder / "results" / name / "journal.jsonl").stage("search")
    assert len(trials) == 2
    return {trial.state for trial in trials}


def job_command(folder: Path, overrides: list[str], storage: list[str]) -> list[str]:
    """What runs on the head: a sweep without --address finds the cluster that it is a job of."""
    sets = [part for override in overrides for part in ("--set", override)]
    tracking = ["--set", f"tracking.uri=sqlite:///{folder}/mlflow.db"]
    return [
        sys.executable, "-m", "ctxtune.sweep", "quickstart.yaml", *sets, *tracking, *storage, "--name", "as-a-job",
        "--results", str(folder / "results"),
    ]  # fmt: skip


def status(cluster, variables) -> str:
    """What `ray status` says, once it sees a worker with cores."""
    done = subprocess.run(
        [str(BIN / "ray"), "status", "--address", cluster.address],
        env={**cluster.environment, **variables}, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    return done.stdout if "2.0 CPU" in done.stdout else ""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_submitted_job_that_is_stopped_has_saved_its_state_and_goes_on(repository, tmp_path):
    """`ray job stop`; then the same sweep is resumed, here from a node of the cluster."""
    overrides = [*SETTINGS, "search.scheduler.name=none", f"trial.schedule.epochs={LONG}"]
    storage = ["--storage", str(tmp_path / "storage")]
    journal_file = tmp_path / "results/as-a-job/journal.jsonl"
    with running_cluster(head_cpus=2, dashboard=True) as cluster:
        wait_for(lambda: "Active" in status(cluster, {}), 90, "the head")
        jobs = f"http://127.0.0.1:{cluster.dashboard_port}"

        def job(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [str(BIN / "ray"), "job", arguments[0], "--address", jobs, *arguments[1:]],
                cwd=tmp_path, env={**environment(repository), "RAY_AUTH_MODE": "disabled"},
                capture_output=True, text=True, timeout=PATIENCE,
            )  # fmt: skip

        work = ["--working-dir", str(repository / "search_spaces"), "--", *job_command(tmp_path, overrides, storage)]
        job("submit", "--no-wait", "--submission-id", "sweep", *work).check_returncode()
        wait_for(lambda: epochs_of(journal_file) >= 3, 200, "three epochs")
        job("stop", "sweep").check_returncode()
        logs = job("logs", "sweep").stdout
        assert "stopping; everything is saved" in logs, logs
        before = epochs_of(journal_file)
        assert 3 <= before < 2 * LONG
        done = run_sweep(
            repository, tmp_path, "--address", cluster.address, *storage, "--name", "as-a-job", "--resume",
            overrides=overrides, variables={"RAY_AUTH_MODE": "disabled"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert states(tmp_path, "as-a-job") == {"completed"}
    for trial in Journal(journal_file).stage("search"):
        assert [report.epoch for report in trial.reports] == list(range(1, LONG + 1))


LONG = 30


def epochs_of(journal_file: Path) -> int:
    """How many epochs have been reported with a checkpoint, of all trials."""
    return sum(event["event"] == "checkpointed" for event in journal_events(journal_file))
