"""The best trials of a cell's search are run again before one is chosen."""

import math

import pytest
from rich.console import Console

from ctxtune.ablate import main
from ctxtune.ablation.budget import CellTimes, forecast
from ctxtune.ablation.display import print_results
from ctxtune.ablation.results import results_of
from ctxtune.ablation.runs import candidates, selection_count, selection_specs, tuned_configuration
from ctxtune.ablation.searches import Searches
from ctxtune.config import cells_of, load_ablation
from ctxtune.errors import ConfigError
from ctxtune.reporting.writing import write_report
from ctxtune.results.summary import ablation_summary
from ctxtune.tracking import read_runs
from ctxtune.tuning.backend.cluster import RunResources
from ctxtune.tuning.record.journal import Journal
from ctxtune.tuning.record.trial_report import TrialReport
from tests.helpers.ablations import NAME, SMALL, ablation_command, run_ablation
from tests.helpers.processes import run_here
from tests.helpers.runs import cell_trials
from tests.helpers.simulated import Killed, drive_ablation

METRIC = "validation/map_at_r"
CELLS = 3


@pytest.fixture
def ablation(repository):
    def load(*overrides: str, select: str = "{top: 3, seeds: 2, folds: [0, 1]}", budget: str = "{}"):
        tune = (
            f"{{trials: 6, repeats: 2, sampler: random, select: {select}, budget: {budget}, "
            "space: {optimizer.lr: {loguniform: [1e-4, 1e-2]}}}"
        )
        return load_ablation(repository / "ablations/quickstart.yaml", [f"tune_each={tune}", "seeds=3", *overrides])

    return load


def ended(journal, spec, score):
    journal.asked(spec)
    if score is None:
        journal.ended(spec.key, "failed", "not_finite")
    else:
        journal.reported(spec.key, TrialReport(spec.trial.schedule.epochs, {METRIC: score}))
        journal.ended(spec.key, "completed")


def searched(ablation, journal, score):
    """The tuning of all cells, by the number of the trial; the cells."""
    cells = cells_of(ablation)
    for spec in cell_trials(ablation, journal, Searches(ablation, cells)):
        ended(journal, spec, score(int(spec.tags["trial"])))
    return cells


def test_a_lucky_trial_is_overruled_by_the_mean_of_what_is_run_again(ablation, tmp_path):
    file, journal = ablation(), Journal(tmp_path / "j")
    cells = searched(file, journal, lambda number: 0.9 if number == 4 else 0.1 * number)
    assert [run.spec.tags["trial"] for run in candidates(file, cells[0], 1, journal)] == ["4", "5", "3"]
    specs = list(selection_specs(file, cells, journal))
    assert len(specs) == selection_count(file, CELLS) == CELLS * 2 * 3 * 4
    means = {"3": (0.3, 0.5, 0.4, 0.4), "4": (0.9, 0.1, 0.1, 0.1), "5": (0.39, 0.39, 0.39, 0.39)}
    for spec in specs:
        ended(journal, spec, means[spec.tags["trial"]][2 * spec.seed_index + spec.folds[0]])
    results = results_of(file, journal, ended=True)
    for cell in cells:
        for repeat in range(2):
            found = tuned_configuration(file, cell, repeat, journal)
            third = journal.runs[f"{cell.key}-repeat{repeat}-trial003"]
            assert found == (third.spec.point, third.spec.trial)
            assert results.tuned(cell.name, repeat).key == third.key
            assert results.selection_mean(cell.name, repeat, 3) == pytest.approx(0.4)
    seeds = {stage: {run.spec.seed for run in journal.stage(stage)} for stage in ("cell_search", "selection")}
    assert len(seeds["selection"]) == 2 * 2 and not seeds["selection"] & seeds["cell_search"]
    assert ablation_summary(results)["tuning"]["selected"] == 3


def test_a_candidate_that_lost_a_run_is_left_out_and_told_and_without_any_the_best_trial_is_taken(ablation, tmp_path):
    file, journal = ablation(), Journal(tmp_path / "j")
    cells = searched(file, journal, lambda number: 0.1 * number)
    first, second, third = cells
    for spec in selection_specs(file, cells, journal):
        lost = spec.tags["trial"] == "5" and spec.seed_index == 1 and spec.arm != third.name
        score = None if lost or spec.arm == second.name else 0.1 * int(spec.tags["trial"])
        ended(journal, spec, score)
    chosen = {cell.name: tuned_configuration(file, cell, 0, journal)[0] for cell in cells}
    points = [journal.runs[f"{first.key}-repeat0-trial{number:03d}"].spec.point for number in range(6)]
    assert chosen == {first.name: points[4], second.name: points[5], third.name: points[5]}
    results = results_of(file, journal, ended=True)
    assert math.isnan(results.selection_mean(first.name, 0, 5))
    assert {each.arm: len(each.which) for each in results.lost} == {first.name: 4, second.name: 24}
    console = Console(width=160, record=True)
    print_results(console, results, {})
    told = console.export_text()
    assert f"selection of {first.name}: 4 of 24 runs lost" in told
    assert "left out of selection" in told and "The best 3 trials of every search were run again" in told


def test_without_a_word_the_candidates_run_on_the_folds_that_were_tuned_on(ablation):
    file = ablation("tune_each.folds=[2, 3]", select="{top: 2, seeds: 1}")
    assert selection_count(file, CELLS) == CELLS * 2 * 2 * 2
    assert selection_count(ablation(select="{top: 2, seeds: 1, folds: all}"), CELLS) == CELLS * 2 * 2 * 4
    assert selection_count(ablation(select="{top: 9, seeds: 1}"), CELLS, trials=1) == 0
    assert selection_count(ablation(select="null"), CELLS) == 0


def test_a_process_that_dies_in_the_selection_goes_on_where_it_was(ablation, tmp_path):
    file = ablation()
    whole, _ = drive_ablation(file, tmp_path / "whole", hours=lambda spec: 1.0)
    with pytest.raises(Killed):
        drive_ablation(file, tmp_path / "broken", hours=lambda spec: 1.0, die_at="selection")
    again, _ = drive_ablation(file, tmp_path / "broken", hours=lambda spec: 1.0)
    assert {key: (run.spec.point, run.state) for key, run in again.runs.items()} == {
        key: (run.spec.point, run.state) for key, run in whole.runs.items()
    }
    assert len(whole.completed("selection")) == selection_count(file, CELLS)
    stages = [run.stage for run in whole.runs.values()]
    assert stages == sorted(stages, key=["cell_search", "selection", "cell"].index)


@pytest.mark.parametrize("limit", ["hours", "gpu_hours"])
def test_the_budget_keeps_room_for_the_selection(ablation, tmp_path, limit):
    file = ablation("seeds=2", select="{top: 3, seeds: 1}", budget=f"{{{limit}: 56}}")
    journal, executor = drive_ablation(file, tmp_path / "j", hours=lambda spec: 1.0)
    held = journal.decisions.tuning_ended.trials
    assert 2 <= held < 6
    assert len(journal.completed("selection")) == selection_count(file, CELLS, held) > 0
    assert len(journal.completed("cell")) == CELLS * 2 * 2
    assert executor.clock / 3600 == pytest.approx(4 * 6 + 18 + 12)  # a fifth round would not fit
    planned = forecast(file, CellTimes({cell.name: 3600.0 for cell in cells_of(file)}), RunResources(1, 1.0, 1))
    assert planned.trials == held
    assert planned.by_stage["selection"].runs == selection_count(file, CELLS, held)


@pytest.mark.parametrize(
    ("select", "said"),
    [
        ("{top: 1}", "tune_each.select.top"),
        ("{folds: [4]}", "tune_each.select.folds: must name distinct folds among 0 ... 3"),
        ("{folds: some}", "tune_each.select.folds"),
    ],
)
def test_a_selection_that_cannot_be_is_refused(ablation, select, said):
    with pytest.raises(ConfigError, match=said.replace(".", r"\.")):
        ablation(select=select)


SELECTING = [*SMALL, "tune_each.select={top: 2, seeds: 1}"]


def test_the_plan_knows_the_selection(repository, tmp_path):
    arguments = ablation_command(
        repository, "--dry-run", "--assume", "images_per_second=400,gpus=0", overrides=SELECTING
    )
    planned = run_here(main, tmp_path, *arguments[3:])
    assert "4 tuning runs more: the best 2 trials of every cell, 1 seed" in planned.stdout, (
        planned.stdout + planned.stderr
    )
    assert "selection    4 runs" in planned.stdout


@pytest.mark.ray
@pytest.mark.slow
def test_run_mlflow_and_report_know_the_selection(repository, tmp_path):
    done = run_ablation(repository, tmp_path, overrides=SELECTING)
    assert done.returncode == 0, done.stderr + done.stdout
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    kinds = [run.kind for run in read_runs(uri, NAME)]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "ablation": 1,
        "cell_search": 4,
        "selection": 4,
        "cell": 4,
    }
    journal = Journal(tmp_path / "results" / NAME / "journal.jsonl")
    for cell in ("full", "contrastive_only"):
        again = [run for run in journal.stage("selection") if run.spec.arm == cell]
        best = max(again, key=lambda run: run.last(METRIC))
        assert {tuple(run.spec.folds) for run in again} == {(1,)}
        assert all(run.spec.trial == best.spec.trial for run in journal.stage("cell") if run.spec.arm == cell)
    write_report(uri, NAME, tmp_path / "report")
    text = next((tmp_path / "report").rglob("*.html")).read_text(encoding="utf-8")
    assert "the best 2 trials run again with 1 fresh seed" in text and ">run again</th>" in text
