"""Scores on random test subsets of a fold's size."""

import dataclasses

import numpy as np
import pytest
import torch

from ctxtune.config import TrialSettings
from ctxtune.data import Split, ValidationSettings, load_dataset
from ctxtune.retrieval import score
from ctxtune.training import FoldTrainer, confirmation_splits, fold_splits
from ctxtune.training.subsets import SUBSETS, subset_scores
from ctxtune.training.trainer import Trainer

TRIAL = TrialSettings.model_validate(
    {
        "dataset": {"name": "glyphs", "image_size": 32},
        "model": {"backbone": "small_conv", "width": 8, "embedding_dim": 16, "layer_norm": True},
        "loss": {"name": "contextual"},
        "sampler": {"batch_size": 32, "batches_per_epoch": 2},
        "schedule": {"name": "cosine", "epochs": 1},
        "image": {"train_crop": 32, "min_scale": 0.6, "flip": False, "test_resize": None, "test_crop": None},
    }
)


def embedded(classes: int, each: int, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    generator = np.random.default_rng(seed)
    centers = generator.normal(size=(classes, 8))
    labels = np.repeat(np.arange(classes), each)
    return torch.from_numpy((centers[labels] + generator.normal(0, 1.2, (len(labels), 8))).astype(np.float32)), labels


def test_smaller_galleries_are_easier_and_every_run_has_the_same_subsets() -> None:
    embeddings, labels = embedded(40, 6)
    whole = score(embeddings, labels, recall_at=(1, 2))
    found = subset_scores([(embeddings, labels)], 10, (1, 2))
    assert len(found) == SUBSETS
    assert {scores.queries for scores in found} == {60}
    assert np.mean([scores.map_at_r for scores in found]) > whole.map_at_r + 0.05
    assert subset_scores([(embeddings, labels)], 10, (1, 2)) == found


def test_query_and_gallery_are_retrieved_from_one_another() -> None:
    embeddings, labels = embedded(12, 6)
    even = np.arange(len(labels)) % 2 == 0
    apart = [(embeddings[torch.from_numpy(split)], labels[split]) for split in (even, ~even)]
    together = subset_scores([(embeddings, labels)], 5, (1,))
    assert [s.map_at_r for s in subset_scores(apart, 5, (1,))] == pytest.approx([s.map_at_r for s in together])


@pytest.mark.parametrize(("classes", "recall_at"), [(12, (1,)), (30, (1,)), (1, (1,)), (3, (1, 1000))])
def test_where_there_is_nothing_to_compare_there_is_nothing(classes: int, recall_at: tuple[int, ...]) -> None:
    assert subset_scores([embedded(12, 4)], classes, recall_at) == []


def test_a_confirmation_reports_them_beside_its_test_scores() -> None:
    benchmark = load_dataset(TRIAL.dataset)
    splits = confirmation_splits(TRIAL, ValidationSettings(), seed=0, benchmark=benchmark)
    fold = fold_splits(TRIAL, ValidationSettings(), 0, seed=0, benchmark=benchmark)
    assert splits.fold_classes == len(np.unique(fold.query.labels))

    def few(split: Split, classes: int) -> Split:
        return split.select(np.flatnonzero(np.isin(split.labels, np.unique(split.labels)[:classes])), split.name)

    small = dataclasses.replace(splits, fit=few(splits.fit, 40), query=few(splits.query, 30), fold_classes=10)
    reports: list[dict[str, float]] = []
    Trainer([FoldTrainer(TRIAL, small, seed=1)], score_at="last", score_untrained=True).run(
        lambda report: reports.append(report.metrics)
    )
    assert reports[-1]["test_subset/map_at_r"] > reports[-1]["test/map_at_r"]
    assert not [name for name in reports[-1] if name.startswith("floor/subset")]
    assert reports[-1]["floor/map_at_r"] == pytest.approx(FoldTrainer(TRIAL, small, seed=1).evaluate()["test/map_at_r"])
