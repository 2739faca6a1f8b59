"""What is told at the end: events delivered, pending and refused, files missing."""

import errno

import pytest

from ctxtune.tracking import SpoolFullError, Tracker, read_runs
from ctxtune.tuning.ending import SweepStopped, close_tracker, stopped_by_its_disk
from ctxtune.tuning.record.journal import DiskFullError, Journal
from tests.helpers.tracking import new_store


def tracked(uri: str, folder, **options) -> Tracker:
    tracker = Tracker(uri, "ending", folder, **options)
    tracker.start_run("sweep-1", name="ending", kind="sweep", params={"trials": 1})
    tracker.log_metrics("sweep-1", {"time/hours": 1.0}, 0)
    return tracker


def test_events_that_were_delivered_are_counted_over_all_processes(tmp_path):
    uri = new_store(tmp_path)
    first = close_tracker(tracked(uri, tmp_path / "spool"), "ending", [])
    assert first.complete and (first.pending, first.refused) == (0, 0) and first.delivered >= 2
    tracker = Tracker(uri, "ending", tmp_path / "spool")
    tracker.end_run("sweep-1", "completed")
    second = close_tracker(tracker, "ending", [])
    assert second.delivered == first.delivered + 2
    assert str(second) == f"tracking: {second.delivered} events delivered, 0 pending, 0 refused; no file is missing"


def test_events_of_a_run_that_somebody_deleted_are_refused_and_told(tmp_path):
    from mlflow import MlflowClient

    uri = new_store(tmp_path)
    close_tracker(tracked(uri, tmp_path / "spool"), "ending", [])
    (run,) = read_runs(uri, "ending")
    MlflowClient(uri).delete_run(run.run_id)
    tracker = Tracker(uri, "ending", tmp_path / "spool")
    tracker.log_metrics("sweep-1", {"time/hours": 2.0}, 1)
    ending = close_tracker(tracker, "ending", [])
    assert not ending.complete and ending.refused == 1 and ending.pending == 0
    assert "1 refused" in str(ending) and "python -m ctxtune.tracking status" in str(ending)


def test_what_is_not_delivered_and_what_is_missing_is_told_with_what_to_do(tmp_path):
    tracker = tracked("http://127.0.0.1:9", tmp_path / "a spool", deliver=False)
    ending = close_tracker(tracker, "ending", ["best.pt (gone)"])
    assert not ending.complete and ending.delivered == 0 and ending.pending >= 2
    assert "files missing: best.pt (gone)" in str(ending)
    assert "python -m ctxtune.tracking replay" in str(ending) and "a spool'" in str(ending)


@pytest.mark.parametrize(
    "error",
    [
        DiskFullError("best.yaml: cannot be written"),
        SpoolFullError("the spool is full"),
        OSError(errno.ENOSPC, "No space left on device", "checkpoints/x"),
        OSError(errno.EIO, "Input/output error", "checkpoints/x"),
    ],
)
def test_a_disk_that_cannot_be_written_stops_what_has_begun_for_a_resume(tmp_path, error):
    journal = Journal(tmp_path / "journal.jsonl")
    tracker = tracked("sqlite:///mlflow.db", tmp_path / "spool", deliver=False)
    with pytest.raises(type(error)), stopped_by_its_disk(journal, tracker):
        raise error  # nothing has begun: there is nothing to resume
    journal.decided("sweep_id", "sweep-1")
    pending = tracker.pending
    with pytest.raises(SweepStopped) as stopped, stopped_by_its_disk(journal, tracker):
        raise error
    assert stopped.value.reason == "disk_full" and tracker.pending == pending + 2  # its state and its status
    with pytest.raises(PermissionError), stopped_by_its_disk(journal, tracker):
        raise PermissionError(errno.EACCES, "Permission denied", "somewhere")
    tracker.close(0)
