"""From a run's spec to the trainer that does its work."""

from pathlib import Path

import torch

from ctxtune.training import FoldTrainer, confirmation_splits, fold_splits
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

    A run with folds touches no file of the test classes; one without scores them once, at its end. Runs of an
    ablation's cells also keep their scores by class.
    """
    trial, seed = spec.trial, spec.seed
    protocol = spec.model_dump(mode="json", include={"stage", "validation", "folds"})
    by_class = spec.stage == "cell"
    if spec.scores_test:
        protocol["stage"] = "confirmation"  # who opens its checkpoint then knows that it has seen all train classes
        splits = confirmation_splits(trial, spec.validation, seed)
        run = FoldTrainer(trial, splits, seed=seed, device=device, cache_dir=cache_dir, cores=cores, world=world)
        return Trainer(
            [run],
            score_at="last",
            score_untrained=True,
            protocol=protocol,
            by_class=by_class,
            shown_queries=spec.shown_queries,
        )
    runs = [
        FoldTrainer(
            trial,
            fold_splits(trial, spec.validation, fold, seed),
            seed=seed,
            device=device,
            cache_dir=cache_dir,
            cores=cores,
            world=world,
        )
        for fold in spec.folds
    ]
    return Trainer(runs, protocol=protocol, by_class=by_class)
