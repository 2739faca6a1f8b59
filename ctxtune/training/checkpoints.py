"""Checkpoints: written whole or not at all, read without running code."""

import os
import pickle
import shutil
from pathlib import Path
from typing import Any, TypeAlias

import torch
from pydantic import ValidationError

from ctxtune.config.trial import TrialSettings
from ctxtune.durable_files import named, sync_folder
from ctxtune.errors import CtxtuneError

State: TypeAlias = dict[str, Any]
"""What a checkpoint holds: tensors and plain data, by name."""
STATE_FILE = "checkpoint.pt"
BEST_FILE = "best.pt"
FORMAT = 1


def save_checkpoint(state: dict[str, object], path: Path) -> None:
    """Write a state atomically: a reader sees the old file or the new one, also after kill -9 or a power cut.

    Raises:
        OSError: it cannot be written, with the file's name.
    """
    temporary = _write_beside(state, path)
    try:
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> State:
    """Read a state back, tensors and plain data only.

    Raises:
        CtxtuneError: the file is missing, damaged, or of a format that this version does not know.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise CtxtuneError(f"{path}: no such checkpoint") from None
    except (
        OSError,
        RuntimeError,
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:
        raise CtxtuneError(f"{path}: not a checkpoint that can be read ({_first_line(error)})") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CtxtuneError(f"{path}: not a checkpoint of this version of ctxtune")
    return state


def trained_settings(run: State) -> TrialSettings:
    """The configuration of a checkpoint's run; keys that came later have their defaults.

    Raises:
        CtxtuneError: it cannot be read any more.
    """
    try:
        return TrialSettings.model_validate(run["config"])
    except ValidationError:
        raise CtxtuneError("the checkpoint belongs to another version of ctxtune") from None


def scored_weights(state: State, fold: int = 0) -> dict[str, torch.Tensor]:
    """The weights that a checkpoint's scores belong to: the averaged ones where there are any.

    Args:
        state: as `load_checkpoint` gives it.
        fold: which of the trainer's runs.
    """
    run = state["runs"][fold]
    weights: dict[str, torch.Tensor] = run["model"] if run.get("averaged") is None else run["averaged"]
    return weights


def _write_beside(state: dict[str, object], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with named(path), temporary.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


class CheckpointFolder:
    """A folder of one run's checkpoints: the two newest, so that a damaged last one costs one interval, and the best."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    @property
    def best(self) -> Path:
        """Where the checkpoint with the best validation score lies, once there is one. For information only."""
        return self.folder / BEST_FILE

    def paths(self) -> list[Path]:
        """The newest checkpoints, oldest first."""
        return sorted(self.folder.glob("epoch-*.pt"))

    def save(self, state: dict[str, object], epoch: int, *, best: bool = False) -> Path:
        """Write the checkpoint of an epoch and delete what is older than the newest two.

        Args:
            state: tensors and plain data.
            epoch: its number; an existing checkpoint of the epoch is replaced.
            best: keep it as the best one too.

        Raises:
            OSError: it cannot be written, with the file's name; the earlier ones are unchanged.
        """
        path = self.folder / f"epoch-{epoch:05d}.pt"
        temporary = _write_beside(state, path)
        try:
            if best:
                # Before the rename: after a kill between the two, the interval is repeated, bit by bit the same.
                _keep_also(temporary, self.best)
            temporary.replace(path)
            sync_folder(self.folder)
        finally:
            temporary.unlink(missing_ok=True)
        for old in self.paths()[: -self.keep]:
            old.unlink(missing_ok=True)
        return path

    def remove_leftovers(self) -> None:
        """Delete what killed processes have begun to write. Only for whom the folder belongs to."""
        for leftover in self.folder.glob(".*.pt.*"):
            leftover.unlink(missing_ok=True)

    def load_newest(self, device: torch.device | str = "cpu") -> dict[str, object] | None:
        """The newest readable checkpoint; None where there is none.

        Raises:
            CtxtuneError: there are checkpoints and none can be read.
        """
        problem: CtxtuneError | None = None
        for path in reversed(self.paths()):
            try:
                return load_checkpoint(path, device)
            except CtxtuneError as error:
                problem = problem or error
        if problem:
            raise problem
        return None


def _keep_also(file: Path, target: Path) -> None:
    """Let `target` be a second name of `file`, or a copy where the file system knows no second names."""
    second = target.with_name(f".{target.name}.{os.getpid()}")
    second.unlink(missing_ok=True)
    try:
        os.link(file, second)
    except OSError:
        shutil.copyfile(file, second)
    second.replace(target)
