"""Sweeps by their command, as a user runs them, and settings that keep them small."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ctxtune.tuning.record.trial_report import TrialReport
from tests.helpers.processes import PATIENCE, environment, run_here

TINY = [
    "trial.model.width=8",
    "trial.model.embedding_dim=16",
    "trial.sampler.batch_size=32",
    "trial.sampler.batches_per_epoch=3",
    "trial.schedule.epochs=3",
]
SMALL = [*TINY, "search.trials=6", "select={top: 1, folds: [1], seeds: 1}", "confirm.seeds=2"]
"""Search with early stopping, selection and confirmation."""
GRID = [
    *SMALL,
    "trial.evaluation.every=1",
    "search.constraints=[]",
    "search.sampler.name=grid",
    "search.scheduler.name=none",
    "search.max_concurrent=1",
    "select=null",
    "confirm=null",
]
"""Search only, of the points of a grid, one after the other, each to its end."""
CARS_CLASSES = (*range(1, 17), *range(99, 111))
"""Classes of Cars196 that `trees.cars196` makes: 16 for training, 12 for the test."""
SMALL_CARS = [
    "trial.model={backbone: small_conv, width: 8, embedding_dim: 16}",
    "trial.sampler.batch_size=16",
    "trial.image={train_crop: 32, test_resize: 36, test_crop: 32}",
    "trial.schedule={name: step, epochs: 2, step_epochs: 1, factor: 0.5}",
    "trial.evaluation.every=1",
    "search.scheduler.grace_epochs=1",
    "search.trials=4",
    "select={top: 1, folds: [1], seeds: 1}",
    "confirm.seeds=2",
]


def sweep_command(
    repository: Path, *arguments: str, file: str = "quickstart.yaml", overrides: Sequence[str] = SMALL
) -> list[str]:
    """The command line of a sweep of a file of `search_spaces/`."""
    sets = [part for override in overrides for part in ("--set", override)]
    return [sys.executable, "-m", "ctxtune.sweep", str(repository / "search_spaces" / file), *sets, *arguments]


def run_sweep(
    repository: Path,
    folder: Path,
    *arguments: str,
    file: str = "quickstart.yaml",
    overrides: Sequence[str] = SMALL,
    variables: Mapping[str, str] | None = None,
    timeout: float = PATIENCE,
) -> subprocess.CompletedProcess[str]:
    """Run a sweep in ``folder`` to its end."""
    return subprocess.run(
        sweep_command(repository, *arguments, file=file, overrides=overrides),
        cwd=folder, env={**environment(repository), **(variables or {})}, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


def sweep_here(
    repository: Path,
    folder: Path,
    *arguments: str,
    file: str = "quickstart.yaml",
    overrides: Sequence[str] = SMALL,
) -> subprocess.CompletedProcess[str]:
    """The same in this process: for sweeps that end before Ray is started."""
    from ctxtune.sweep import main

    return run_here(main, folder, *sweep_command(repository, *arguments, file=file, overrides=overrides)[3:])


def start_sweep(
    repository: Path,
    folder: Path,
    *arguments: str,
    file: str = "quickstart.yaml",
    overrides: Sequence[str] = SMALL,
    variables: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """Start a sweep in ``folder``, with pipes for what it prints."""
    return subprocess.Popen(
        sweep_command(repository, *arguments, file=file, overrides=overrides),
        cwd=folder, env={**environment(repository), **(variables or {})},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for_checkpoints(journal_file: Path, count: int, process: subprocess.Popen[str], trials: int = 1) -> None:
    """Until so many checkpoints of each of the first trials are in the journal."""
    deadline = time.monotonic() + PATIENCE
    content = ""
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        content = journal_file.read_text() if journal_file.exists() else ""
        written = [line for line in content.splitlines() if '"checkpointed"' in line]
        if all(sum(f"trial-{number:04d}" in line for line in written) >= count for number in range(trials)):
            return
        time.sleep(0.05)
    raise AssertionError(f"no {count} checkpoints in {content}")


def without_times(report: TrialReport) -> dict[str, float]:
    """The metrics of a report without what depends on the clock."""
    return {name: value for name, value in report.metrics.items() if not name.startswith("time/")}
