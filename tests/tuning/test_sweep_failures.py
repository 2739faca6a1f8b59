"""What goes wrong in trials, provoked for real: the sweep goes on and nothing is lost."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ctxtune.tracking import read_runs
from ctxtune.tuning.record.journal import Journal
from tests.helpers.disks import fill, tiny_disk
from tests.helpers.processes import PATIENCE, environment, free_port
from tests.helpers.sweeps import (
    GRID,
    SMALL,
    run_sweep,
    start_sweep,
    sweep_here,
    wait_for_checkpoints,
)
from tests.helpers.tracking import kill_server, metric_rows, new_store, start_server

ABSURD = """
import torch


class Absurd(torch.nn.Module):
    def forward(self, embeddings, labels):
        return embeddings.sum() + torch.empty(10**15).sum()
"""


@pytest.mark.slow
@pytest.mark.ray
def test_a_loss_that_is_not_finite_and_one_without_memory_fail_their_trials_and_the_sweep_goes_on(
    repository, tmp_path, monkeypatch
):
    (tmp_path / "absurd.py").write_text(ABSURD)
    monkeypatch.syspath_prepend(str(tmp_path))  # whoever reads the journal checks the losses in it
    space = "{optimizer.lr: {choice: [2.0e-3, 1.0e+30]}, loss.name: {choice: [contextual, 'absurd:Absurd']}}"
    variables = {"PYTHONPATH": f"{repository}:{tmp_path}"}
    new_store(tmp_path)
    done = run_sweep(repository, tmp_path, overrides=[*GRID, f"search.space={space}"], variables=variables)
    assert done.returncode == 0, done.stderr
    trials = Journal(tmp_path / "results/quickstart/journal.jsonl").stage("search")
    by_point = {tuple(trial.spec.point.values()): trial for trial in trials}
    assert by_point[2e-3, "contextual"].state == "completed"
    lost = by_point[1e30, "contextual"]
    assert lost.state == "failed" and lost.reason.startswith(("non_finite", "collapse"))
    for rate in (2e-3, 1e30):
        reason = by_point[rate, "absurd:Absurd"].reason
        for words in ("out_of_memory", "sampler.batch_size 32", "micro_batch", "DefaultCPUAllocator"):
            assert words in reason
    tracked = {run.name: run for run in read_runs(f"sqlite:///{tmp_path / 'mlflow.db'}", "quickstart", "trial")}
    for trial in trials:
        assert (tracked[trial.key].state, tracked[trial.key].reason) == (trial.state, trial.reason)


LONG = ["trial.schedule.epochs=12", "trial.sampler.batches_per_epoch=8", "search.trials=2"]


@pytest.mark.slow
def test_a_trial_whose_node_is_lost_goes_on_elsewhere_from_its_checkpoint(repository, tmp_path, monkeypatch):
    from ray.cluster_utils import Cluster

    for name, value in {
        "RAY_AUTH_MODE": "disabled",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
        "PYTHONPATH": str(repository),
    }.items():
        monkeypatch.setenv(name, value)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = cluster.add_node(num_cpus=1)
        overrides = [*GRID, *LONG, "search.max_concurrent=2", "search.space={optimizer.lr: {choice: [2.0e-3, 4.0e-3]}}"]
        arguments = ["--address", cluster.address, "--storage", str(tmp_path / "storage")]
        process = start_sweep(repository, tmp_path, *arguments, overrides=overrides)
        journal_file = tmp_path / "results/quickstart/journal.jsonl"
        wait_for_checkpoints(journal_file, 2, process, trials=2)
        cluster.remove_node(second, allow_graceful=False)  # each node had one of the two trials
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
    finally:
        cluster.shutdown()
    trials = Journal(journal_file).stage("search")
    assert [trial.state for trial in trials] == ["completed", "completed"]
    for trial in trials:
        assert [report.epoch for report in trial.reports] == list(range(1, 13))
        assert trial.reports[-1].metrics["train/steps"] == 12 * 8
    folders = [trial.folders for trial in trials]
    assert all(str(tmp_path / "storage") in folder for each in folders for folder in each)


def expected_in_tracking(journal_file: Path) -> list[tuple[str, str, int]]:
    """(run, metric, step) of all that the journal holds, as the store should hold it."""
    journal = Journal(journal_file)
    sweep = journal.decisions.sweep_id
    return sorted(
        (f"{sweep}/{run.key}", name, report.epoch)
        for run in journal.runs.values()
        for report in run.reports
        for name in report.metrics
    )


def found_in_tracking(store: str) -> list[tuple[str, str, int]]:
    return [row for row in metric_rows(store) if "/" in row[0]]


def start_tracked(repository: Path, folder: Path, port: int) -> subprocess.Popen:
    overrides = [*GRID, *LONG, "search.space={optimizer.lr: {choice: [2.0e-3, 4.0e-3]}}"]
    overrides += [f"tracking.uri=http://127.0.0.1:{port}"]
    return start_sweep(repository, folder, overrides=overrides)


def replay(repository: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Deliver what a sweep in this folder has left, as it says."""
    return subprocess.run(
        [sys.executable, "-m", "ctxtune.tracking", "replay", "results/quickstart/spool", *arguments],
        cwd=folder, env=environment(repository), capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip


@pytest.mark.slow
def test_a_tracking_server_that_is_away_for_a_while_has_every_metric_of_the_sweep(repository, tmp_path):
    store, port = new_store(tmp_path), free_port()
    server = start_server(store, port, tmp_path / "artifacts")
    try:
        process = start_tracked(repository, tmp_path, port)
        journal_file = tmp_path / "results/quickstart/journal.jsonl"
        wait_for_checkpoints(journal_file, 2, process)
        kill_server(server)
        wait_for_checkpoints(journal_file, 6, process)  # the sweep goes on without it
        assert len(found_in_tracking(store)) < len(expected_in_tracking(journal_file))
        server = start_server(store, port, tmp_path / "artifacts")
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode in (0, 3), errors
        if process.returncode == 3:  # on a busy machine it may have ended before the server was there again
            replay(repository, tmp_path)
        assert found_in_tracking(store) == expected_in_tracking(journal_file)
        runs = read_runs(f"http://127.0.0.1:{port}", "quickstart")
        assert {tracked.state for tracked in runs} == {"completed"} and len(runs) == 3
    finally:
        kill_server(server)


@pytest.mark.slow
def test_a_tracking_server_that_never_comes_back_costs_nothing_but_a_replay(repository, tmp_path):
    store, port = new_store(tmp_path / "first"), free_port()
    server = start_server(store, port, tmp_path / "artifacts")
    try:
        process = start_tracked(repository, tmp_path, port)
        journal_file = tmp_path / "results/quickstart/journal.jsonl"
        wait_for_checkpoints(journal_file, 2, process)
    finally:
        kill_server(server)
    printed, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 3, errors  # done, but tracking has not everything
    told = " ".join((printed + errors).split())
    spool = Path("results/quickstart/spool")
    assert f"python -m ctxtune.tracking replay {spool}" in told
    elsewhere = new_store(tmp_path / "elsewhere")
    done = replay(repository, tmp_path, "--uri", f"http://127.0.0.1:{port}")
    assert done.returncode == 2 and "stay spooled" in done.stderr
    server = start_server(store, port, tmp_path / "artifacts")
    try:
        done = replay(repository, tmp_path)
        assert done.returncode == 0, done.stderr
    finally:
        kill_server(server)
    assert found_in_tracking(store) == expected_in_tracking(journal_file)
    assert not found_in_tracking(elsewhere)


@pytest.mark.slow
def test_a_full_disk_stops_the_sweep_and_a_resume_finishes_it(repository, tmp_path):
    overrides = [*GRID, *LONG, "search.space={optimizer.lr: {choice: [2.0e-3, 4.0e-3]}}"]
    with tiny_disk(tmp_path / "disk", 16 * 1024) as disk:
        results = ["--results", str(disk)]
        process = start_sweep(repository, tmp_path, *results, overrides=overrides)
        journal_file = disk / "quickstart/journal.jsonl"
        wait_for_checkpoints(journal_file, 2, process)
        fill(disk / "ballast")
        printed, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 1, printed + errors
        assert "--resume" in errors and "Traceback" not in errors + printed
        assert "full" in errors or "No space" in errors
        assert all(run.state == "running" for run in Journal(journal_file).runs.values() if run.epoch < 12)
        (disk / "ballast").unlink()
        done = run_sweep(repository, tmp_path, "--resume", *results, overrides=overrides)
        assert done.returncode == 0, done.stderr
        trials = Journal(journal_file).stage("search")
        assert [trial.state for trial in trials] == ["completed", "completed"]
        for trial in trials:
            assert [report.epoch for report in trial.reports] == list(range(1, 13))
    tracked = read_runs(f"sqlite:///{tmp_path / 'mlflow.db'}", "quickstart")
    assert {each.state for each in tracked} == {"completed"} and len(tracked) == 3


def test_a_damaged_journal_and_a_second_start_are_told_before_ray_is_asked(repository, tmp_path):
    folder = tmp_path / "results/quickstart"
    from ctxtune.config import load_search_space
    from ctxtune.tuning.record.results_folder import sweep_folder

    sets = [*GRID, "search.space={optimizer.lr: {choice: [2.0e-3, 4.0e-3]}}"]
    space = load_search_space(repository / "search_spaces/quickstart.yaml", sets)
    sweep_folder(tmp_path / "results", space, resume=False).close()
    events = [{"event": "decided", "name": "precision", "value": "float32"}, {"event": "asked"}, {"event": "decided"}]
    (folder / "journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    damaged = sweep_here(repository, tmp_path, "--resume", overrides=sets)
    assert damaged.returncode == 2
    assert "journal.jsonl:2: damaged" in damaged.stderr and "Traceback" not in damaged.stderr
    without_resume = sweep_here(repository, tmp_path, overrides=sets)
    assert without_resume.returncode == 2 and "journal.jsonl:2: damaged" in without_resume.stderr
    (folder / "journal.jsonl").write_text(json.dumps(events[0]) + "\n")
    again = sweep_here(repository, tmp_path, overrides=sets)
    assert again.returncode == 2
    said = again.stderr.splitlines()[-1]
    assert "ctxtune.sweep" in said and "quickstart.yaml" in said and "--set" in said and said.endswith("--resume")


def test_a_sweep_that_cannot_begin_says_why_and_nothing_of_what_was_delivered(repository, tmp_path):
    (tmp_path / "other.db").write_bytes(b"not a database" * 100)
    refused = sweep_here(repository, tmp_path, overrides=[*SMALL, f"tracking.uri=sqlite:///{tmp_path}/other.db"])
    assert refused.returncode == 2 and "other.db cannot be read" in refused.stderr
    assert "delivered" not in refused.stdout + refused.stderr


@pytest.mark.slow
def test_a_search_that_its_budget_ends_leaves_nothing_running_and_goes_on_to_the_choice(repository, tmp_path):
    rates = "[2.0e-3, 1.0e-6, 2.0e-6, 3.0e-6, 4.0e-6, 5.0e-6]"
    overrides = [
        *GRID, *LONG, "search.max_concurrent=2", "search.trials=6", "search.budget={no_improvement_for: 1}",
        f"search.space={{optimizer.lr: {{choice: {rates}}}}}",
    ]  # fmt: skip
    done = run_sweep(repository, tmp_path, overrides=overrides)
    assert done.returncode == 0, done.stderr
    assert "the search ends: no better trial in the last 1" in done.stdout
    journal = Journal(tmp_path / "results/quickstart/journal.jsonl")
    states = [trial.state for trial in journal.stage("search")]
    assert 2 <= len(states) < 6 and "completed" in states and set(states) <= {"completed", "killed"}
    assert journal.decisions.search_ended and journal.decisions.chosen
    tracked = read_runs(f"sqlite:///{tmp_path / 'mlflow.db'}", "quickstart", "trial")
    assert {each.name: each.state for each in tracked} == {run.key: run.state for run in journal.runs.values()}
