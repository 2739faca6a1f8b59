"""A real sweep whose budget ends in the middle of a trial, and which a larger budget goes on with."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from ctxtune.tracking import find_sweep, read_runs
from ctxtune.tuning.record.journal import Journal
from tests.helpers import eventful_loss
from tests.helpers.once import once
from tests.helpers.sweeps import SMALL, run_sweep
from tests.helpers.tracking import new_store

pytestmark = [pytest.mark.ray, pytest.mark.slow]
EPOCHS, BATCHES, TRIALS, SEEDS = 4, 2, 3, 2
STALLS = EPOCHS * BATCHES + 2 * BATCHES + 1
"""The first batch of the third epoch of the second trial, which then waits until the budget is spent."""
FILE = [
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


@dataclass
class Story:
    """What the sweep said and left when its budget was spent, and at its end."""

    folder: Path
    ended: subprocess.CompletedProcess[str]
    killed: dict[str, tuple[str, int]]
    resumed: subprocess.CompletedProcess[str]

    @property
    def journal(self) -> Journal:
        return Journal(self.folder / "results/quickstart/journal.jsonl")


def live(repository: Path, folder: Path) -> Story:
    new_store(folder)
    variables = {eventful_loss.FOLDER: str(folder), eventful_loss.EVENTS: f"{STALLS}:stall"}

    def run(hours: float, *arguments: str) -> subprocess.CompletedProcess[str]:
        overrides = [*FILE, f"search.budget.hours={hours}"]
        return run_sweep(repository, folder, *arguments, overrides=overrides, variables=variables)

    ended = run(0.06)
    journal = Journal(folder / "results/quickstart/journal.jsonl")
    states = {key: (run.state, run.epoch) for key, run in journal.runs.items()}
    return Story(folder, ended, states, run(20, "--resume"))


@pytest.fixture(scope="module")
def story(repository) -> Story:
    return once("budget story", lambda folder: live(repository, folder))[1]


def test_a_search_that_had_no_time_says_so_and_asks_nothing_of_its_start(story):
    assert story.ended.returncode == 0, story.ended.stderr + story.ended.stdout
    assert story.killed == {"trial-0000": ("completed", EPOCHS), "trial-0001": ("killed", 2)}
    assert f"1 of {TRIALS} trials: the budget ended the search; nothing can be concluded" in story.ended.stdout


def test_a_larger_budget_goes_on_with_the_trial_from_its_checkpoint(story):
    assert story.resumed.returncode == 0, story.resumed.stderr + story.resumed.stdout
    journal = story.journal
    assert [run.state for run in journal.stage("search")] == ["completed"] * TRIALS
    trial = journal.runs["trial-0001"]
    assert [report.epoch for report in trial.reports] == list(range(1, EPOCHS + 1))
    assert trial.reports[-1].metrics["train/steps"] == EPOCHS * BATCHES
    trained = len((story.folder / "batches").read_bytes())
    confirmed = sum(int(run.last("train/steps")) for run in journal.stage("confirmation"))
    assert trained == TRIALS * EPOCHS * BATCHES + confirmed + 1  # the batch that waited is all that is trained twice
    assert len(journal.completed("confirmation")) in (SEEDS, 2 * SEEDS)  # the start alone, where nothing is better


def test_tracking_and_summary_know_one_sweep_with_each_run_once(story):
    store = f"sqlite:///{story.folder / 'mlflow.db'}"
    tracked = [run for run in read_runs(store, "quickstart") if run.kind == "trial"]
    assert sorted((run.name, run.state) for run in tracked) == [
        (f"trial-{number:04d}", "completed") for number in range(TRIALS)
    ]
    assert find_sweep(store, "quickstart").state == "completed"
    summary = json.loads((story.folder / "results/quickstart/summary.json").read_text())
    assert summary["conclusive"] and summary["states"] == {"completed": TRIALS}
