"""What a process needs to start a run, as plain data that travels through Ray and lies in the journal."""

from pathlib import Path
from typing import Any, Literal

import torch

from ctxtune.config import TrialSettings
from ctxtune.data import ValidationSettings
from ctxtune.settings import Settings
from ctxtune.training import FoldTrainer, confirmation_splits, fold_splits
from ctxtune.training.process_group import ProcessGroup
from ctxtune.training.trainer import Trainer

Stage = Literal["search", "selection", "confirmation", "cell_search", "cell"]
KINDS: dict[str, str] = {
    "search": "trial",
    "selection": "selection",
    "confirmation": "confirmation",
    "cell_search": "cell_search",
    "cell": "cell",
}
"""The `kind` of each stage's runs in MLflow (DESIGN section 6)."""


class RunSpec(Settings):
    """One run of a sweep or an ablation.

    Attributes:
        key: its name within the sweep, such as ``trial-0007``.
        arm: which configuration it belongs to: the trial's key, ``start``, or an ablation's cell.
        point: the searched values.
        folds: validation folds to train on and score; none for a run on all train classes, which scores the test
            classes.
        seed_index: which repetition; arms with the same index share all randomness.
        seed: from `ctxtune.config.stage_seed`.
        tags: more of them, for tracking.
        memory: what the sampler must know again of this suggestion after a restart.
    """

    key: str
    stage: Stage
    arm: str
    point: dict[str, Any]
    trial: TrialSettings
    validation: ValidationSettings
    folds: tuple[int, ...]
    seed_index: int
    seed: int
    tags: dict[str, str] = {}
    memory: dict[str, Any] = {}

    @property
    def scores_test(self) -> bool:
        """Whether it learns from all train classes and scores the test classes, once."""
        return not self.folds

    def plain(self) -> dict[str, Any]:
        """The spec as plain data; `model_validate` reads it back."""
        return self.model_dump(mode="json")


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
        parts = confirmation_splits(trial, spec.validation, seed)
        run = FoldTrainer(trial, parts, seed=seed, device=device, cache_dir=cache_dir, cores=cores, world=world)
        return Trainer([run], score_at="last", floor=True, protocol=protocol, by_class=by_class)
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
