"""The list of runs, the searches of the cells, what a journal comes to, and which files a run opens."""

import sys
from itertools import product

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from ctxtune.ablate import main
from ctxtune.ablation.display import print_results
from ctxtune.ablation.results import design_of, results_of
from ctxtune.ablation.runs import cell_specs, run_count, tuned_configuration
from ctxtune.ablation.searches import Searches
from ctxtune.config import cells_of, load_ablation
from ctxtune.errors import ConfigError
from ctxtune.results.costs import hours_of
from ctxtune.results.summary import ablation_summary
from ctxtune.tuning.record.journal import Journal
from ctxtune.tuning.record.trial_report import TrialReport
from ctxtune.tuning.run_trainer import open_trainer
from tests.helpers import trees
from tests.helpers.ablations import SMALL, ablation_command
from tests.helpers.processes import run_here
from tests.helpers.runs import cell_trials

TUNED = [
    "tune_each={trials: 4, repeats: 2, sampler: random, space: {optimizer.lr: {loguniform: [1.0e-4, 1.0e-2]}}}",
    "seeds=3",
]


@pytest.fixture
def quickstart(repository):
    return lambda *overrides: load_ablation(repository / "ablations/quickstart.yaml", overrides)


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "journal.jsonl")


def play(ablation, journal, specs, score, *, searches=None, stop_after=10**9):
    """Do what engine and recorder do with runs, without training: each ends with the score that a function gives."""
    metric = ablation.compare.scored_metric(confirmatory=ablation.confirmatory and not ablation.tune_each)
    for number, spec in enumerate(specs):
        if spec.key not in journal.runs:
            journal.asked(spec)
        if number >= stop_after:
            return
        metrics = {metric: score(spec), "time/seconds": 36.0}
        journal.reported(spec.key, TrialReport(spec.trial.schedule.epochs, metrics))
        journal.ended(spec.key, "completed")
        if searches is not None:
            searches.report(spec.key, 4, metrics[metric])
            searches.tell(spec.key, "completed", metrics[metric])


def by_learning_rate(spec):
    return 1.0 - abs(np.log10(spec.trial.optimizer.lr) + 2.5) + 0.001 * spec.seed_index


def test_every_cell_has_the_same_trials_and_runs(quickstart, journal):
    ablation = quickstart(*TUNED)
    cells = cells_of(ablation)
    play(ablation, journal, cell_trials(ablation, journal, Searches(ablation, cells)), by_learning_rate)
    play(ablation, journal, cell_specs(ablation, cells, journal), by_learning_rate)
    assert run_count(ablation, len(cells)) == (3 * 2 * 4, 3 * 2 * 3)
    assert (len(journal.stage("cell_search")), len(journal.stage("cell"))) == (24, 18)
    for cell in cells:
        points = {}
        for run in journal.stage("cell_search"):
            if run.spec.arm == cell.name:
                points.setdefault(run.spec.tags["repeat"], []).append(run.spec.point["optimizer.lr"])
        if cell is cells[0]:
            first = points
        assert points == first  # one space, one sampler seed: the same points in every cell
        assert points["0"][0] == points["1"][0] == pytest.approx(2e-3)
        assert points["0"][1:] != points["1"][1:]
        for repeat in range(2):
            found = tuned_configuration(ablation, cell, repeat, journal)
            best = min(points[str(repeat)], key=lambda rate: abs(np.log10(rate) + 2.5))
            assert found is not None and found[1].optimizer.lr == pytest.approx(best)
    seeds = {(run.spec.tags["repeat"], run.spec.seed_index): run.spec.seed for run in journal.stage("cell")}
    assert len(set(seeds.values())) == len(seeds) == 6
    assert not set(seeds.values()) & {run.spec.seed for run in journal.stage("cell_search")}


def test_an_interrupted_search_goes_on_with_the_points_that_it_would_have_had(quickstart, tmp_path):
    ablation = quickstart(*TUNED, "tune_each.sampler=tpe", "tune_each.startup_trials=1")
    cells = cells_of(ablation)
    whole, broken = Journal(tmp_path / "whole.jsonl"), Journal(tmp_path / "broken.jsonl")
    for journal, stop_after in ((whole, 10**9), (broken, 13)):
        searches = Searches(ablation, cells)
        specs = cell_trials(ablation, journal, searches)
        play(ablation, journal, specs, by_learning_rate, searches=searches, stop_after=stop_after)
    broken.close()
    again, searches = Journal(tmp_path / "broken.jsonl"), Searches(ablation, cells)
    searches.replay(again.stage("cell_search"))
    assert [run.state for run in again.runs.values()].count("running") == 1
    play(ablation, again, cell_trials(ablation, again, searches), by_learning_rate, searches=searches)
    assert {key: run.spec.point for key, run in again.runs.items()} == {
        key: run.spec.point for key, run in whole.runs.items()
    }


def test_a_cell_whose_search_failed_has_no_runs(quickstart, journal):
    ablation = quickstart(*TUNED)
    cells = cells_of(ablation)
    for spec in cell_trials(ablation, journal, Searches(ablation, cells)):
        journal.asked(spec)
        if spec.arm == "contrastive_only":
            journal.ended(spec.key, "failed", "not_finite")
        else:
            journal.reported(spec.key, TrialReport(4, {"validation/map_at_r": 0.5}))
            journal.ended(spec.key, "completed")
    play(ablation, journal, cell_specs(ablation, cells, journal), lambda spec: 0.5)
    assert {run.spec.arm for run in journal.stage("cell")} == {"full", "no_query_expansion"}
    assert results_of(ablation, journal, ended=True).scores("contrastive_only") == {}


def test_scores_are_means_over_folds_and_contrasts_are_paired_by_seed(quickstart, journal):
    ablation = quickstart("seeds=4", "validation.use=[0, 2]")
    cells = cells_of(ablation)
    generator = np.random.default_rng(0)
    drawn = {key: generator.normal() for key in product([cell.name for cell in cells], range(4), (0, 2))}
    play(
        ablation,
        journal,
        cell_specs(ablation, cells, journal),
        lambda spec: drawn[spec.arm, spec.seed_index, spec.folds[0]],
    )
    result = results_of(ablation, journal, ended=True)
    means = {
        cell.name: [(drawn[cell.name, seed, 0] + drawn[cell.name, seed, 2]) / 2 for seed in range(4)] for cell in cells
    }
    p_values = []
    for each in result.contrasts:
        test = stats.ttest_rel(means[each.contrast.cell], means[each.contrast.against])
        p_values.append(test.pvalue)
        interval = test.confidence_interval()
        assert (each.difference.interval.low, each.difference.interval.high) == pytest.approx(
            (interval.low, interval.high)
        )
    smallest, largest = sorted(p_values)
    corrected = sorted(each.verdict.corrected_p for each in result.contrasts)
    assert corrected == pytest.approx([min(1, 2 * smallest), min(1, max(2 * smallest, largest))])
    assert ablation_summary(result)["cells"]["full"]["mean"] == pytest.approx(np.mean(means["full"]))
    assert hours_of(result.runs) == pytest.approx(3 * 4 * 2 * 36 / 3600)
    assert design_of(ablation).tuned_for == "full"
    assert design_of(ablation).folds == ["0", "2"]
    assert {run.spec.tags["fold"] for run in journal.stage("cell")} == {"0", "2"}
    assert design_of(quickstart("confirmatory=true")).folds == [""]


def test_a_contrast_without_pairs_counts_in_the_correction(quickstart, journal):
    ablation = quickstart("seeds=4")
    cells = cells_of(ablation)
    specs = [spec for spec in cell_specs(ablation, cells, journal) if spec.arm != "contrastive_only"]
    ours, start = [0.51, 0.52, 0.55, 0.53], [0.50, 0.50, 0.51, 0.51]
    play(ablation, journal, specs, lambda spec: (start if spec.arm == "full" else ours)[spec.seed_index])
    result = results_of(ablation, journal, ended=True)
    verdicts = {each.contrast.cell: each.verdict for each in result.contrasts}
    assert verdicts["contrastive_only"] is None
    p_value = stats.ttest_rel(ours, start).pvalue
    assert p_value < 0.05 < 2 * p_value  # alone it would be "better"
    assert verdicts["no_query_expansion"].judgment == "inconclusive"
    shown = {each["cell"]: each["corrected_p"] for each in ablation_summary(result)["contrasts"]}
    assert shown == {"no_query_expansion": pytest.approx(2 * p_value), "contrastive_only": None}


def test_with_repeats_a_repeat_is_one_witness_however_many_seeds_it_has(quickstart, journal):
    ablation = quickstart(*TUNED, "tune_each.repeats=3")
    cells = cells_of(ablation)
    generator = np.random.default_rng(1)
    drawn = {key: generator.normal() for key in product([cell.name for cell in cells], "012", range(3))}
    searches = Searches(ablation, cells)
    play(ablation, journal, cell_trials(ablation, journal, searches), by_learning_rate)
    play(
        ablation,
        journal,
        cell_specs(ablation, cells, journal),
        lambda spec: drawn[spec.arm, spec.tags["repeat"], spec.seed_index],
    )
    result = results_of(ablation, journal, ended=True)
    means = {
        cell.name: [np.mean([drawn[cell.name, repeat, seed] for seed in range(3)]) for repeat in "012"]
        for cell in cells
    }
    for each in result.contrasts:
        interval = stats.ttest_rel(means[each.contrast.cell], means[each.contrast.against]).confidence_interval()
        assert (each.difference.interval.low, each.difference.interval.high) == pytest.approx(
            (interval.low, interval.high)
        )
        assert each.difference.count == 3
    assert len(ablation_summary(result)["cells"]["full"]["scores"]) == 9


def opened_files(action):
    """The files that are opened for reading while an action runs, in this process."""
    opened: list[str] = []
    active = [True]

    def listen(event, arguments):
        if active[0] and event == "open" and isinstance(arguments[0], str):
            opened.append(arguments[0])

    sys.addaudithook(listen)
    try:
        action()
    finally:
        active[0] = False
    return opened


@pytest.mark.parametrize("confirmatory", [False, True])
def test_test_images_are_opened_by_confirmatory_cells_only_and_scored_once(repository, tmp_path, journal, confirmatory):
    trees.class_folders(tmp_path / "data", {"train": 12, "test": 6}, images=4)
    file = tmp_path / "ablation.yaml"
    file.write_text(
        f"""
name: small
confirmatory: {str(confirmatory).lower()}
trial:
  dataset: {{name: class_folders, root: {tmp_path / "data"}}}
  model: {{backbone: small_conv, width: 8, embedding_dim: 8}}
  sampler: {{images_per_class: 2, batch_size: 8, batches_per_epoch: 2}}
  image: {{train_crop: 16, test_resize: 16, test_crop: 16, workers: 0}}
  schedule: {{name: constant, epochs: 2}}
  evaluation: {{every: 1, recall_at: [1]}}
variants: {{full: {{}}, contrastive: {{loss.name: contrastive}}}}
"""
    )
    ablation = load_ablation(file)
    spec = next(cell_specs(ablation, cells_of(ablation), journal))
    reports = []

    def train():
        trainer = open_trainer(spec, device="cpu", cache_dir=tmp_path / "cache")
        trainer.run(reports.append)
        trainer.close()

    opened = [path for path in opened_files(train) if path.endswith(".jpg")]
    assert any("/train/" in path for path in opened)
    assert any("/test/" in path for path in opened) == confirmatory == spec.scores_test
    scored = [[name for name in report.metrics if name.startswith("test/")] for report in reports]
    assert [bool(each) for each in scored] == [False, confirmatory]
    last = reports[-1]
    prefix = "test" if confirmatory else "validation"
    sums = last.by_class[f"{prefix}/recall_at_1"]
    assert len(sums) == (6 if confirmatory else 3) and reports[0].by_class is None
    assert sum(total for total, _ in sums.values()) / sum(count for _, count in sums.values()) == pytest.approx(
        last.metrics[f"{prefix}/recall_at_1"]
    )


def test_a_component_that_cannot_be_weighted_is_an_error_of_its_arm(quickstart):
    with pytest.raises(ConfigError, match="arm heavy cannot be run: contrastive_weight"):
        quickstart("variants.heavy={loss.contextual_weight: 0.95, loss.contrastive_weight: remainder}")


@pytest.mark.parametrize("width", [80, 100])
def test_the_table_of_cells_cuts_no_word_in_a_terminal(quickstart, journal, capsys, width):
    ablation = quickstart("variants.no_query_expansion=null", "variants.another_k_for_all={loss.k: 6}")
    cells = cells_of(ablation)
    gains = {"full": (0.0, 0.0, 0.0), "contrastive_only": (-0.1, -0.2, 0.0), cells[-1].name: (0.01, 0.03, 0.005)}
    play(ablation, journal, cell_specs(ablation, cells, journal), lambda spec: 0.4 + gains[spec.arm][spec.seed_index])
    found = results_of(ablation, journal, ended=True)
    print_results(Console(width=width), found, {})
    printed = capsys.readouterr().out
    table = printed.partition("Nothing was tuned")[0]
    assert all(len(line) <= width for line in table.splitlines())
    verdicts = [each.verdict.words for each in found.contrasts]
    assert any(words.startswith("inconclusive: between") for words in verdicts)
    for words in [*verdicts, *(cell.name for cell in cells)]:
        assert set(words.split()) <= set(table.split())


def test_the_design_tells_what_each_cell_changes_in_the_trial_and_nothing_else(quickstart):
    factors = "factors={loss.k: [4, 2], loss.epsilon: [0.2, 0.1], loss.query_expansion: [true, false]}"
    ablation = quickstart("variants=null", "reference=null", "design=one_factor_at_a_time", factors)
    assert (ablation.trial.loss.options()["k"], ablation.trial.loss.options()["epsilon"]) == (4, 0.05)
    assert {cell.cell: cell.settings for cell in design_of(ablation).cells} == {
        "base": {"loss.epsilon": 0.2},
        "k=2": {"loss.k": 2, "loss.epsilon": 0.2},
        "epsilon=0.1": {"loss.epsilon": 0.1},
        "query_expansion=false": {"loss.epsilon": 0.2, "loss.query_expansion": False},
    }
    other_loss = quickstart("variants.other={loss.name: contrastive, loss.positive_margin: 0.75}")
    assert design_of(other_loss).cells[-1].settings == {"loss.name": "contrastive", "loss.positive_margin": 0.75}


def test_weights_that_only_one_cell_needs_are_looked_for_before_anything_starts(repository, tmp_path):
    dropped = ("trial.model.", "variants.", "tune_each")
    overrides = [text for text in SMALL if not text.startswith(dropped)] + [
        "trial.model={backbone: timm/test_vit, weights: null, width: null, pooling: model}",
        "trial.regularizer.weight=0.1",
        "tune_each=null",
        "variants={full: {}, pretrained: {model.weights: pretrained}}",
    ]
    done = run_here(main, tmp_path, *ablation_command(repository, overrides=overrides)[3:])  # tests have no network
    assert done.returncode == 2
    assert "the pretrained weights of timm/test_vit could not be had" in done.stderr
    assert not list((tmp_path / "results").glob("*/journal.jsonl"))


def test_repeats_take_turns_in_folds_and_splits_and_all_cells_alike(quickstart, journal):
    ablation = quickstart(*TUNED, "tune_each.repeats=4", "tune_each.folds=rotate", "tune_each.splits=2")
    cells = cells_of(ablation)
    play(ablation, journal, cell_trials(ablation, journal, Searches(ablation, cells)), by_learning_rate)
    play(ablation, journal, cell_specs(ablation, cells, journal), by_learning_rate)
    for stage in ("cell_search", "cell"):
        found = {(run.spec.tags["repeat"], run.spec.validation.seed, run.spec.folds) for run in journal.stage(stage)}
        tuned_on = [(1,), (2,), (3,), (1,)] if stage == "cell_search" else [(0,)] * 4
        assert found == {(str(repeat), repeat % 2, tuned_on[repeat]) for repeat in range(4)}
    design = design_of(ablation)
    assert (design.splits, design.rotated) == (2, ["1", "2", "3"])
    confirmatory = quickstart(*TUNED, "tune_each.folds=rotate", "confirmatory=true")
    assert design_of(confirmatory).rotated == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["tune_each.folds=rotate", "tune_each.repeats=1"],
            "each repeat tunes on another fold, and there is one repeat",
        ),
        (["tune_each.folds=rotate", "validation.use=[0, 1, 2]"], "fold 3 is the only one to tune on beside"),
        (["tune_each.splits=3"], "2 repeats cannot have 3 splits in turn; write repeats: 3 or more"),
        (["tune_each.folds=turn"], "tune_each.folds"),
    ],
)
def test_turns_that_cannot_be_taken_are_refused(quickstart, overrides, said):
    with pytest.raises(ConfigError, match=said):
        quickstart(*TUNED, *overrides)
