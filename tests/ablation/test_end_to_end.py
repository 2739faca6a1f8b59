"""A whole ablation by its command: tuned cells, what it leaves in MLflow, and (slow) what signals do to it."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from ctxtune.ablation.base import best_configuration, finder
from ctxtune.ablation.run import ablation_folder
from ctxtune.config import load_ablation, load_search_space
from ctxtune.errors import ConfigError
from ctxtune.tracking import Tracker, count_test_scorings, find_sweep, flatten, read_runs, read_text
from ctxtune.tuning.record.journal import Journal
from tests.helpers.ablations import NAME, SMALL, ablation_command, run_ablation
from tests.helpers.processes import PATIENCE, environment

pytestmark = pytest.mark.ray
CELLS = ["full", "contrastive_only"]


def start_and_signal(
    repository: Path,
    folder: Path,
    ended: int,
    number: signal.Signals,
    overrides: list[str] = SMALL,
    *,
    resume: bool = False,
) -> tuple[int, str]:
    """Start, and send a signal when so many runs have ended; exit status and error output."""
    arguments = ["--resume"] if resume else []
    process = subprocess.Popen(
        ablation_command(repository, *arguments, overrides=overrides),
        cwd=folder, env=environment(repository), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    journal, deadline = folder / "results" / NAME / "journal.jsonl", time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        if journal.exists() and journal.read_bytes().count(b'"event":"ended"') >= ended:
            break
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, errors


@pytest.fixture(scope="module")
def finished(finished_ablation):
    folder, done = finished_ablation
    assert done.returncode == 0, done.stderr + done.stdout
    return folder, done


def journal_of(folder: Path) -> Journal:
    return Journal(folder / "results" / NAME / "journal.jsonl")


def check_nothing_is_lost_or_done_twice(folder: Path) -> None:
    lines = (folder / "results" / NAME / "journal.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    asked = [event["key"] for event in events if event["event"] == "asked"]
    ended = [event["key"] for event in events if event["event"] == "ended"]
    assert sorted(asked) == sorted(set(asked)) == sorted(ended)
    assert len(asked) == 2 * 2 + 2 * 2
    for record in journal_of(folder).runs.values():
        assert record.state == "completed"
        assert [report.epoch for report in record.reports] == [1, 2]
    tracked = read_runs(f"sqlite:///{folder / 'mlflow.db'}", NAME)
    assert sorted(run.name for run in tracked if run.kind != "ablation") == sorted(asked)
    assert {run.state for run in tracked} == {"completed"}


def test_every_run_ends_once(finished):
    check_nothing_is_lost_or_done_twice(finished[0])


@pytest.mark.slow
def test_killed_twice_and_resumed_nothing_is_lost_or_done_twice(repository, finished, tmp_path):
    start_and_signal(repository, tmp_path, 3, signal.SIGKILL)
    start_and_signal(repository, tmp_path, 6, signal.SIGKILL, resume=True)
    done = run_ablation(repository, tmp_path, "--resume")
    assert done.returncode == 0, done.stderr + done.stdout
    check_nothing_is_lost_or_done_twice(tmp_path)
    ours, theirs = journal_of(tmp_path).runs, journal_of(finished[0]).runs
    for key, record in theirs.items():  # as if nothing had happened, to the last bit
        assert ours[key].spec.point == record.spec.point
        assert ours[key].last("validation/map_at_r") == record.last("validation/map_at_r")


def test_cells_have_the_same_budget_and_the_same_seeds_and_take_their_best_trial(finished):
    journal = journal_of(finished[0])
    assert len({run.spec.seed for run in journal.stage("cell_search")}) == 1
    assert {tuple(run.spec.folds) for run in journal.stage("cell_search")} == {(1,)}
    for cell in CELLS:
        trials = [run for run in journal.stage("cell_search") if run.spec.arm == cell]
        assert trials[0].spec.point["optimizer.lr"] == pytest.approx(2e-3)  # its own comes first
        best = max(trials, key=lambda run: run.last("validation/map_at_r"))
        scored = [run for run in journal.stage("cell") if run.spec.arm == cell]
        assert [run.spec.trial for run in scored] == [best.spec.trial] * 2
        assert [run.spec.folds for run in scored] == [(0,), (0,)]
    by_seed = {(run.spec.seed_index, run.spec.seed) for run in journal.stage("cell")}
    assert len(by_seed) == 2
    suggested = {run.key.rpartition("-")[2]: run.spec.point for run in journal.stage("cell_search")}
    assert len(suggested) == 2  # random ones are the same in every cell, too
    points = [[run.spec.point for run in journal.stage("cell_search") if run.spec.arm == cell] for cell in CELLS]
    assert points[0] == points[1]


def test_mlflow_holds_the_design_and_every_run_under_one_parent(finished):
    folder, _ = finished
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    parent = find_sweep(uri, NAME)
    assert (parent.kind, parent.state) == ("ablation", "completed")
    design = json.loads(read_text(uri, parent.run_id, "design.json"))
    assert design | {"cells": None} == {
        "name": NAME,
        "metric": "validation/map_at_r",
        "mode": "max",
        "correction": "holm",
        "equivalence": 0.005,
        "probabilities": False,
        "study": None,
        "reference": "full",
        "design": "grid",
        "seeds": 2,
        "repeats": 1,
        "folds": ["0"],
        "confirmatory": False,
        "tuning": "each",
        "tuned_for": None,
        "trials": 2,
        "trials_held": None,
        "selected": 0,
        "selection_seeds": 0,
        "selection_folds": [],
        "splits": 1,
        "rotated": [],
        "tuned_with": [],
        "dataset": "glyphs",
        "closed_set": False,
        "factors": {},
        "variants": CELLS,
        "cells": None,
        "contrasts": [{"cell": "contrastive_only", "against": "full"}],
    }
    assert [(cell["cell"], cell["variant"], cell["settings"]) for cell in design["cells"]] == [
        ("full", "full", {}),
        ("contrastive_only", "contrastive_only", {"loss.contextual_weight": 0.0}),
    ]
    journal = journal_of(folder)
    runs = [each for each in read_runs(uri, NAME) if each.kind != "ablation"]
    assert sorted(each.name for each in runs) == sorted(journal.runs)
    for each in runs:
        assert (each.parent, each.state) == (parent.run_id, "completed")
        assert each.tags["cell"] in CELLS and each.tags["variant"] in CELLS and each.tags["repeat"] == "0"
        assert each.metrics["validation/map_at_r"] == pytest.approx(journal.runs[each.name].last("validation/map_at_r"))
    cells = [each for each in runs if each.kind == "cell"]
    assert sorted((each.tags["cell"], each.tags["seed_index"], each.tags["fold"]) for each in cells) == [
        (cell, seed, "0") for cell in sorted(CELLS) for seed in "01"
    ]
    trials = [each for each in runs if each.kind == "cell_search"]
    assert sorted((each.tags["cell"], each.tags["trial"]) for each in trials) == [
        (cell, trial) for cell in sorted(CELLS) for trial in "01"
    ]
    assert count_test_scorings(uri, "glyphs") == 0


def test_sums_by_class_add_up_to_the_scores(finished):
    folder, _ = finished
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    for each in read_runs(uri, NAME, "cell"):
        kept = json.loads(read_text(uri, each.run_id, "per_class_scores.json"))
        assert kept.keys() == {"validation/map_at_r", "validation/recall_at_1"}
        for name, classes in kept.items():
            total, queries = (sum(pair[index] for pair in classes.values()) for index in (0, 1))
            assert total / queries == pytest.approx(each.metrics[name], abs=1e-9)
            assert len(classes) > 20


def test_the_command_prints_cells_and_the_report_command(finished):
    _, done = finished
    for words in ("95 % t-interval", "contrastive_only", "reference", "one tuning run", f"-m ctxtune.report {NAME}"):
        assert words in done.stdout


def test_a_second_start_and_a_changed_resume_are_refused(repository, finished):
    root = finished[0] / "results"
    ablation = load_ablation(repository / "ablations/quickstart.yaml", [*SMALL, "trial.precision=auto"])
    with pytest.raises(ConfigError, match="--resume"):
        ablation_folder(root, ablation, resume=False)
    ablation_folder(root, ablation, resume=True).close()
    more = load_ablation(repository / "ablations/quickstart.yaml", [*SMALL, "seeds=3"])
    with pytest.raises(ConfigError, match="seeds = 2"):
        ablation_folder(root, more, resume=True)


def test_the_best_of_a_sweep_is_what_it_chose_else_its_best_trial_by_validation(repository, finished, tmp_path):
    uri = f"sqlite:///{finished[0] / 'mlflow.db'}"
    space = load_search_space(repository / "search_spaces/quickstart.yaml", [f"tracking.uri={uri}"])
    tracker = Tracker(uri, "quickstart", tmp_path / "spool")
    tracker.start_run("sweep", name="quickstart", kind="sweep")
    tracker.log_text("sweep", yaml.safe_dump(space.model_dump(mode="json")), "space.yaml")
    for number, (k, score) in enumerate([(2, 0.3), (4, 0.5), (8, 0.4)]):
        tree = space.trial.tree()
        tree["loss"]["k"] = k
        tracker.start_run(f"t{number}", name=f"t{number}", kind="trial", parent="sweep", params=flatten(tree))
        tracker.log_metrics(f"t{number}", {"validation/map_at_r": score, "test/map_at_r": 1 - score}, step=9)
        tracker.end_run(f"t{number}", "completed")
    assert tracker.flush(PATIENCE)
    assert best_configuration(uri, "quickstart")["trial"]["loss"]["k"] == 4
    chosen = space.trial.tree()
    chosen["loss"]["k"] = 8
    text = yaml.safe_dump({"trial": chosen, "validation": space.validation.model_dump(mode="json")})
    tracker.log_text("sweep", text, "best.yaml")
    assert tracker.close(PATIENCE)
    file = tmp_path / "ablation.yaml"
    file.write_text(
        f"name: after\nbase: {{best_of: quickstart}}\ntracking: {{uri: '{uri}'}}\n"
        "variants: {full: {}, less: {loss.k: 4}}\n"
    )
    ablation = load_ablation(file, find_best=finder(tmp_path / "results", resume=False))
    assert (ablation.trial.loss.options()["k"], ablation.based_on) == (8, "best of quickstart")
    file.write_text(file.read_text().replace("quickstart", "quickstar"))
    with pytest.raises(ConfigError, match=rf'{file}:2: base.best_of: No sweep .*; did you mean "quickstart"'):
        load_ablation(file, find_best=finder(tmp_path / "results", resume=False))


@pytest.mark.slow
def test_a_confirmatory_ablation_enters_each_run_in_the_ledger_and_ctrl_c_names_the_command_that_goes_on(
    repository, tmp_path
):
    overrides = [*SMALL[:-1], "confirmatory=true"]
    status, errors = start_and_signal(repository, tmp_path, 1, signal.SIGINT, overrides)
    assert status == 130, errors
    assert "--resume" in errors and "ctxtune.ablate" in errors and "Traceback" not in errors
    done = run_ablation(repository, tmp_path, "--resume", "--json", overrides=overrides)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["metric"] == "test/map_at_r" and set(summary["cells"]) == set(CELLS)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    runs = read_runs(uri, NAME, "cell")
    assert len(runs) == 4 == count_test_scorings(uri, "glyphs")
    for each in runs:
        assert each.state == "completed" and each.tags["fold"] == ""
        assert each.metrics["test/map_at_r"] > 0
        assert "validation/map_at_r" not in each.metrics
    design = json.loads(read_text(uri, find_sweep(uri, NAME).run_id, "design.json"))
    assert design["confirmatory"] and design["tuning"] == "none" and design["tuned_for"] == "full"


@pytest.mark.slow
def test_a_dry_run_prints_arms_and_hours_and_starts_nothing(repository, tmp_path):
    done = run_ablation(repository, tmp_path, "--dry-run")
    assert done.returncode == 0, done.stderr
    for words in (
        "contrastive_only",
        "loss.contextual_weight = 0.0",
        "4 tuning trials",
        "4 runs",
        "a full-length run takes",
        "2 trials of every cell",
    ):
        assert words in done.stdout
    assert not (tmp_path / "results").exists()
