"""The end of a sweep or an ablation, whatever brought it about: what tracking has, and what is missing."""

import contextlib
import errno
import os
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass

from ctxtune.durable_files import NO_ROOM
from ctxtune.errors import CtxtuneError
from ctxtune.text import counted
from ctxtune.tracking import SpoolFullError, Tracker
from ctxtune.tuning.record.journal import DiskFullError, Journal

FLUSH_SECONDS = 60.0
OUTAGE_SECONDS = 15.0
_DISK_ERRORS = (*NO_ROOM, errno.EIO, errno.EROFS)


class SweepStopped(CtxtuneError):
    """The sweep was stopped before its end and can be resumed; ``reason`` is interrupted, failures, budget,
    disk_full, ray_lost or ray_error."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Ending:
    """What is known when all is closed.

    Attributes:
        name: of the sweep or ablation.
        delivered, pending, refused: events that the tracking server has, has not yet, and will not take.
        doubtful: runs that a slow server may still make a second time.
        missing: files that should be there, each with the reason.
        spool: where the events lie, from the working directory.
        error: why the latest delivery failed.
    """

    name: str
    delivered: int
    pending: int
    refused: int
    doubtful: int
    missing: tuple[str, ...]
    spool: str
    error: str = ""

    @property
    def complete(self) -> bool:
        """Whether tracking has everything and no file is missing."""
        return not (self.pending or self.refused or self.missing)

    def __str__(self) -> str:
        files = f"files missing: {'; '.join(self.missing)}" if self.missing else "no file is missing"
        counts = f"{counted(self.delivered, 'event')} delivered, {self.pending:,} pending, {self.refused:,} refused"
        parts = [f"tracking: {counts}; {files}"]
        spool = shlex.quote(self.spool)
        if self.pending:
            why = f" ({self.error})" if self.error else ""
            parts.append(
                f"{counted(self.pending, 'tracking event')} are not delivered yet{why}; they are safe in {self.spool}; deliver "
                f"them with: python -m ctxtune.tracking replay {shlex.quote(str(spool))}"
            )
        if self.refused:
            parts.append(
                f"What was refused, and why, says: python -m ctxtune.tracking status {shlex.quote(str(spool))}"
            )
        if self.doubtful:
            parts.append(
                f"The server was asked for {counted(self.doubtful, 'run')} without an answer; should it make them a second "
                f"time later, set those aside with: python -m ctxtune.tracking dedupe {shlex.quote(self.name)}"
            )
        return ". ".join(parts)


def close_tracker(tracker: Tracker, name: str, missing: list[str]) -> Ending:
    """Deliver what can be delivered; how that ended."""
    _deliver(tracker)
    counts, error = tracker.counts(), tracker.last_error
    tracker.close(0)
    return Ending(
        name, counts.delivered, counts.pending, counts.refused, counts.doubtful, tuple(missing),
        os.path.relpath(tracker.folder), error or "",
    )  # fmt: skip


def _deliver(tracker: Tracker) -> None:
    """Wait until tracking has everything, as long as it gets on.

    A minute without a single event delivered is taken for an outage, `OUTAGE_SECONDS` where the server says so itself.
    """
    waiting, since = tracker.pending, time.monotonic()
    while not tracker.flush(1.0) and tracker.delivers:
        if tracker.pending < waiting:
            waiting, since = tracker.pending, time.monotonic()
        if time.monotonic() - since >= (FLUSH_SECONDS if tracker.last_error is None else OUTAGE_SECONDS):
            return


@contextlib.contextmanager
def stopped_by_its_disk(journal: Journal, tracker: Tracker) -> Iterator[None]:
    """Inside, a disk that cannot be written stops what has begun, so that it can be resumed.

    Raises:
        SweepStopped: files of the results, the journal or the spool could not be written.
    """
    try:
        yield
    except (DiskFullError, SpoolFullError, OSError) as error:
        if not journal.events or (isinstance(error, OSError) and error.errno not in _DISK_ERRORS):
            raise
        told = f"{error.filename or 'a file'}: {error.strerror}" if isinstance(error, OSError) else str(error)
        with contextlib.suppress(SpoolFullError):  # tracking then learns of it when the sweep is resumed
            if tracker.knows(sweep_id := journal.decisions.sweep_id):
                tracker.end_run(sweep_id, "killed", "disk_full")
        raise SweepStopped("disk_full", told) from None
