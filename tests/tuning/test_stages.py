"""Selection, confirmation, outcome and budget, from journals written by hand."""

import io
import json

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from scipy import stats

from ctxtune.config import load_trial_file, resolve_trial
from ctxtune.errors import RunFailed
from ctxtune.results.note import sweep_note
from ctxtune.results.ranking import pareto_front
from ctxtune.results.sweep import select
from ctxtune.tuning.backend.devices import run_device
from ctxtune.tuning.display import print_results
from ctxtune.tuning.record.journal import Journal
from ctxtune.tuning.record.results_folder import sweep_folder
from ctxtune.tuning.record.run_spec import RunSpec
from ctxtune.tuning.record.trial_report import TrialFailure, TrialReport
from ctxtune.tuning.search.sampler import Sampler
from ctxtune.tuning.stages import (
    START,
    candidates,
    confirmation_specs,
)
from ctxtune.tuning.summary_files import best_file
from ctxtune.tuning.sweep_results import results_of
from tests.helpers.runs import silent_recorder, trials, whole_selection
from tests.helpers.search_spaces import METRIC, space_of


def finish(journal: Journal, spec: RunSpec, epoch: int, metrics: dict[str, float]) -> None:
    journal.asked(spec)
    journal.reported(spec.key, TrialReport(epoch, {"time/seconds": 36.0, "cost/gpu_hours": 0.01, **metrics}))
    journal.ended(spec.key, "completed" if epoch == 9 else "pruned")


@pytest.fixture
def space():
    space = space_of(trials=6)
    tree = space.model_dump(mode="json")
    tree |= {"select": {"top": 2, "folds": [1, 2], "seeds": 1}, "confirm": {"seeds": 4}}
    return type(space).model_validate(tree)


@pytest.fixture
def journal(tmp_path, space) -> Journal:
    """Six trials: the start is pruned, trial 3 is best, 5 next; 1 was best when it was pruned."""
    journal = Journal(tmp_path / "journal.jsonl")
    scores = [(1, 0.1), (1, 0.99), (9, 0.3), (9, 0.6), (9, 0.4), (9, 0.5)]
    for spec, (epoch, score) in zip(trials(space, journal, Sampler(space)), scores, strict=False):
        finish(journal, spec, epoch, {METRIC: score})
    return journal


def score_selection(space, journal, values: dict[str, float]) -> None:
    for spec in whole_selection(space, journal):
        finish(journal, spec, 9, {METRIC: values[spec.arm] + 0.01 * spec.folds[0]})


def test_only_full_length_trials_are_candidates_and_the_start_is_always_scored_beside_them(space, journal):
    assert candidates(space, journal) == ["trial-0003", "trial-0005", START]
    specs = whole_selection(space, journal)
    assert {spec.arm for spec in specs} == {"trial-0003", "trial-0005", START}
    assert {(spec.arm, spec.folds) for spec in specs} == {
        (arm, (fold,)) for arm in ("trial-0003", "trial-0005", START) for fold in (1, 2)
    }
    assert len({spec.seed for spec in specs}) == 1
    assert specs[0].seed != journal.stage("search")[0].spec.seed


def test_selection_overrules_a_lucky_winner(space, journal):
    score_selection(space, journal, {"trial-0003": 0.35, "trial-0005": 0.45, START: 0.2})
    assert select(results_of(space, journal, ended=False)) == "trial-0005"


def test_an_arm_with_a_failed_selection_run_is_not_chosen(space, journal):
    for spec in whole_selection(space, journal):
        if spec.arm == "trial-0005" and spec.folds == (2,):
            journal.asked(spec)
            journal.ended(spec.key, "failed", "non_finite")
        else:
            finish(journal, spec, 9, {METRIC: {"trial-0003": 0.35, "trial-0005": 0.9, START: 0.2}[spec.arm]})
    assert select(results_of(space, journal, ended=False)) == "trial-0003"


def test_what_has_ended_is_not_asked_for_again(space, journal):
    first = whole_selection(space, journal)[0]
    finish(journal, first, 9, {METRIC: 0.5})
    assert first.key not in {spec.key for spec in whole_selection(space, journal)}
    assert next(trials(space, journal, Sampler(space)), None) is None


def test_the_outcome_holds_paired_differences_with_their_t_interval(space, journal):
    score_selection(space, journal, {"trial-0003": 0.5, "trial-0005": 0.4, START: 0.2})
    journal.decided("chosen", select(results_of(space, journal, ended=False)))
    rng = np.random.default_rng(0)
    ours, start = {}, {}
    for spec in confirmation_specs(space, journal, "trial-0003", 4):
        luck = 0.05 * spec.seed_index  # shared by both arms of a seed
        score = luck + (0.5 if spec.arm == "trial-0003" else 0.4) + 0.01 * rng.random()
        (ours if spec.arm == "trial-0003" else start)[spec.seed_index] = score
        names = ["recall_at_1", "recall_at_2", "recall_at_4", "recall_at_8", "map_at_r"]
        finish(journal, spec, 9, {f"test/{name}": score for name in names} | {f"floor/{name}": 0.1 for name in names})
    result = results_of(space, journal, ended=True)
    last = result.confirmed[-1]
    pairs = np.array([[ours[seed], start[seed]] for seed in range(4)])
    test = stats.ttest_rel(pairs[:, 0], pairs[:, 1])
    low, high = test.confidence_interval(0.95)
    assert last.metric == "test/map_at_r"
    assert last.difference is not None and last.start
    assert (last.difference.interval.low, last.difference.interval.high) == pytest.approx((low, high))
    assert last.chosen_interval.mean == pytest.approx(pairs[:, 0].mean())
    assert (
        last.difference.interval.half_width < last.chosen_interval.half_width / 3
    )  # pairing takes the luck of the seed out
    assert last.untrained == pytest.approx(0.1)
    page = sweep_note(result)
    assert f"{100 * last.difference.interval.mean:.2f} ± {100 * last.difference.interval.half_width:.2f}" in page
    assert "| loss.k | 4 |" in page


def test_the_best_file_is_the_chosen_configuration(space, journal, tmp_path):
    score_selection(space, journal, {"trial-0003": 0.5, "trial-0005": 0.4, START: 0.2})
    journal.decided("chosen", "trial-0003")
    path = tmp_path / "best.yaml"
    path.write_text(best_file(space, journal, journal.decisions.chosen))
    point = journal.runs["trial-0003"].spec.point
    assert load_trial_file(path).trial.hash() == resolve_trial(space, point).hash()
    assert yaml.safe_load(path.read_text())["name"] == "quick-best"


def test_what_a_run_reports_after_its_end_is_ignored(space, journal):
    recorder = silent_recorder(journal, METRIC)
    before = journal.events
    recorder.report("trial-0003", TrialReport(12, {METRIC: 0.99}))
    recorder.report("trial-0003", TrialFailure(12, "error", "CUDA error"))
    assert journal.events == before and journal.runs["trial-0003"].last(METRIC) == 0.6


def test_a_machine_whose_gpu_cannot_be_used_stops_the_sweep_not_the_run(space, journal):
    spec = whole_selection(space, journal)[0]
    journal.asked(spec)
    recorder = silent_recorder(journal, METRIC)
    recorder.report(spec.key, TrialFailure(0, "no_gpu", "Ray counts a GPU on node-7"))
    assert recorder.stop.resumable and "node-7" in recorder.stop.message
    assert journal.runs[spec.key].state == "running"


@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU can be used")
def test_a_run_that_was_given_a_gpu_never_computes_on_the_cpu_instead(monkeypatch):
    monkeypatch.delenv("CTXTUNE_LOGICAL_GPUS")
    assert run_device(0) == "cpu"
    with pytest.raises(RunFailed, match=r"PyTorch .* can use none there") as failed:
        run_device(0.5)
    assert failed.value.reason == "no_gpu"


def test_several_objectives_leave_a_pareto_front_and_its_best_by_the_first_is_chosen(tmp_path):
    objectives = [{"metric": METRIC, "mode": "max"}, {"metric": "time/seconds", "mode": "min"}]
    space = space_of(trials=8, objective=objectives, sampler={"name": "nsga-ii"}, scheduler={"name": "none"})
    tree = space.model_dump(mode="json") | {"select": None, "confirm": None}
    space = type(space).model_validate(tree)
    journal = Journal(tmp_path / "journal.jsonl")
    rng = np.random.default_rng(3)
    scores, seconds = rng.random(8), rng.random(8)
    scores[5], seconds[5] = scores[2], seconds[2]  # equals: neither beats the other
    for number, spec in enumerate(trials(space, journal, Sampler(space))):
        finish(journal, spec, 9, {METRIC: scores[number], "time/seconds": seconds[number]})
    beaten = {
        one
        for one in range(8)
        for other in range(8)
        if scores[other] >= scores[one]
        and seconds[other] <= seconds[one]
        and (scores[other], seconds[other]) != (scores[one], seconds[one])
    }
    assert 0 < len(beaten) < 8
    front = {run.key for run in pareto_front(journal.stage("search"), space.search.objective.all)}
    assert front == {f"trial-{number:04d}" for number in set(range(8)) - beaten}
    assert set(candidates(space, journal)) <= front | {START}
    chosen = select(results_of(space, journal, ended=False))
    assert journal.runs[chosen].last(METRIC) == max(scores)
    journal.decided("chosen", chosen)
    result = results_of(space, journal, ended=True)
    expected = sorted(sorted(front), key=lambda key: -journal.runs[key].last(METRIC))
    assert [run.key for run in result.front] == expected
    best = result.front[0]
    assert result.objective_values(best) == {
        METRIC: max(scores),
        "time/seconds": journal.runs[chosen].last("time/seconds"),
    }
    console = Console(record=True, width=120, file=io.StringIO())
    print_results(console, result, {})
    text = console.export_text()
    assert "Pareto front" in text and all(key in text for key in front)
    page = sweep_note(result)
    assert "Pareto front" in page and all(f"| {key} |" in page for key in front)


def test_an_objective_can_be_a_number_of_the_configuration(tmp_path):
    objectives = [{"metric": METRIC}, {"metric": "model.embedding_dim", "mode": "min"}]
    space = space_of(
        trials=3, objective=objectives, scheduler={"name": "none"}, sampler={"name": "grid"}, constraints=[],
        space={"model.embedding_dim": {"choice": [16, 32, 64]}}, start_from=[],
    )  # fmt: skip
    journal = Journal(tmp_path / "journal.jsonl")
    for spec in trials(space, journal, Sampler(space)):
        finish(journal, spec, 9, {METRIC: 0.5 if spec.trial.model.embedding_dim > 16 else 0.4})
    front = [
        run.spec.trial.model.embedding_dim for run in pareto_front(journal.stage("search"), space.search.objective.all)
    ]
    assert sorted(front) == [16, 32]  # 64 scores no better than 32


def test_the_summary_is_json_for_every_reader(space, tmp_path):
    folder = sweep_folder(tmp_path, space, resume=False)
    folder.write_summary({"interval": [0.1, float("nan")], "arms": {"start": float("inf"), "chosen": np.float64(0.5)}})
    text = (folder.path / "summary.json").read_text()
    found = json.loads(text, parse_constant=pytest.fail)
    assert found == {"format": 1, "interval": [0.1, None], "arms": {"start": None, "chosen": 0.5}}
