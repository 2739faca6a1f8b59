"""What a resumed sweep finds of the checkpoints that it is to go on from."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ray.tune import Checkpoint

from ctxtune.errors import CtxtuneError
from ctxtune.training import load_checkpoint
from ctxtune.training.checkpoints import STATE_FILE
from ctxtune.tuning.record.journal import Journal, RunRecord

KEPT_CHECKPOINTS = 2
"""Of each run; the older one is for the day on which the newest is damaged."""


@contextlib.contextmanager
def state_file(address: str) -> Iterator[Path]:
    """The file of a run's state in a checkpoint, wherever that lies; fetched for the length of the block.

    Raises:
        OSError: it is not there or cannot be read.
    """
    with Checkpoint(address).as_directory() as folder:
        yield Path(folder) / STATE_FILE


def kept_checkpoints(run: RunRecord) -> list[str]:
    """Those of a run that should still be there, the newest first."""
    return run.checkpoints[: -KEPT_CHECKPOINTS - 1 : -1]


def lost_checkpoints(journal: Journal) -> list[str]:
    """Of each unfinished run whose newest checkpoint is gone or damaged: which, and how much is trained again."""
    notes = []
    for run in journal.runs.values():
        kept = kept_checkpoints(run) if run.state == "running" else []
        epochs = [epoch for address in kept if (epoch := _epoch(address)) is not None]
        if kept and _epoch(kept[0]) is None:
            start = f"from the one before, epoch {epochs[0]}" if epochs else "from its beginning"
            again = run.epoch - (epochs[0] if epochs else 0)
            notes.append(
                f"{run.key}: the checkpoint {kept[0]} is missing or damaged; the run goes on {start}: {again} epochs are "
                "trained again, none is counted twice"
            )
    return notes


def _epoch(address: str) -> int | None:
    """Epochs done at a checkpoint; None where it cannot be read."""
    with contextlib.suppress(OSError, CtxtuneError), state_file(address) as file:
        return int(load_checkpoint(file)["reported"])
    return None
