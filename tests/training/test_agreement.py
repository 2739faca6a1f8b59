"""Our trainer against a plain loop in the manner of the authors' code: the same task is learned alike."""

import argparse
import importlib.util
import sys

import numpy as np
import pytest
from scipy import stats

from ctxtune.data import ValidationSettings, load_dataset
from ctxtune.training import FoldTrainer, fold_splits

EPOCHS, SEEDS = 6, 5


def benchmark(repository):
    spec = importlib.util.spec_from_file_location("training_benchmark", repository / "benchmarks" / "training.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_losses_fall_as_in_a_plain_loop(tmp_path, repository):
    peer = benchmark(repository)
    arguments = argparse.Namespace(backbone="small_conv", batch=32, steps=8, crop=32)
    peer.write_jpegs(tmp_path / "data", 256, arguments.batch)
    trial = peer.build_trial(tmp_path / "data", arguments)
    splits = fold_splits(trial, ValidationSettings(folds=2), 0, seed=0, benchmark=load_dataset(trial.dataset))
    ours, plain = np.zeros((SEEDS, EPOCHS)), np.zeros((SEEDS, EPOCHS))
    for seed in range(SEEDS):
        runs = [FoldTrainer(trial, splits, seed=seed, cache_dir=tmp_path / "cache") for _ in range(2)]
        ways = peer.Ours(runs[0]), peer.Plain(runs[1], tmp_path / "data", arguments.crop, workers=0)
        for epoch in range(EPOCHS):
            ours[seed, epoch], plain[seed, epoch] = ways[0](), ways[1]()
        for run in runs:
            run.close()
    assert plain[:, -1].mean() < 0.8 * plain[:, 0].mean(), "the task is learned at all"
    # Same weights, batches and loss; the augmentation draws other crops from the same distribution.
    assert stats.ttest_rel(ours[:, -2:].mean(axis=1), plain[:, -2:].mean(axis=1)).pvalue > 0.01
    assert ours.mean() == pytest.approx(plain.mean(), rel=0.1)
