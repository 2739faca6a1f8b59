"""What a process needs to start a run, as plain data that travels through Ray and lies in the journal."""

from pathlib import Path
from typing import Any, Literal

from ctxtune.config import TrialSettings
from ctxtune.data import ValidationSettings
from ctxtune.settings import Settings
from ctxtune.training import Run, confirmation_parts, fold_parts
from ctxtune.training.session import Session

Stage = Literal["search", "selection", "confirmation"]
KINDS: dict[str, str] = {"search": "trial", "selection": "selection", "confirmation": "confirmation"}
"""The `kind` of each stage's runs in MLflow (DESIGN section 6)."""


class RunSpec(Settings):
    """One run of a sweep.

    Attributes:
        key: its name within the sweep, such as ``trial-0007``.
        arm: which configuration it belongs to: the trial's key, or ``start``.
        point: the searched values.
        folds: validation folds to train on and score; none for a confirmation, which takes all train classes.
        seed_index: which repetition; arms with the same index share all randomness.
        seed: from `ctxtune.config.stage_seed`.
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

    def plain(self) -> dict[str, Any]:
        """The spec as plain data; `model_validate` reads it back."""
        return self.model_dump(mode="json")


def open_session(spec: RunSpec, *, device: str, cache_dir: Path | None = None) -> Session:
    """Build model, loss and data of a spec.

    A search or selection run touches no file of the test classes; a confirmation scores them once, at its end.
    """
    trial, seed = spec.trial, spec.seed
    protocol = spec.model_dump(mode="json", include={"stage", "validation", "folds"})
    if spec.stage == "confirmation":
        parts = confirmation_parts(trial, spec.validation, seed)
        run = Run(trial, parts, seed=seed, device=device, cache_dir=cache_dir)
        return Session([run], score_at="last", floor=True, protocol=protocol)
    runs = [
        Run(trial, fold_parts(trial, spec.validation, fold, seed), seed=seed, device=device, cache_dir=cache_dir)
        for fold in spec.folds
    ]
    return Session(runs, protocol=protocol)
