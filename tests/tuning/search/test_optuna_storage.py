"""`tracking.optuna`: the study in a real storage says what the journal says, once, whatever has happened on the way."""

import sqlite3
import time

import optuna
import pytest

from ctxtune.config import load_search_space
from ctxtune.errors import ConfigError
from ctxtune.tuning.record.journal import Journal
from ctxtune.tuning.search import optuna_storage
from ctxtune.tuning.search.optuna_storage import RUN, StorageMirror
from tests.helpers.simulated import Killed, drive

STATES = {"completed": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL", "killed": "FAIL", "running": "RUNNING"}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(optuna_storage, "RETRY_SECONDS", 0.1)


def space_of(repository, url: str, *overrides: str):
    fixed = ["search.sampler.name=random", "search.trials=6", "search.budget={}", "select=null", "confirm=null"]
    fixed.append(f"tracking.optuna={url}")
    return load_search_space(repository / "search_spaces/cars.yaml", [*fixed, *overrides])


def sweep(space, journal_file, sweep_id="s-1", ends=True, alerts=None, watch=lambda: None, **options) -> Journal:
    """A simulated sweep with its mirror, or what goes on of it; it may be killed."""
    with StorageMirror(space, (alerts if alerts is not None else []).append) as mirror:
        mirror.begin(sweep_id, Journal(journal_file).stage("search"))

        def on_change(recorder, run, clock):
            mirror.change(run)
            watch()

        try:
            journal, _ = drive(space, journal_file, hours=0.5, watch=on_change, **options)
            mirror.end(journal.stage("search"))
        except Killed:
            assert not ends
            journal = Journal(journal_file)
    return journal


def check_same(url: str, name: str, journal: Journal, space) -> optuna.Study:
    study = optuna.load_study(study_name=name, storage=url)
    metric = space.search.objective.metric
    runs = {run.key: run for run in journal.stage("search")}
    assert sorted(trial.user_attrs[RUN] for trial in study.trials) == sorted(runs)
    for trial in study.trials:
        run = runs[trial.user_attrs[RUN]]
        assert trial.state.name == STATES[run.state]
        assert trial.params == run.spec.point
        assert trial.intermediate_values == {report.epoch: report.metrics[metric] for report in run.reports}
        if run.state in ("completed", "pruned"):
            assert trial.value == run.last(metric)
    return study


def test_a_finished_sweep_is_there_with_its_best_trial(repository, tmp_path):
    url = f"sqlite:///{tmp_path}/optuna.db"
    space = space_of(repository, url)
    journal = sweep(space, tmp_path / "j")
    study = check_same(url, space.name, journal, space)
    assert study.direction.name == "MAXIMIZE" and study.metric_names == [space.search.objective.metric]
    completed = [run.last(space.search.objective.metric) for run in journal.completed("search")]
    assert study.best_value == max(completed)
    assert study.trials[0].distributions["optimizer.lr"] == optuna.distributions.FloatDistribution(1e-5, 5e-4, log=True)


def test_a_sweep_that_was_killed_goes_on_and_doubles_nothing(repository, tmp_path):
    url = f"sqlite:///{tmp_path}/optuna.db"
    space = space_of(repository, url)
    journal = sweep(space, tmp_path / "j", ends=False, die_after=25)
    assert {run.state for run in journal.stage("search")} >= {"running"}
    check_same(url, space.name, journal, space)
    journal = sweep(space, tmp_path / "j")
    check_same(url, space.name, journal, space)
    sweep(space, tmp_path / "j")  # nothing is left to do
    check_same(url, space.name, journal, space)


def test_a_storage_that_came_later_has_what_was_before(repository, tmp_path):
    url = f"sqlite:///{tmp_path}/optuna.db"
    sweep(space_of(repository, "null"), tmp_path / "j", ends=False, die_after=25)
    space = space_of(repository, url)
    check_same(url, space.name, sweep(space, tmp_path / "j"), space)


def test_two_sweeps_of_one_name_are_two_studies(repository, tmp_path):
    url = f"sqlite:///{tmp_path}/optuna.db"
    space = space_of(repository, url)
    check_same(url, space.name, sweep(space, tmp_path / "a", "s-1"), space)
    check_same(url, f"{space.name} s-2", sweep(space, tmp_path / "b", "s-2"), space)
    assert len(optuna.get_all_study_names(url)) == 2


def test_what_a_budget_killed_is_open_until_the_sweep_has_ended(repository, tmp_path):
    url = f"sqlite:///{tmp_path}/optuna.db"
    little = space_of(repository, url, "search.budget={hours: 1}")
    with StorageMirror(little, print) as mirror:
        mirror.begin("s-1", ())
        journal, _ = drive(
            little, tmp_path / "j", hours=0.5, concurrent=2, watch=lambda r, run, clock: mirror.change(run)
        )
    assert "killed" in {run.state for run in journal.stage("search")}
    assert "RUNNING" in {trial.state.name for trial in optuna.load_study(study_name=little.name, storage=url).trials}
    larger = space_of(repository, url, "search.budget={hours: 9}")
    journal = sweep(larger, tmp_path / "j", concurrent=2)
    assert "killed" not in {run.state for run in journal.stage("search")}
    check_same(url, larger.name, journal, larger)


def test_several_objectives_have_several_values(repository, tmp_path):
    url = f"sqlite:///{tmp_path}/optuna.db"
    objectives = "search.objective=[{metric: validation/map_at_r}, {metric: time/seconds, mode: min}]"
    space = space_of(repository, url, objectives, "search.scheduler.name=none", "search.trials=4")
    sweep(space, tmp_path / "j")
    study = optuna.load_study(study_name=space.name, storage=url)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert all(len(trial.values) == 2 for trial in study.trials) and study.best_trials


def test_an_outage_is_told_once_and_made_up_for(repository, tmp_path):
    file = tmp_path / "optuna.db"
    url = f"sqlite:///{file}?timeout=0.05"
    space = space_of(repository, url)
    alerts: list[str] = []
    blocker = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    events = 0

    def watch():
        nonlocal events
        events += 1
        if events == 10:
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline:  # between two writes of the mirror
                try:
                    blocker.execute("BEGIN EXCLUSIVE")
                    return
                except sqlite3.OperationalError:
                    time.sleep(0.01)
        if events == 30:
            deadline = time.monotonic() + 10
            while not alerts and time.monotonic() < deadline:
                time.sleep(0.05)
            blocker.execute("ROLLBACK")

    journal = sweep(space, tmp_path / "j", alerts=alerts, watch=watch)
    assert len(alerts) == 1 and "database is locked" in alerts[0] and "the sweep goes on" in alerts[0]
    check_same(url, space.name, journal, space)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite:////proc/none/optuna.db", "unable to open database file"),
        ("nothing://host/db", "cannot be opened"),
        ("postgresql+psycopg2://me:T0KEN@127.0.0.1:1/db", "cannot be opened"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_told_at_once_without_its_secrets(repository, url, words):
    with pytest.raises(ConfigError, match=r"tracking\.optuna") as told:
        StorageMirror(space_of(repository, url), print)
    assert words in str(told.value) and "T0KEN" not in str(told.value)


def test_addresses_that_are_none_and_one_database_for_both_are_refused(repository):
    for value in ("optuna.db", "sqlite://"):
        with pytest.raises(ConfigError, match="expected the address of a database"):
            space_of(repository, value)
    with pytest.raises(ConfigError, match="one each"):
        space_of(repository, "sqlite:///mlflow.db", "tracking.uri=sqlite:///mlflow.db")
