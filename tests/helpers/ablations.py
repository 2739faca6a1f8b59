"""A small ablation by its command, as a user runs it."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.helpers.processes import PATIENCE, environment

NAME = "quickstart-ablation"
SMALL = [
    "trial.dataset.image_size=16",
    "trial.image.train_crop=16",
    "trial.model.width=8",
    "trial.model.embedding_dim=16",
    "trial.sampler.batch_size=32",
    "trial.sampler.batches_per_epoch=2",
    "trial.schedule.epochs=2",
    "trial.evaluation.every=1",
    "variants.no_query_expansion=null",
    "seeds=2",
    "max_concurrent=1",  # each process of runs that train imports for eight seconds
    "tune_each={trials: 2, folds: [1], space: {optimizer.lr: {loguniform: [1.0e-4, 1.0e-2]}}}",
]
"""Two tuned cells, two seeds each: four trials, four runs."""


def ablation_command(repository: Path, *arguments: str, overrides: Sequence[str] = SMALL) -> list[str]:
    """The command line of the quickstart ablation."""
    sets = [part for override in overrides for part in ("--set", override)]
    return [sys.executable, "-m", "ctxtune.ablate", str(repository / "ablations/quickstart.yaml"), *sets, *arguments]


def run_ablation(
    repository: Path, folder: Path, *arguments: str, overrides: Sequence[str] = SMALL
) -> subprocess.CompletedProcess[str]:
    """Run it in ``folder`` to its end."""
    return subprocess.run(
        ablation_command(repository, *arguments, overrides=overrides),
        cwd=folder, env=environment(repository), capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
