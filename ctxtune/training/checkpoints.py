"""Checkpoints: written whole or not at all, read without running code."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from ctxtune.errors import CtxtuneError

STATE_FILE = "checkpoint.pt"
FORMAT = 1


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write a state atomically: a reader sees the old file or the new one, also after kill -9 or a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a state back, tensors and plain data only.

    Raises:
        CtxtuneError: the file is missing, damaged, or of a format that this version does not know.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise CtxtuneError(f"{path}: no such checkpoint") from None
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise CtxtuneError(f"{path}: not a checkpoint that can be read ({_first_line(error)})") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CtxtuneError(f"{path}: not a checkpoint of this version of ctxtune")
    return state


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


class CheckpointFolder:
    """A folder of one run's checkpoints: the two newest, so that a damaged last one costs one interval."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    def paths(self) -> list[Path]:
        """The checkpoints, oldest first."""
        return sorted(self.folder.glob("epoch-*.pt"))

    def save(self, state: dict[str, Any], epoch: int) -> Path:
        """Write the checkpoint of an epoch and delete what is older than the newest two."""
        path = self.folder / f"epoch-{epoch:05d}.pt"
        save_checkpoint(state, path)
        for old in self.paths()[: -self.keep]:
            old.unlink(missing_ok=True)
        return path

    def load_newest(self, device: torch.device | str = "cpu") -> dict[str, Any] | None:
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
