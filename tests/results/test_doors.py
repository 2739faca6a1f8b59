"""The same runs through both doors, the journal and MLflow: results must be equal to the last digit, refusals included."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ctxtune.ablation.results import design_of
from ctxtune.ablation.results import results_of as ablation_results_of
from ctxtune.ablation.runs import cell_specs
from ctxtune.ablation.searches import Searches
from ctxtune.config import Ablation, SweepConfig, cells_of, load_ablation
from ctxtune.reporting.ablation.data import read_ablation
from ctxtune.reporting.study import read_study
from ctxtune.reporting.sweep.data import read_sweep
from ctxtune.results.ablation import AblationResults
from ctxtune.results.costs import hours_of, spent
from ctxtune.results.summary import ablation_summary
from ctxtune.results.sweep import SweepResults, select
from ctxtune.results.wording import confirmation_sentence, contrast_sentences, lost_sentences, seeds_words
from ctxtune.tracking import Tracker, replay
from ctxtune.tuning.record.journal import Journal
from ctxtune.tuning.record.recorder import Recorder
from ctxtune.tuning.record.run_spec import RunSpec
from ctxtune.tuning.record.trial_report import TrialFailure, TrialReport
from ctxtune.tuning.search.sampler import Sampler
from ctxtune.tuning.stages import START, confirmation_specs
from ctxtune.tuning.sweep_results import results_of as sweep_results_of
from tests.helpers.runs import cell_trials, trials, whole_selection
from tests.helpers.search_spaces import space_of
from tests.helpers.tracking import new_store


class Recording:
    """Runs that a recorder writes to a journal and, through the spool, to MLflow."""

    def __init__(self, folder: Path, name: str, kind: str, files: dict[str, str]) -> None:
        self.uri, self.name, self.spool = new_store(folder), name, folder / "spool"
        self.tracker = Tracker(self.uri, name, self.spool, deliver=False)
        self.journal = Journal(folder / "journal.jsonl")
        self.recorder = Recorder(self.journal, self.tracker, metric="validation/map_at_r", sweep_id="s")
        self.tracker.start_run("s", name=name, kind=kind)
        for file, text in files.items():
            self.tracker.log_text("s", text, file)

    def run(self, spec: RunSpec, scores: dict[str, float], *, epochs: int | None = None, fails: bool = False) -> None:
        """A run with its last scores; it is stopped after ``epochs``, or fails after the first."""
        self.recorder.start(spec)
        full = spec.trial.schedule.epochs
        for epoch in (1, epochs or full):
            values = {name: value * epoch / full for name, value in scores.items()}
            metrics = {**values, "time/seconds": 30.0 * epoch, "cost/gpu_hours": 0.01 * epoch}
            self.recorder.report(spec.key, TrialReport(epoch, metrics))
            if fails:
                self.recorder.report(spec.key, TrialFailure(1, "not_finite", "the loss is not finite\nat step 7"))
                return
        self.recorder.finish(spec.key)

    def close(self, *, ended: bool) -> None:
        if ended:
            self.tracker.end_run("s", "completed")
        self.tracker.close(timeout=0)
        replay(self.spool)


def record_sweep(
    folder: Path, space: SweepConfig, *, seeds: int, lost: Iterable[str] = (), ended: bool
) -> list[SweepResults]:
    """A sweep whose confirmation came as far as ``seeds``: from its journal, and from MLflow."""
    tree = space.model_dump(mode="json")
    recording = Recording(folder, space.name, "sweep", {"space.yaml": yaml.safe_dump(tree, sort_keys=False)})
    generator, journal = np.random.default_rng(0), recording.journal
    metric = space.search.objective.metric
    for number, spec in enumerate(trials(space, journal, Sampler(space))):
        score = {
            metric: float(generator.uniform(0.3, 0.5)),
            "validation/recall_at_1": float(generator.uniform(0.5, 0.8)),
        }
        recording.run(spec, score, epochs=3 if number == 4 else None, fails=number == 2)
    found = select(sweep_results_of(space, journal, ended=False))
    assert found is not None
    for spec in whole_selection(space, journal):
        recording.run(spec, {metric: float(generator.uniform(0.3, 0.5))}, fails=spec.key in lost)
    chosen = select(sweep_results_of(space, journal, ended=False))
    assert chosen is not None
    journal.decided("chosen", chosen)
    for spec in confirmation_specs(space, journal, chosen, space.confirm.seeds):
        gain = 0.0 if spec.arm == START else 0.03
        scores = {
            f"test/{name}": 0.4 + gain + float(generator.normal(0, 0.002)) for name in ("map_at_r", "recall_at_1")
        }
        if spec.seed_index < seeds:
            untrained = {"floor/map_at_r": 0.02, "floor/recall_at_1": 0.1}
            recording.run(spec, {**scores, **untrained}, fails=spec.key in lost)
    recording.close(ended=ended)
    return [sweep_results_of(space, journal, ended=ended), read_sweep(read_study(recording.uri, space.name)).results]


def told(results: SweepResults) -> dict[str, Any]:
    """All that terminal, summary, MLflow and report say of a sweep."""
    paths = list(results.design.search.space)
    start = results.start_trial
    return {
        "design": results.design,
        "trials": [(run.key, run.state, run.reason, run.epoch) for run in results.trials],
        "ranking": [(run.key, [run.setting(path) for path in paths]) for run in results.ranking],
        "front": [run.key for run in results.front],
        "start": start and [start.key, *(start.setting(path) for path in paths)],
        "selected": select(results),
        "chosen": (results.chosen, results.same),
        "selection": results.selection,
        "confirmed": [
            (
                each.metric,
                each.chosen,
                each.start,
                each.untrained,
                each.judged,
                each.verdict,
                each.words,
                seeds_words(each),
            )
            for each in results.confirmed
        ],
        "differences": [each.difference and each.difference.interval for each in results.confirmed],
        "lost": list(lost_sentences(results.lost)),
        "verdict": confirmation_sentence(results),
        "epochs": results.epochs,
        "cost": (hours_of(results.runs), spent(results.runs)),
    }


def small_space(**search: Any) -> SweepConfig:
    tree = space_of(trials=6, **search).model_dump(mode="json")
    tree |= {"select": {"top": 2, "folds": [1, 2], "seeds": 1}, "confirm": {"seeds": 3}}
    return SweepConfig.model_validate(tree)


@pytest.mark.parametrize(
    ("options", "search"),
    [
        pytest.param({"seeds": 3, "ended": True}, {}, marks=pytest.mark.slow),  # "lost" has all of it, and gaps
        ({"seeds": 2, "ended": False}, {}),
        ({"seeds": 3, "ended": True, "lost": ["confirmation-start-seed1", "selection-start-fold1-seed0"]}, {}),
        (
            {"seeds": 3, "ended": True},
            {
                "objective": [
                    {"metric": "validation/map_at_r", "mode": "max"},
                    {"metric": "loss.k", "mode": "min"},
                ],
                "scheduler": {"name": "none"},
            },
        ),
    ],
    ids=["ended", "interim", "lost", "several objectives"],
)
def test_sweeps(tmp_path: Path, options: dict[str, Any], search: dict[str, Any]) -> None:
    journal, mlflow = record_sweep(tmp_path, small_space(**search), **options)
    assert told(journal) == told(mlflow)
    found = told(journal)
    if options["ended"]:
        assert found["confirmed"] and "interim" not in found["verdict"]
    else:
        judged = journal.judged
        assert judged is not None and judged.verdict is None and "interim: 2 of 3" in found["verdict"]
    assert bool(found["lost"]) == bool(options.get("lost"))


def record_ablation(
    folder: Path, ablation: Ablation, *, seeds: int, lost: Iterable[tuple[str, int]] = (), ended: bool
) -> list[AblationResults]:
    """An ablation that came as far as ``seeds``: from its journal, and from MLflow."""
    files = {"design.json": design_of(ablation).model_dump_json(indent=2)}
    recording = Recording(folder, ablation.name, "ablation", files)
    generator, journal = np.random.default_rng(0), recording.journal
    metric = ablation.compare.metric
    cells = cells_of(ablation)
    if ablation.tune_each:
        for spec in cell_trials(ablation, journal, Searches(ablation, cells)):
            recording.run(spec, {metric: float(generator.uniform(0.3, 0.5))})
    for spec in list(cell_specs(ablation, cells, journal)):
        if spec.seed_index >= seeds and spec.arm != cells[0].name:
            continue
        score = 0.4 + 0.05 * (spec.arm == cells[1].name) + float(generator.normal(0, 0.01))
        scores = {metric: score, "validation/recall_at_1": score + 0.1}
        recording.run(spec, scores, fails=(spec.arm, spec.seed_index) in lost)
    recording.close(ended=ended)
    return [
        ablation_results_of(ablation, journal, ended=ended),
        read_ablation(read_study(recording.uri, ablation.name)).results,
    ]


def told_of_ablation(results: AblationResults) -> dict[str, Any]:
    """All that terminal, summary, MLflow and report say of an ablation."""
    return {
        "design": results.design,
        "summary": ablation_summary(results),
        "recall": {cell: results.scores(cell, "validation/recall_at_1") for cell in results.cells},
        "contrasts": [
            (each.contrast, each.difference and each.difference.interval, each.verdict, each.words, each.condition)
            for each in results.contrasts
        ],
        "sentences": [*contrast_sentences(results), *lost_sentences(results.lost)],
        "states": (results.states, results.expected_runs),
        "cost": spent(results.runs),
    }


TUNED = "tune_each={trials: 3, repeats: 2, sampler: random, space: {optimizer.lr: {loguniform: [1.0e-4, 1.0e-2]}}}"


@pytest.mark.parametrize(
    ("overrides", "options"),
    [
        (["seeds=3", "validation.use=[0, 2]"], {"seeds": 3, "ended": True}),
        (["seeds=3"], {"seeds": 2, "ended": False}),
        (["seeds=3"], {"seeds": 3, "ended": True, "lost": [("full", 1)]}),
        (["seeds=2", TUNED], {"seeds": 2, "ended": True}),
    ],
    ids=["folds", "interim", "lost", "tuned and repeated"],
)
def test_ablations(repository: Path, tmp_path: Path, overrides: list[str], options: dict[str, Any]) -> None:
    ablation = load_ablation(repository / "ablations/quickstart.yaml", overrides)
    journal, mlflow = record_ablation(tmp_path, ablation, **options)
    assert told_of_ablation(journal) == told_of_ablation(mlflow)
    words = {each.words for each in journal.contrasts}
    assert ("interim: 2 of 3" in words) == (not options["ended"])
    assert bool(journal.lost) == bool(options.get("lost"))
    assert all(bool(journal.tuned_values(cell, 1)) == (TUNED in overrides) for cell in journal.cells)
