"""Starting from the best trials of an earlier sweep in a real MLflow store."""

import time

import pytest

from ctxtune.config import start_points
from ctxtune.errors import ConfigError
from ctxtune.tracking import Tracker
from ctxtune.tuning.record.journal import Journal
from ctxtune.tuning.search.warm_start import check_warm_starts, with_warm_starts
from tests.helpers.processes import PATIENCE
from tests.helpers.search_spaces import METRIC, space_of


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    tracker = Tracker(uri, "earlier", folder / "spool")
    tracker.start_run("deleted", name="earlier", kind="sweep")
    tracker.start_run("not-mine", name="trial-0", kind="trial", parent="deleted", params={"loss": {"k": 2}})
    tracker.log_metrics("not-mine", {METRIC: 0.95}, step=9)
    tracker.end_run("not-mine", "completed")
    tracker.end_run("deleted", "completed")
    time.sleep(0.01)  # MLflow's clock has milliseconds
    tracker.start_run("earlier", name="earlier", kind="sweep")
    for number, (score, state, k) in enumerate(
        [(0.3, "completed", 2), (0.9, "pruned", 4), (0.6, "completed", 8), (0.5, "completed", 4)]
    ):
        params = {"loss": {"k": k, "positive_margin": 0.8, "negative_margin": 0.3}, "optimizer": {"lr": 1e-3 * k}}
        tracker.start_run(f"run-{number}", name=f"trial-{number}", kind="trial", parent="earlier", params=params)
        tracker.log_metrics(f"run-{number}", {METRIC: score}, step=9)
        tracker.end_run(f"run-{number}", state)
    assert tracker.close(PATIENCE)
    return uri


def warm(store: str, journal: Journal, **search):
    space = space_of(start_from=["trial", {"best_of": "earlier", "count": 2}], **search)
    space = space.model_copy(update={"tracking": space.tracking.model_copy(update={"uri": store})})
    return with_warm_starts(space, journal)


def test_the_best_completed_trials_of_the_latest_sweep_follow_the_start(store, tmp_path):
    points = list(start_points(warm(store, Journal(tmp_path / "j"))).values())
    assert [point["loss.k"] for point in points] == [4, 8, 4]
    assert points[1]["optimizer.lr"] == pytest.approx(8e-3)


def test_they_are_asked_for_once(store, tmp_path):
    warm(store, Journal(tmp_path / "j"))
    again = warm("sqlite:////nowhere/mlflow.db", Journal(tmp_path / "j"))
    assert len(start_points(again)) == 3


def test_a_trial_outside_the_space_is_refused(store, tmp_path):
    dimension = {"loss.k": {"choice": [2, 4]}, "optimizer.lr": {"loguniform": [1e-5, 1e-2]}}
    with pytest.raises(ConfigError, match=r"loss\.k = 8"):
        warm(store, Journal(tmp_path / "j"), space=dimension, constraints=[])


def test_a_sweep_that_is_not_there_is_named(store, tmp_path):
    space = space_of(start_from=[{"best_of": "eralier"}])
    space = space.model_copy(update={"tracking": space.tracking.model_copy(update={"uri": store})})
    for ask in (check_warm_starts, lambda space: with_warm_starts(space, Journal(tmp_path / "j"))):
        with pytest.raises(ConfigError, match=r"search\.start_from: best_of: .*'eralier'.*did you mean \"earlier\""):
            ask(space)


@pytest.mark.parametrize("text", ["no", "0200", "2026-25-11", "1e5", "[", "x"])
def test_a_choice_of_an_earlier_sweep_is_known_by_its_text(text):
    from ctxtune.config import Dimension
    from ctxtune.tuning.search.warm_start import _value

    assert _value(Dimension.model_validate({"choice": ["a", text]}), text) == text
    assert _value(Dimension.model_validate({"choice": [True, 4]}), "true") is True
