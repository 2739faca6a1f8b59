import math

import pytest

from ctxtune.errors import TrackingError
from ctxtune.tracking import (
    Tracker,
    all_test_scorings,
    best_runs,
    count_test_scorings,
    find_sweep,
    metric_histories,
    metric_history,
    read_runs,
    read_text,
    record_test_scoring,
    replay,
)
from tests.helpers.tracking import new_store


@pytest.fixture(scope="module")
def uri(tmp_path_factory) -> str:
    """A store with a sweep of seven trials: four completed, one pruned, one failed, one that still runs."""
    folder = tmp_path_factory.mktemp("queries")
    uri = new_store(folder)
    tracker = Tracker(uri, "cars", folder / "spool", deliver=False)
    tracker.start_run("sweep", name="cars", kind="sweep")
    tracker.log_text("sweep", "name: cars\n", "search_space.yaml")
    scores = {
        "a": [0.1, 0.3],
        "b": [0.2, 0.5],
        "c": [0.9, 0.4],
        "d": [0.1, math.nan],
        "pruned": [0.95],
        "failed": [0.99],
    }
    states = {"pruned": "pruned", "failed": "failed"}
    for key, values in scores.items():
        tracker.start_run(key, name=f"trial {key}", kind="trial", parent="sweep", params={"loss": {"k": 4}})
        for step, value in enumerate(values):
            tracker.log_metrics(key, {"validation/map_at_r": value, "test/map_at_r": 1 - value}, step)
        tracker.end_run(key, states.get(key, "completed"), "out of memory" if key == "failed" else "")
    tracker.start_run("running", name="running", kind="trial", parent="sweep")
    for seed in range(2):
        tracker.start_run(f"confirmation-{seed}", name=f"seed {seed}", kind="confirmation", parent="sweep")
        record_test_scoring(tracker, f"confirmation-{seed}", "cars196")
    record_test_scoring(tracker, "a", "cub200")
    tracker.close(timeout=0)
    replay(folder / "spool")
    return uri


def test_runs_are_read_as_they_were_written(uri: str) -> None:
    runs = {run.key: run for run in read_runs(uri, "cars")}
    assert len(runs) == 10
    failed = runs["failed"]
    assert (failed.name, failed.kind, failed.state, failed.reason) == (
        "trial failed",
        "trial",
        "failed",
        "out of memory",
    )
    assert failed.params == {"loss.k": "4"}
    assert failed.metrics == pytest.approx({"validation/map_at_r": 0.99, "test/map_at_r": 0.01})
    assert failed.parent == runs["sweep"].run_id
    assert failed.end_time is not None and failed.end_time >= failed.start_time
    assert (runs["running"].state, runs["running"].end_time) == ("running", None)
    assert [run.key for run in read_runs(uri, "cars", "trial")] == ["a", "b", "c", "d", "pruned", "failed", "running"]


def test_the_best_are_completed_and_ranked_by_their_last_score(uri: str) -> None:
    assert [run.key for run in best_runs(uri, "cars", "validation/map_at_r", "max", 5)] == ["b", "c", "a"]
    assert [run.key for run in best_runs(uri, "cars", "validation/map_at_r", "min", 2)] == ["a", "c"]
    with pytest.raises(ValueError, match="validation metrics"):
        best_runs(uri, "cars", "test/map_at_r", "max", 5)


def test_histories_are_whole_and_in_order(uri: str) -> None:
    runs = {run.key: run.run_id for run in read_runs(uri, "cars", "trial")}
    points = metric_history(uri, runs["c"], "validation/map_at_r")
    assert [(point.step, point.value) for point in points] == [(0, 0.9), (1, 0.4)]
    histories = metric_histories(uri, list(runs.values()), "validation/map_at_r")
    assert {key: len(histories[run_id]) for key, run_id in runs.items()} == {
        **dict.fromkeys("abcd", 2),
        "pruned": 1,
        "failed": 1,
        "running": 0,
    }
    assert math.isnan(histories[runs["d"]][1].value)


def test_a_sweep_is_found_by_name_or_its_neighbors_are_named(uri: str) -> None:
    sweep = find_sweep(uri, "cars")
    assert (sweep.key, sweep.kind) == ("sweep", "sweep")
    assert read_text(uri, sweep.run_id, "search_space.yaml") == "name: cars\n"
    for wrong, words in (
        ("carz", r'carz.*did you mean "cars"\?'),
        ("results/cars", r'not a path; did you mean "cars"\?'),
        ("results/cars/report", r'not a path; did you mean "cars"\?'),
        ("search_spaces/cars.yaml", r'not a path; did you mean "cars"\?'),
        ("nothing", r"'nothing'.*; there are: .*cars"),
    ):
        with pytest.raises(TrackingError, match=words):
            find_sweep(uri, wrong)
    with pytest.raises(TrackingError, match="'none'"):
        read_runs(uri, "none")
    with pytest.raises(TrackingError, match=r"missing\.yaml"):
        read_text(uri, sweep.run_id, "missing.yaml")


def test_the_ledger_counts_runs_that_scored_test_classes(uri: str) -> None:
    from mlflow import MlflowClient

    assert count_test_scorings(uri, "cars196") == 2
    assert count_test_scorings(uri, "cub200") == 1
    assert count_test_scorings(uri, "sop") == 0
    scorings = all_test_scorings(uri)
    assert {name: sorted(run.key for run in runs) for name, runs in scorings.items()} == {
        "cars196": ["confirmation-0", "confirmation-1"],
        "cub200": ["a"],
    }
    # A scoring that was deleted in the UI happened all the same.
    MlflowClient(uri).delete_run(scorings["cub200"][0].run_id)
    try:
        assert count_test_scorings(uri, "cub200") == 1
    finally:
        MlflowClient(uri).restore_run(scorings["cub200"][0].run_id)


def test_the_ledger_has_the_experiments_of_all_pages(tmp_path, monkeypatch) -> None:
    from mlflow import MlflowClient

    uri = new_store(tmp_path)
    for number in range(3):
        name, spool = f"sweep {number}", tmp_path / f"spool-{number}"
        experiment = MlflowClient(uri).create_experiment(name)
        tracker = Tracker(uri, name, spool, deliver=False)
        tracker.start_run(name, name=name, kind="confirmation")
        record_test_scoring(tracker, name, "cub200")
        tracker.close(timeout=0)
        replay(spool)
        if number == 1:
            MlflowClient(uri).delete_experiment(experiment)
    monkeypatch.setattr("ctxtune.tracking.queries._PAGE", 1)
    assert count_test_scorings(uri, "cub200") == 3
    assert sorted(run.key for run in all_test_scorings(uri)["cub200"]) == ["sweep 0", "sweep 1", "sweep 2"]


def test_a_store_that_is_not_there_is_said_to_be_missing(tmp_path) -> None:
    with pytest.raises(TrackingError, match=r"none\.db does not exist"):
        find_sweep(f"sqlite:///{tmp_path}/none.db", "cars")
    assert not (tmp_path / "none.db").exists()
