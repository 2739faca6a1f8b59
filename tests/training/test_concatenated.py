"""Models of several folds, scored on the test classes together: by brute force, and through what a sweep's run does."""

import json
import sys

import numpy as np
import pytest
import torch

from ctxtune import evaluate
from ctxtune.data import EvaluationImages, load_dataset
from ctxtune.training import fold_test_splits, save_checkpoint
from ctxtune.training.splits import RunSplits
from ctxtune.training.trainer import Trainer
from ctxtune.tuning.record.run_spec import RunSpec
from ctxtune.tuning.run_trainer import open_trainer
from tests.helpers.training import TRIAL, VALIDATION, few_classes, run_of, trial_of

SHORT = trial_of(schedule__epochs=1, evaluation__every=1)


def brute_force(unit: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Recall@1 and MAP@R over whole sorted rankings."""
    recalls, precisions = [], []
    for query, similarities in enumerate(unit @ unit.T):
        order = np.delete(
            np.argsort(-similarities, kind="stable"), np.flatnonzero(np.argsort(-similarities, kind="stable") == query)
        )
        right = labels[order] == labels[query]
        matches = int(right.sum())
        at = np.arange(1, matches + 1)
        precisions.append(float((right[:matches] * np.cumsum(right[:matches]) / at).sum() / matches))
        recalls.append(float(right[0]))
    return float(np.mean(recalls)), float(np.mean(precisions))


def normalized(embeddings: np.ndarray) -> np.ndarray:
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def trained() -> tuple[Trainer, dict[str, float]]:
    benchmark = load_dataset(SHORT.dataset)
    runs = []
    for fold in range(3):
        found = fold_test_splits(SHORT, VALIDATION, fold, 0, benchmark)
        splits = RunSplits(few_classes(found.fit, 40), few_classes(found.query, 12), None, "test", fold_classes=5)
        runs.append(run_of(splits, SHORT))
    reports: list[dict[str, float]] = []
    trainer = Trainer(runs, score_at="last", score_untrained=True, concatenated=True)
    trainer.run(lambda report: reports.append(report.metrics))
    return trainer, reports[-1]


def test_test_scores_are_those_of_the_concatenated_embeddings_and_separated_ones_the_mean(trained) -> None:
    trainer, metrics = trained
    query = trainer.runs[0].splits.query
    each = []
    for run in trainer.runs:
        images = next(iter(EvaluationImages(query, SHORT.images).batches(len(query))))[0]
        with torch.no_grad():
            each.append(normalized(run.scored_model.eval()(images).double().numpy()))
    recall, precision = brute_force(normalized(np.concatenate(each, axis=1)), query.labels)
    assert metrics["test/recall_at_1"] == pytest.approx(recall, abs=1e-6)
    assert metrics["test/map_at_r"] == pytest.approx(precision, abs=1e-5)
    alone = np.array([brute_force(one, query.labels) for one in each])
    assert metrics["test_separated/recall_at_1"] == pytest.approx(alone[:, 0].mean(), abs=1e-6)
    assert metrics["test_separated/map_at_r"] == pytest.approx(alone[:, 1].mean(), abs=1e-5)
    assert len(set(alone[:, 1])) == 3  # three models, not one three times
    assert 0 < metrics["floor/map_at_r"] != metrics["test/map_at_r"] and "test_subset/map_at_r" in metrics


def test_each_model_learns_from_the_other_folds_and_none_from_a_test_class() -> None:
    benchmark = load_dataset(TRIAL.dataset)
    splits = [fold_test_splits(TRIAL, VALIDATION, fold, 0, benchmark) for fold in range(VALIDATION.count)]
    seen = [set(each.fit.labels.tolist()) for each in splits]
    assert set.union(*seen) == set(benchmark.train.labels.tolist()) and not set.intersection(*seen)
    assert all(set(each.query.labels.tolist()) == set(benchmark.test.labels.tolist()) for each in splits)
    assert not set.union(*seen) & set(benchmark.test.labels.tolist())


def test_a_run_of_a_confirmation_can_be_scored_again_from_its_checkpoint(tmp_path, monkeypatch, capsys) -> None:
    spec = RunSpec(
        key="start-seed0", stage="confirmation", arm="start", point={}, trial=SHORT,
        validation=VALIDATION.model_copy(update={"folds": 2}), folds=(0, 1), concatenated=True, seed_index=0, seed=3,
    )  # fmt: skip
    trainer = open_trainer(spec, device="cpu")
    reports: list[dict[str, float]] = []
    trainer.run(lambda report: reports.append(report.metrics))
    save_checkpoint(trainer.state_dict(), tmp_path / "best.pt")
    trainer.close()
    monkeypatch.setattr(
        sys, "argv", ["evaluate", str(tmp_path / "best.pt"), "--split", "test", "--json", "--device", "cpu"]
    )
    with pytest.warns(UserWarning, match="scored by hand"):
        assert evaluate.main() == 0
    found = json.loads(capsys.readouterr().out)
    assert found["concatenated"]["map_at_r"] == pytest.approx(reports[-1]["test/map_at_r"], abs=1e-9)
    assert found["scores"]["map_at_r"] == pytest.approx(reports[-1]["test_separated/map_at_r"], abs=1e-9)
    assert [run["fold"] for run in found["runs"]] == [0, 1]
