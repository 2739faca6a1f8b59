"""Which images a run learns from and which it is scored on."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ctxtune.config.trial import TrialSettings
from ctxtune.data import Benchmark, Split, corrupt, load_dataset, split
from ctxtune.data.settings import ValidationSettings
from ctxtune.errors import ConfigError

TRAIN_PROBE_IMAGES = 2000
"""Most images that train-class Recall@1 is taken over."""


@dataclass(frozen=True)
class RunSplits:
    """The images of one run.

    Attributes:
        fit: what is learned from, label noise and the like included.
        query: what is scored; ``gallery`` None means among themselves.
        scored_as: prefix of the scores, "validation" or "test".
        image_share: images of ``fit`` against those of a search trial; a fixed ``batches_per_epoch`` grows by it.
        true_labels: the images of ``fit`` as they were labeled before label noise; None where there is none.
        fold_classes: of test classes: how many classes a validation fold has, to compare on subsets of that size.
    """

    fit: Split
    query: Split
    gallery: Split | None
    scored_as: Literal["validation", "test"]
    image_share: float = 1.0
    fold_classes: int | None = None
    true_labels: Split | None = None


def fold_splits(
    trial: TrialSettings, validation: ValidationSettings, fold: int, seed: int, benchmark: Benchmark | None = None
) -> RunSplits:
    """Train classes of one fold's complement to learn from, the fold's classes to score.

    Raises:
        ConfigError: the scheme has no such fold.
        DataError: the data set cannot be read.
    """
    benchmark = benchmark or load_dataset(trial.dataset)
    splits = split(benchmark.train, validation)
    if fold >= len(splits):
        raise ConfigError(
            f"validation.use: there is no fold {fold}; scheme {validation.scheme} has {len(splits)}, from 0"
        )
    chosen = splits[fold]
    fit, true_labels = _corrupted(chosen.fit, trial, seed)
    return RunSplits(fit, chosen.validation, None, "validation", true_labels=true_labels)


def confirmation_splits(
    trial: TrialSettings, validation: ValidationSettings, seed: int, benchmark: Benchmark | None = None
) -> RunSplits:
    """All train classes to learn from, the test classes to score, once.

    Raises:
        DataError: the data set cannot be read or has no test split.
    """
    benchmark = benchmark or load_dataset(trial.dataset)
    fold = split(benchmark.train, validation)[validation.use[0]]
    share = len(benchmark.train) / len(fold.fit)
    fold_classes = None if trial.dataset.closed_set else len(fold.validation.classes())
    fit, true_labels = _corrupted(benchmark.train, trial, seed)
    if benchmark.test is not None:
        return RunSplits(fit, benchmark.test, None, "test", share, fold_classes, true_labels)
    if benchmark.query is None or benchmark.gallery is None:
        raise ConfigError(
            f"dataset {benchmark.name} has neither test nor query and gallery; there is nothing to confirm on"
        )
    return RunSplits(fit, benchmark.query, benchmark.gallery, "test", share, fold_classes, true_labels)


def fold_test_splits(
    trial: TrialSettings, validation: ValidationSettings, fold: int, seed: int, benchmark: Benchmark | None = None
) -> RunSplits:
    """Train classes of one fold's complement to learn from, the test classes to score.

    Raises:
        ConfigError: the scheme has no such fold.
        DataError: the data set cannot be read or has no test split.
    """
    benchmark = benchmark or load_dataset(trial.dataset)
    learned = fold_splits(trial, validation, fold, seed, benchmark)
    tested = confirmation_splits(trial, validation, seed, benchmark)
    return dataclasses.replace(tested, fit=learned.fit, image_share=1.0, true_labels=learned.true_labels)


def _corrupted(fit: Split, trial: TrialSettings, seed: int) -> tuple[Split, Split | None]:
    """What is learned from, and the same images with their true labels where some are wrong.

    Each kind of corruption draws from a stream of its own: without label noise the others spoil the same images.
    """
    dataset = trial.dataset
    truth = corrupt(fit, dataset.model_copy(update={"label_noise": 0.0}), seed) if dataset.label_noise else None
    return corrupt(fit, dataset, seed), truth


def scaled_sampler(trial: TrialSettings, splits: RunSplits) -> TrialSettings:
    """The trial with a fixed ``batches_per_epoch`` grown with the images, so that an epoch stays an epoch."""
    batches = trial.sampler.batches_per_epoch
    if batches is None or splits.image_share == 1.0:
        return trial
    scaled = trial.sampler.model_copy(update={"batches_per_epoch": max(1, round(batches * splits.image_share))})
    return trial.model_copy(update={"sampler": scaled})


def train_probe(fit: Split, seed: int, name: str) -> Split:
    """Whole classes of what a run learns from, the first ones in a seeded order, for train-class Recall@1."""
    classes, counts = np.unique(fit.labels, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(classes))
    taken = order[: max(2, int(np.searchsorted(np.cumsum(counts[order]), TRAIN_PROBE_IMAGES)))]
    return fit.select(np.flatnonzero(np.isin(fit.labels, classes[taken])), f"train_probe{name}")
