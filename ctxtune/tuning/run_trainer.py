"""From a run's spec to the trainer that does its work."""

from pathlib import Path

import torch

from ctxtune.training import FoldTrainer, RunSplits, confirmation_splits, fold_splits, fold_test_splits
from ctxtune.training.process_group import ProcessGroup
from ctxtune.training.trainer import Trainer
from ctxtune.tuning.record.run_spec import RunSpec


def open_trainer(
    spec: RunSpec,
    *,
    device: str | torch.device,
    cache_dir: Path | None = None,
    cores: int | None = None,
    world: ProcessGroup | None = None,
) -> Trainer:
    """Build model, loss and data of a spec.

    A run that validates touches no file of the test classes; one that scores them does so once, at its end. Runs of an
    ablation's cells also keep their scores by class.
    """
    protocol = spec.model_dump(mode="json", include={"stage", "validation", "folds"})
    by_class = spec.stage == "cell"

    def opened(splits: RunSplits) -> FoldTrainer:
        return FoldTrainer(
            spec.trial, splits, seed=spec.seed, device=device, cache_dir=cache_dir, cores=cores, world=world
        )

    if not spec.scores_test:
        runs = [opened(fold_splits(spec.trial, spec.validation, fold, spec.seed)) for fold in spec.folds]
        return Trainer(runs, protocol=protocol, by_class=by_class)
    if spec.concatenated:
        runs = [opened(fold_test_splits(spec.trial, spec.validation, fold, spec.seed)) for fold in spec.folds]
    else:
        protocol["stage"] = "confirmation"  # who opens its checkpoint then knows that it has seen all train classes
        runs = [opened(confirmation_splits(spec.trial, spec.validation, spec.seed))]
    return Trainer(
        runs,
        score_at="last",
        score_untrained=True,
        protocol=protocol,
        by_class=by_class,
        shown_queries=spec.shown_queries,
        concatenated=spec.concatenated,
    )
