"""Whole sweeps by their command, as a user runs them."""

import json
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from ctxtune import train
from ctxtune.picture_strip import STRIP_FILE
from ctxtune.retrieved_images import SHOWN_QUERIES_FILE, from_json
from ctxtune.tracking import read_runs, read_texts
from ctxtune.training import load_checkpoint
from ctxtune.tuning.record.journal import Journal
from tests.helpers.processes import run_here
from tests.helpers.sweeps import SMALL, sweep_here

pytestmark = pytest.mark.ray


def test_a_sweep_prints_what_it_found(finished_sweep):
    folder, done = finished_sweep
    assert done.returncode == 0, done.stderr
    for words in (
        "Chosen configuration",
        "in selection",
        "Recall@8",
        "MAP@R",
        "untrained",
        "chosen − start",
        "mlflow ui",
    ):
        assert words in done.stdout
    summary = json.loads((folder / "results/quickstart/summary.json").read_text())
    assert sum(summary["states"].values()) == 6
    assert {"completed", "pruned"} <= summary["states"].keys() or summary["states"]["completed"] == 6


def test_checkpoints_of_pruned_trials_are_gone_and_those_of_completed_ones_stay(finished_sweep):
    folder, _ = finished_sweep
    for record in Journal(folder / "results/quickstart/journal.jsonl").runs.values():
        assert record.checkpoint is not None
        assert Path(record.checkpoint).exists() == (record.state == "completed")


def test_the_weights_of_the_chosen_configuration_are_kept(finished_sweep):
    folder, _ = finished_sweep
    state = load_checkpoint(folder / "results/quickstart/best.pt")
    best = yaml.safe_load((folder / "results/quickstart/best.yaml").read_text())
    assert state["runs"][0]["epoch"] == 3
    assert state["runs"][0]["config"]["loss"] == best["trial"]["loss"]


def test_every_run_is_in_mlflow_with_its_parameters_metrics_and_state(finished_sweep):
    folder, _ = finished_sweep
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


def test_chosen_and_start_are_confirmed_over_the_same_seeds_and_only_they_see_test(finished_sweep):
    folder, _ = finished_sweep
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


def test_the_first_seed_of_each_confirmation_keeps_what_it_retrieves_for_the_same_queries(finished_sweep):
    folder, _ = finished_sweep
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    confirmed = [run for run in read_runs(uri, "quickstart") if run.kind == "confirmation"]
    texts = read_texts(uri, confirmed, SHOWN_QUERIES_FILE)
    kept = {run.tags["arm"]: from_json(texts[run.run_id]) for run in confirmed if run.run_id in texts}
    assert len(confirmed) == 4 and all(run.tags["seed_index"] == "0" for run in confirmed if run.run_id in texts)
    queries = {tuple(query.row for query in shown) for shown in kept.values()}
    assert len(kept) == 2 and len(queries) == 1 and len(queries.pop()) == 12
    for shown in kept.values():
        assert all(len(query.found) == 8 and query.picture is not None for query in shown)
        assert all(each.right == (each.class_name == query.class_name) for query in shown for each in query.found)
    client = MlflowClient(uri)
    strips = {
        run.tags["arm"]: [each.path for each in client.list_artifacts(run.run_id) if each.path == STRIP_FILE]
        for run in confirmed
        if run.run_id in texts
    }
    assert list(strips.values()) == [[STRIP_FILE]] * 2


def test_mlflow_has_the_chosen_model_and_the_data_set(finished_sweep):
    folder, _ = finished_sweep
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("quickstart").experiment_id
    (sweep,) = client.search_runs([experiment], "tags.kind = 'sweep'")
    (logged,) = client.search_logged_models([experiment])
    assert logged.status == "READY" and logged.source_run_id == sweep.info.run_id
    (used,) = sweep.inputs.dataset_inputs
    assert used.dataset.name == "glyphs"


def test_the_best_configuration_can_be_trained(finished_sweep):
    folder, _ = finished_sweep
    best = folder / "results/quickstart/best.yaml"
    assert yaml.safe_load(best.read_text())["trial"]["schedule"]["epochs"] == 3
    done = run_here(train.main, folder, str(best))
    assert done.returncode == 0, done.stderr
    assert "validation/map_at_r" in done.stdout
    result = json.loads((folder / "results/quickstart-best/train-seed0/result.json").read_text())
    assert result["metrics"]["epoch"] == 3


def test_a_second_start_is_refused_and_resuming_a_finished_sweep_shows_it_again(repository, finished_sweep):
    folder, _first = finished_sweep
    again = sweep_here(repository, folder)
    assert again.returncode == 2
    assert "--resume" in again.stderr and "Traceback" not in again.stderr
    changed = sweep_here(repository, folder, "--resume", overrides=[*SMALL, "trial.loss.k=8"])
    assert changed.returncode == 2
    assert "trial.loss.k" in changed.stderr
    shown = sweep_here(repository, folder, "--resume")
    assert shown.returncode == 0, shown.stderr
    assert "Chosen configuration" in shown.stdout and "chosen − start" in shown.stdout
    more = sweep_here(repository, folder, "--resume", overrides=[*SMALL, "confirm.seeds=3"])
    assert more.returncode == 2
    assert "optional stopping" in more.stderr and "Traceback" not in more.stderr
