"""Checkpoints that are gone or damaged when a sweep is resumed, and disks that are full."""

import errno

import pytest
import torch

from ctxtune.training import save_checkpoint
from ctxtune.tuning.backend.checkpoints import lost_checkpoints
from ctxtune.tuning.backend.trial import disk_is_full
from ctxtune.tuning.record.journal import Journal
from ctxtune.tuning.record.trial_report import TrialReport
from tests.helpers.specs import run_spec


@pytest.fixture
def journal(tmp_path) -> Journal:
    """A running trial after epoch 6 with checkpoints of epochs 2, 4 and 6, and one that has ended without any."""
    journal = Journal(tmp_path / "journal.jsonl")
    for key in ("trial-0000", "trial-0001"):
        journal.asked(run_spec(key))
    for epoch in (2, 4, 6):
        folder = tmp_path / f"checkpoint_{epoch}"
        save_checkpoint({"reported": epoch, "weights": torch.zeros(100)}, folder / "checkpoint.pt")
        journal.reported("trial-0000", TrialReport(epoch, {}))
        journal.checkpointed("trial-0000", str(folder))
    journal.checkpointed("trial-0001", str(tmp_path / "never"))
    journal.ended("trial-0001", "completed")
    return journal


def damage(path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_whole_checkpoints_are_nothing_to_tell(journal):
    assert lost_checkpoints(journal) == []


def test_a_damaged_checkpoint_is_named_with_what_is_trained_again(journal, tmp_path):
    damage(tmp_path / "checkpoint_6/checkpoint.pt")
    (note,) = lost_checkpoints(journal)
    assert "trial-0000" in note and "checkpoint_6" in note and "the one before, epoch 4: 2 epochs" in note


def test_without_any_the_run_starts_again(journal, tmp_path):
    damage(tmp_path / "checkpoint_6/checkpoint.pt")
    (tmp_path / "checkpoint_4/checkpoint.pt").unlink()
    (note,) = lost_checkpoints(journal)
    assert "from its beginning: 6 epochs" in note  # epoch 2's is older than what Ray keeps


def test_a_full_disk_is_known_by_whatever_says_so():
    assert disk_is_full(OSError(errno.ENOSPC, "No space left on device"))
    assert disk_is_full(OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"))
    assert disk_is_full(OSError(errno.EFBIG, "File too large"))
    assert disk_is_full(OSError(errno.EROFS, "Read-only file system", "/results/x"))
    assert disk_is_full(OSError("Error writing bytes to file. Detail: [errno 30] Read-only file system"))
    wrapped = RuntimeError("cannot upload")
    wrapped.__cause__ = OSError(errno.EDQUOT, "Disk quota exceeded")
    assert disk_is_full(wrapped)
    assert not disk_is_full(OSError(errno.EACCES, "Permission denied"))
    assert not disk_is_full(RuntimeError("shapes do not match"))
