"""Sweeps in a real Slurm (controller and two nodes on this machine), preempted and requeued while trials train."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ctxtune.tracking import read_runs
from ctxtune.tuning.record.journal import Journal
from tests.helpers.clusters import journal_events
from tests.helpers.processes import BIN, environment, wait_for
from tests.helpers.slurm import SlurmCluster, missing_programs, slurm_cluster
from tests.helpers.sweeps import TINY, run_sweep
from tests.helpers.tracking import metric_rows

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        bool(missing_programs()),
        reason=f"Slurm is not installed ({', '.join(missing_programs())}); Debian: slurmctld slurmd slurm-client munge",
    ),
]
EPOCHS, TRIALS = 5, 4
SEARCH = [
    *TINY, f"trial.schedule.epochs={EPOCHS}", "trial.evaluation.every=1", f"search.trials={TRIALS}",
    "search.scheduler.name=none", "select=null", "confirm=null", "resources={cpus: 1, gpus: 1}",
]  # fmt: skip
SECONDS = 900.0


@pytest.fixture
def slurm(repository) -> Iterator[SlurmCluster]:
    with slurm_cluster(cpus=2, gpus=1) as cluster:
        cluster.environment |= environment(repository) | {"PATH": cluster.environment["PATH"]}
        yield cluster


def submit(slurm: SlurmCluster, repository: Path, folder: Path, options: str, *arguments: str) -> str:
    """A job's number."""
    done = run_sweep(
        repository, folder, "--slurm", options, *arguments, overrides=SEARCH, variables=slurm.environment
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[1].rstrip(":")


def wait_for_reports(slurm: SlurmCluster, job: str, journal: Path, count: int) -> None:
    """Until so many evaluations are in the journal, while the job lives."""

    def reported() -> bool:
        assert slurm.state(job) in ("PENDING", "RUNNING"), log(journal.parent)
        return checkpoints(journal.parent) >= count

    wait_for(reported, SECONDS, f"{count} checkpoints ({log(journal.parent)})", step=0.1)


def checkpoints(folder: Path) -> int:
    return sum(event["event"] == "checkpointed" for event in journal_events(folder / "journal.jsonl"))


def wait_for_state(slurm: SlurmCluster, job: str, folder: Path, *states: str) -> None:
    wait_for(lambda: slurm.state(job) in states, SECONDS, f"job {job} {states} ({log(folder)})", step=0.3)


def log(folder: Path) -> str:
    return "".join(file.read_text() for file in (folder / "slurm").glob("*.log"))


def require_whole(folder: Path, store: str) -> None:
    """Every trial has each epoch once, in the journal and in MLflow."""
    journal = Journal(folder / "journal.jsonl")
    assert len(journal.runs) == TRIALS
    assert {run.state for run in journal.runs.values()} == {"completed"}, log(folder)
    for run in journal.runs.values():
        assert [report.epoch for report in run.reports] == list(range(1, EPOCHS + 1))
    tracked = read_runs(store, folder.name)
    assert sorted(run.name for run in tracked if run.kind != "sweep") == sorted(journal.runs)
    assert {run.state for run in tracked} == {"completed"}
    scores = [(key, step) for key, metric, step in metric_rows(store) if metric == "validation/map_at_r"]
    keys = sorted({key for key, _ in scores})
    assert len(keys) == TRIALS and scores == [(key, step) for key in keys for step in range(1, EPOCHS + 1)]


def test_a_sweep_over_two_nodes_is_preempted_and_requeued_and_goes_on_by_itself(repository, tmp_path, slurm):
    folder = tmp_path / "results/quickstart"
    job = submit(slurm, repository, tmp_path, "nodes=2,gpus_per_node=1,cpus_per_task=2,time=30")
    wait_for_reports(slurm, job, folder / "journal.jsonl", 2)
    # A job of higher priority: Slurm sends SIGUSR1 and gives two minutes.
    urgent = slurm.call("sbatch", "--parsable", "--partition=urgent", "--nodes=2", "--exclusive", "--wrap=sleep 1",
                        "--output=/dev/null", folder=tmp_path)  # fmt: skip
    wait_for_state(slurm, urgent, folder, "COMPLETED")
    assert "told by SIGUSR1" in log(folder)
    assert any(
        0 < len(run.reports) < EPOCHS for run in Journal(folder / "journal.jsonl").runs.values()
    )  # in the middle
    wait_for_reports(slurm, job, folder / "journal.jsonl", checkpoints(folder) + 2)
    assert slurm.facts(job)["Restarts"] == "1"
    # Without a word: as when the machine that runs the batch script is lost.
    slurm.call("scontrol", "requeue", job)
    wait_for_state(slurm, job, folder, "COMPLETED")
    assert slurm.facts(job)["Restarts"] == "2"
    require_whole(folder, f"sqlite:///{tmp_path}/mlflow.db")


def test_an_array_of_sweeps_shares_a_node_and_one_that_is_told_of_its_end_goes_on(repository, tmp_path, slurm):
    file = repository / "search_spaces/quickstart.yaml"
    sets = " ".join(f"--set '{override}'" for override in [*SEARCH[:-1], "resources={cpus: 1}"])
    lines = [
        f"{name} {file} {sets} --set 'tracking.uri=sqlite:///{tmp_path}/{name}.db'" for name in ("first", "second")
    ]
    (tmp_path / "sweeps.txt").write_text("".join(f"{line}\n" for line in lines))
    slurm.environment["PATH"] = f"{BIN}:{slurm.environment['PATH']}"
    array = slurm.call(
        "sbatch", "--parsable", "--array=1-2", "--nodelist=n1", "--cpus-per-task=1", "--gpus-per-node=0", "--time=30",
        str(repository / "slurm/array.sh"), "sweeps.txt", folder=tmp_path,
    )  # fmt: skip
    folders = {name: tmp_path / "results" / name for name in ("first", "second")}
    jobs = [f"{array}_{number}" for number in (1, 2)]
    wait_for(lambda: checkpoints(folders["first"]) >= 2, SECONDS, "checkpoints", step=0.1)
    # What Slurm sends by itself before the time limit.
    slurm.call("scancel", "--signal=USR1", "--batch", jobs[0])
    for job in jobs:
        wait_for(lambda job=job: slurm.state(job) == "COMPLETED", SECONDS, f"the end of {job}", step=0.5)
    assert [slurm.facts(job)["Restarts"] for job in jobs] == ["1", "0"]
    for name, folder in folders.items():
        require_whole(folder, f"sqlite:///{tmp_path}/{name}.db")
