"""One sweep to which everything happens, at moments that no clock decides; and (slow) many that are killed at any moment."""

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
IN_CONFIRMATION = 70  # 48 batches of search, at most 4 of them twice for each death; then four runs of 20


@dataclass
class Story:
    """What a sweep said and left at each of its ends."""

    folder: Path
    killed: int
    interrupted: subprocess.CompletedProcess[str]
    stages_when_interrupted: dict[str, list[str]]
    tracked_when_interrupted: set[str]
    resumed: subprocess.CompletedProcess[str]

    @property
    def journal(self) -> Journal:
        return Journal(self.folder / "results/quickstart/journal.jsonl")


def live(repository: Path, folder: Path) -> Story:
    """A worker is killed, then the driver; the sweep is resumed and interrupted by Ctrl-C; then it comes to its end."""
    store = new_store(folder)
    variables = {
        eventful_loss.FOLDER: str(folder),
        eventful_loss.EVENTS: f"{WORKER_DIES}:worker,{DRIVER_DIES}:driver,{IN_CONFIRMATION}:interrupt",
    }

    def start(*arguments: str) -> subprocess.CompletedProcess[str]:
        (folder / "driver").unlink(missing_ok=True)
        process = start_sweep(repository, folder, *arguments, overrides=EVENTFUL, variables=variables)
        (folder / "driver").write_text(f"{process.pid}\n")
        output, errors = process.communicate(timeout=PATIENCE)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    killed = start()
    interrupted = start("--resume")
    journal = Journal(folder / "results/quickstart/journal.jsonl")
    stages = {stage: [run.state for run in journal.stage(stage)] for stage in ("search", "confirmation")}
    journal.close()
    tracked = {run.state for run in read_runs(store, "quickstart")}
    return Story(folder, killed.returncode, interrupted, stages, tracked, start("--resume"))


@pytest.fixture(scope="module")
def story(repository) -> Story:
    return once("story", lambda folder: live(repository, folder))[1]


def test_a_trial_whose_process_is_killed_goes_on_from_its_checkpoint(story):
    assert story.killed == -signal.SIGKILL, "the sweep did not go on until its driver was killed"
    trial = story.journal.stage("search")[0]
    assert trial.state == "completed"
    assert [report.epoch for report in trial.reports] == list(range(1, EPOCHS + 1))
    assert trial.reports[-1].metrics["train/steps"] == EPOCHS * BATCHES


def test_ctrl_c_stops_cleanly_and_names_the_command_that_goes_on(story):
    assert story.interrupted.returncode == 130, story.interrupted.stderr
    assert "SIGINT: stopping" in story.interrupted.stderr
    assert "--resume" in story.interrupted.stderr and "Traceback" not in story.interrupted.stderr
    assert story.stages_when_interrupted["search"] == ["completed"] * TRIALS
    assert 0 < len(story.stages_when_interrupted["confirmation"]) < 2 * SEEDS + 1
    assert {"killed"} <= story.tracked_when_interrupted <= {"killed", "completed"}


def test_killed_and_interrupted_and_resumed_nothing_is_lost_or_done_twice(story):
    assert story.resumed.returncode == 0, story.resumed.stderr + story.resumed.stdout
    check_whole(story.folder, trials=TRIALS)
    for run in story.journal.runs.values():
        assert run.state == "completed" and run.epoch == EPOCHS
        steps = {report.epoch: report.metrics["train/steps"] for report in run.reports}
        assert steps[EPOCHS] == EPOCHS * steps[1]
    # A batch is trained again only where a run was cut off within an epoch: three times, by less than an epoch each.
    trained = sum(int(run.reports[-1].metrics["train/steps"]) for run in story.journal.runs.values())
    longest = max(int(run.reports[0].metrics["train/steps"]) for run in story.journal.runs.values())
    assert trained < (story.folder / "batches").stat().st_size <= trained + 3 * longest


def test_each_confirmation_scored_the_test_classes_once(story):
    assert len(story.journal.stage("confirmation")) == 2 * SEEDS
    assert count_test_scorings(f"sqlite:///{story.folder / 'mlflow.db'}", "glyphs") == 2 * SEEDS


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
