"""Whole sweeps by their command, as a user runs them."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from ctxtune.tracking import read_runs
from ctxtune.training import load_checkpoint
from ctxtune.tuning.record.journal import Journal
from tests.helpers.processes import environment
from tests.helpers.sweeps import SMALL, run_sweep, start_sweep, sweep_command, without_times


@pytest.fixture(scope="module")
def finished(repository, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    return folder, run_sweep(repository, folder)


def test_a_sweep_prints_what_it_found(finished):
    folder, done = finished
    assert done.returncode == 0, done.stderr
    for words in (
        "Best configuration",
        "in selection",
        "recall_at_8",
        "map_at_r",
        "untrained",
        "best - start",
        "mlflow ui",
    ):
        assert words in done.stdout
    summary = json.loads((folder / "results/quickstart/summary.json").read_text())
    assert sum(summary["states"].values()) == 6
    assert {"completed", "pruned"} <= summary["states"].keys() or summary["states"]["completed"] == 6


def test_checkpoints_of_pruned_trials_are_gone_and_those_of_completed_ones_stay(finished):
    folder, _ = finished
    for record in Journal(folder / "results/quickstart/journal.jsonl").runs.values():
        assert record.checkpoint is not None
        assert Path(record.checkpoint).exists() == (record.state == "completed")


def test_the_weights_of_the_chosen_configuration_are_kept(finished):
    folder, _ = finished
    state = load_checkpoint(folder / "results/quickstart/best.pt")
    best = yaml.safe_load((folder / "results/quickstart/best.yaml").read_text())
    assert state["runs"][0]["epoch"] == 3
    assert state["runs"][0]["config"]["loss"] == best["trial"]["loss"]


def test_every_run_is_in_mlflow_with_its_parameters_metrics_and_state(finished):
    folder, _ = finished
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    runs = read_runs(uri, "quickstart")
    kinds = [tracked.kind for tracked in runs]
    assert kinds.count("sweep") == 1
    assert kinds.count("trial") == 6
    journal = Journal(folder / "results/quickstart/journal.jsonl")
    assert len(runs) == 1 + len(journal.runs)
    parent = next(tracked for tracked in runs if tracked.kind == "sweep")
    for tracked in runs:
        if tracked.kind == "sweep":
            assert tracked.state == "completed"
            continue
        record = journal.runs[tracked.name]
        assert tracked.parent == parent.run_id
        assert tracked.state == record.state
        assert float(tracked.params["loss.epsilon"]) == pytest.approx(record.spec.trial.tree()["loss"]["epsilon"])
        metric = "test/map_at_r" if tracked.kind == "confirmation" else "validation/map_at_r"
        assert tracked.metrics[metric] == pytest.approx(record.last(metric))


def test_chosen_and_start_are_confirmed_over_the_same_seeds_and_only_they_see_test(finished):
    folder, _ = finished
    journal = Journal(folder / "results/quickstart/journal.jsonl")
    seeds: dict[str, set[int]] = {}
    for record in journal.runs.values():
        names = {name for report in record.reports for name in report.metrics}
        assert any(name.startswith("test/") for name in names) == (record.stage == "confirmation")
        if record.stage == "confirmation":
            seeds.setdefault(record.spec.arm, set()).add(record.spec.seed)
    assert len({frozenset(each) for each in seeds.values()}) == 1
    stages = {stage: {record.spec.seed for record in journal.stage(stage)} for stage in ("search", "selection")}
    assert not stages["search"] & stages["selection"]


def test_the_best_configuration_can_be_trained(repository, finished):
    folder, _ = finished
    best = folder / "results/quickstart/best.yaml"
    assert yaml.safe_load(best.read_text())["trial"]["schedule"]["epochs"] == 3
    done = subprocess.run(
        [sys.executable, "-m", "ctxtune.train", str(best)],
        cwd=folder, env=environment(repository), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "validation/map_at_r" in done.stdout
    result = json.loads((folder / "results/quickstart-best/train-seed0/result.json").read_text())
    assert result["metrics"]["epoch"] == 3


def test_a_second_start_is_refused_and_resuming_a_finished_sweep_shows_it_again(repository, finished):
    folder, _first = finished
    again = run_sweep(repository, folder)
    assert again.returncode == 2
    assert "--resume" in again.stderr and "Traceback" not in again.stderr
    changed = run_sweep(repository, folder, "--resume", overrides=[*SMALL, "trial.loss.k=8"])
    assert changed.returncode == 2
    assert "trial.loss.k" in changed.stderr
    more = run_sweep(repository, folder, "--resume", overrides=[*SMALL, "confirm.seeds=3"])
    assert more.returncode == 2
    assert "optional stopping" in more.stderr and "Traceback" not in more.stderr


@pytest.mark.parametrize("moments", [3])
def test_killed_at_any_moment_and_resumed_nothing_is_lost_or_done_twice(repository, tmp_path, moments):
    check_kills(repository, tmp_path, [0.8, 3.0, 1.6][:moments], trials=5)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_many_moments(repository, tmp_path):
    import numpy as np

    check_kills(repository, tmp_path, list(np.random.default_rng(0).uniform(0.1, 4.0, 20)), trials=20)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_grid_killed_and_resumed_one_trial_at_a_time_equals_an_undisturbed_one(repository, tmp_path):
    overrides = [
        *SMALL, "search.trials=8", "trial.evaluation.every=1", "search.max_concurrent=1", "search.sampler.name=grid",
        "search.constraints=[]", "confirm=null",
        "search.space={optimizer.lr: {choice: [5.0e-4, 2.0e-3, 8.0e-3]}, loss.k: {choice: [2, 4, 8]}}",
    ]  # fmt: skip
    (tmp_path / "undisturbed").mkdir()
    (tmp_path / "killed").mkdir()
    done = run_sweep(repository, tmp_path / "undisturbed", overrides=overrides)
    assert done.returncode == 0, done.stderr
    kill_and_resume(repository, tmp_path / "killed", [0.7, 3.1, 1.9, 0.2], overrides)

    def story(folder: Path) -> list[tuple]:
        """All runs in their order, without what depends on the clock."""
        return [
            (
                run.key, run.state, run.reason, run.spec.point, run.spec.seed,
                [without_times(report) for report in run.reports],
            )
            for run in Journal(folder / "results/quickstart/journal.jsonl").runs.values()
        ]  # fmt: skip

    assert {state for _, state, *_ in story(tmp_path / "undisturbed")} == {"completed", "pruned"}
    assert story(tmp_path / "killed") == story(tmp_path / "undisturbed")


def check_kills(repository: Path, folder: Path, waits: list[float], trials: int) -> None:
    """Nothing is lost or done twice, whenever the driver is killed."""
    kill_and_resume(repository, folder, waits, [*SMALL, f"search.trials={trials}", "trial.evaluation.every=1"])
    journal_file = folder / "results/quickstart/journal.jsonl"
    journal = Journal(journal_file)
    assert len(journal.stage("search")) == trials
    events = [json.loads(line) for line in journal_file.read_text().splitlines()]
    asked = [event["key"] for event in events if event["event"] == "asked"]
    ended = [event["key"] for event in events if event["event"] == "ended"]
    assert sorted(asked) == sorted(set(asked)) == sorted(ended)
    for record in journal.runs.values():
        assert record.state != "running"
        assert [report.epoch for report in record.reports] == list(range(1, record.epoch + 1))
    tracked = read_runs(f"sqlite:///{folder / 'mlflow.db'}", "quickstart")
    assert sorted(run.name for run in tracked if run.kind != "sweep") == sorted(journal.runs)
    assert {run.state for run in tracked} <= {"completed", "pruned"}


def kill_and_resume(repository: Path, folder: Path, waits: list[float], overrides: list[str]) -> None:
    """Start, kill -9 the driver so long after its first event, resume, and so on; then let it finish."""
    journal_file = folder / "results/quickstart/journal.jsonl"
    for number, wait in enumerate(waits):
        process = subprocess.Popen(
            sweep_command(repository, *(["--resume"] if number else []), overrides=overrides),
            cwd=folder, env=environment(repository), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        events = journal_file.stat().st_size if journal_file.exists() else 0
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if journal_file.exists() and journal_file.stat().st_size > events:
                break
            time.sleep(0.05)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = run_sweep(repository, folder, "--resume", overrides=overrides)
    assert done.returncode == 0, done.stderr + done.stdout


def test_ctrl_c_stops_cleanly_and_names_the_command_that_goes_on(repository, tmp_path):
    overrides = [*SMALL, "trial.schedule.epochs=300", "search.trials=4"]
    process = start_sweep(repository, tmp_path, overrides=overrides)
    journal_file = tmp_path / "results/quickstart/journal.jsonl"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not (journal_file.exists() and b"reported" in journal_file.read_bytes()):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "SIGINT: stopping" in errors
    assert "--resume" in errors and "Traceback" not in errors
    runs = read_runs(f"sqlite:///{tmp_path / 'mlflow.db'}", "quickstart")
    assert {tracked.state for tracked in runs} <= {"killed", "completed", "pruned"}
    assert "killed" in {tracked.state for tracked in runs}
