"""One sweep to which much happens, at moments that no clock decides; and (slow) many that are killed at any moment."""

import json
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from ctxtune.tracking import count_test_scorings, read_runs
from ctxtune.tuning.record.journal import Journal
from tests.helpers import eventful_loss
from tests.helpers.once import once
from tests.helpers.processes import PATIENCE, environment
from tests.helpers.sweeps import SMALL, run_sweep, start_sweep, sweep_command, without_times
from tests.helpers.tracking import new_store

pytestmark = pytest.mark.ray
EPOCHS, BATCHES, TRIALS, SEEDS = 4, 4, 3, 2
EVENTFUL = [
    *SMALL,
    "trial.loss={name: 'tests.helpers.eventful_loss:EventfulLoss'}",
    f"trial.sampler.batches_per_epoch={BATCHES}",
    f"trial.schedule.epochs={EPOCHS}",
    "trial.evaluation.every=1",
    "search.space={optimizer.lr: {loguniform: [1.0e-3, 1.0e-2]}}",
    "search.constraints=[]",
    "search.scheduler.name=none",
    "search.max_concurrent=1",
    f"search.trials={TRIALS}",
    "select=null",
    f"confirm.seeds={SEEDS}",
]
WORKER_DIES, DRIVER_DIES = 10, 24  # in the third epoch of the first trial, in the second one of the second
IN_CONFIRMATION = 70  # after 48 batches of search, in the second of four runs of 20


@dataclass
class Story:
    """What a sweep said and left at each of its ends."""

    folder: Path
    killed: int
    resumed: subprocess.CompletedProcess[str]

    @property
    def journal(self) -> Journal:
        return Journal(self.folder / "results/quickstart/journal.jsonl")


def start(repository: Path, folder: Path, events: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The sweep until it ends, whatever happens to it: ``BATCH:worker|driver|interrupt,...``."""
    variables = {eventful_loss.FOLDER: str(folder), eventful_loss.EVENTS: events}
    (folder / "driver").unlink(missing_ok=True)
    process = start_sweep(repository, folder, *arguments, overrides=EVENTFUL, variables=variables)
    (folder / "driver").write_text(f"{process.pid}\n")
    output, errors = process.communicate(timeout=PATIENCE)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def live(repository: Path, folder: Path) -> Story:
    """A worker is killed, then the driver; the sweep is resumed and comes to its end."""
    new_store(folder)
    events = f"{WORKER_DIES}:worker,{DRIVER_DIES}:driver"
    killed = start(repository, folder, events)
    return Story(folder, killed.returncode, start(repository, folder, events, "--resume"))


@pytest.fixture(scope="module")
def story(repository) -> Story:
    return once("story", lambda folder: live(repository, folder))[1]


def test_a_trial_whose_process_is_killed_goes_on_from_its_checkpoint(story):
    assert story.killed == -signal.SIGKILL, "the sweep did not go on until its driver was killed"
    trial = story.journal.stage("search")[0]
    assert trial.state == "completed"
    assert [report.epoch for report in trial.reports] == list(range(1, EPOCHS + 1))
    assert trial.reports[-1].metrics["train/steps"] == EPOCHS * BATCHES


def test_killed_and_resumed_nothing_is_lost_or_done_twice(story):
    assert story.resumed.returncode == 0, story.resumed.stderr + story.resumed.stdout
    check_whole(story.folder, trials=TRIALS)
    check_batches(story.folder, cut_off=2)


def test_each_confirmation_scored_the_test_classes_once(story):
    assert len(story.journal.stage("confirmation")) == 2 * SEEDS
    assert count_test_scorings(f"sqlite:///{story.folder / 'mlflow.db'}", "glyphs") == 2 * SEEDS


@pytest.mark.slow
def test_ctrl_c_in_the_confirmation_stops_cleanly_and_resumed_nothing_is_lost_or_done_twice(repository, tmp_path):
    store, events = new_store(tmp_path), f"{IN_CONFIRMATION}:interrupt"
    interrupted = start(repository, tmp_path, events)
    assert interrupted.returncode == 130, interrupted.stderr
    assert "SIGINT: stopping" in interrupted.stderr
    assert "--resume" in interrupted.stderr and "Traceback" not in interrupted.stderr
    journal = Journal(tmp_path / "results/quickstart/journal.jsonl")
    assert [run.state for run in journal.stage("search")] == ["completed"] * TRIALS
    assert 0 < len(journal.stage("confirmation")) < 2 * SEEDS + 1
    journal.close()
    assert {"killed"} <= {run.state for run in read_runs(store, "quickstart")} <= {"killed", "completed"}
    resumed = start(repository, tmp_path, events, "--resume")
    assert resumed.returncode == 0, resumed.stderr + resumed.stdout
    check_whole(tmp_path, trials=TRIALS)
    check_batches(tmp_path, cut_off=1)
    assert count_test_scorings(store, "glyphs") == 2 * SEEDS


def check_batches(folder: Path, cut_off: int) -> None:
    """Every run is whole, and a batch was trained again only where one was cut off, by less than an epoch each time."""
    runs = Journal(folder / "results/quickstart/journal.jsonl").runs.values()
    for run in runs:
        assert run.state == "completed" and run.epoch == EPOCHS
        steps = {report.epoch: report.metrics["train/steps"] for report in run.reports}
        assert steps[EPOCHS] == EPOCHS * steps[1]
    trained = sum(int(run.reports[-1].metrics["train/steps"]) for run in runs)
    longest = max(int(run.reports[0].metrics["train/steps"]) for run in runs)
    assert trained < (folder / "batches").stat().st_size <= trained + cut_off * longest


def check_whole(folder: Path, trials: int) -> None:
    """Every run asked for once and ended once, every epoch of it once, and the same runs in MLflow."""
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


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("kills", "trials"), [(3, 5), (20, 20)])
def test_killed_at_any_moment_and_resumed_nothing_is_lost_or_done_twice(repository, tmp_path, kills, trials):
    waits = list(np.random.default_rng(kills).uniform(0.1, 4.0, kills))
    kill_and_resume(repository, tmp_path, waits, [*SMALL, f"search.trials={trials}", "trial.evaluation.every=1"])
    check_whole(tmp_path, trials)


@pytest.mark.slow
@pytest.mark.timeout(1800)
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

    def runs(folder: Path) -> list[tuple]:
        """All runs in their order, without what depends on the clock."""
        return [
            (run.key, run.state, run.reason, run.spec.point, run.spec.seed, [*map(without_times, run.reports)])
            for run in Journal(folder / "results/quickstart/journal.jsonl").runs.values()
        ]

    assert {state for _, state, *_ in runs(tmp_path / "undisturbed")} == {"completed", "pruned"}
    assert runs(tmp_path / "killed") == runs(tmp_path / "undisturbed")


def kill_and_resume(repository: Path, folder: Path, waits: list[float], overrides: list[str]) -> None:
    """Start, kill -9 the driver so long after its first event, resume, and so on; then let it finish."""
    journal_file = folder / "results/quickstart/journal.jsonl"
    for number, wait in enumerate(waits):
        process = subprocess.Popen(
            sweep_command(repository, *(["--resume"] if number else []), overrides=overrides),
            cwd=folder, env=environment(repository), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        events = journal_file.stat().st_size if journal_file.exists() else 0
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            if journal_file.exists() and journal_file.stat().st_size > events:
                break
            time.sleep(0.05)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = run_sweep(repository, folder, "--resume", overrides=overrides)
    assert done.returncode == 0, done.stderr + done.stdout
