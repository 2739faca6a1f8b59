"""The results folder: what is half-made, lost or damaged in it is told, and nothing of it changed."""

import os
from pathlib import Path

import pytest

from ctxtune.errors import ConfigError
from ctxtune.tracking import Tracker
from ctxtune.tuning.record.journal import DiskFullError, Journal
from ctxtune.tuning.record.results_folder import ResultsFolder, StartedBefore, UnreadableCheckpoint, sweep_folder
from ctxtune.tuning.record.trial_report import TrialReport
from tests.helpers.disks import fill, tiny_disk
from tests.helpers.search_spaces import space_of
from tests.helpers.specs import run_spec

NAME = space_of().name


def open_folder(root: Path, *, resume: bool = False) -> ResultsFolder:
    folder = sweep_folder(root, space_of(), resume=resume)
    folder.close()
    return folder


@pytest.mark.parametrize("name", ["lock", "journal.jsonl", "space.yaml", "spool/spool.db"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "endless"])
@pytest.mark.parametrize("resume", [False, True])
def test_what_is_no_file_among_a_sweeps_own_is_named_and_never_opened(tmp_path, name, kind, resume):
    path = tmp_path / NAME / (name if kind != "folder" else name.partition("/")[0])
    path.parent.mkdir(parents=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.touch() if path.name == "spool" else path.mkdir()
    else:
        path.symlink_to(path if kind == "loop" else "/dev/zero")
    with pytest.raises(ConfigError, match="move it away") as caught:
        open_folder(tmp_path, resume=resume)
    assert str(path) in str(caught.value)


def test_a_file_where_the_folder_should_be_is_named(tmp_path):
    (tmp_path / NAME).touch()
    with pytest.raises(ConfigError, match="no folder"):
        open_folder(tmp_path)


def begun(root: Path) -> ResultsFolder:
    """A sweep with two trials, which tracking knows; one more event than the second trial's start."""
    folder = open_folder(root)
    journal = folder.journal
    journal.decided("sweep_id", "sweep-1")
    tracker = Tracker(f"sqlite:///{root}/mlflow.db", NAME, folder.spool, deliver=False)
    tracker.start_run("sweep-1", name=NAME, kind="sweep")
    for key in ("trial-0000", "trial-0001"):
        journal.asked(run_spec(key))
        tracker.start_run(f"sweep-1/{key}", name=key, kind="trial", parent="sweep-1")
    journal.reported("trial-0001", TrialReport(1, {"validation/map_at_r": 0.5}))
    journal.close()
    tracker.close(0)
    return folder


def content(folder: ResultsFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.path.iterdir() if path.is_file() and path.name != "lock"}


def test_what_has_begun_is_resumed_and_not_started_twice(tmp_path):
    begun(tmp_path)
    with pytest.raises(StartedBefore, match="--resume"):
        open_folder(tmp_path)
    assert set(open_folder(tmp_path, resume=True).journal.runs) == {"trial-0000", "trial-0001"}


@pytest.mark.parametrize("left", ["nothing", "its file", "an empty file", "an empty journal", "half a first line"])
def test_over_a_half_made_folder_a_start_starts(tmp_path, left):
    folder = tmp_path / NAME
    if left != "nothing":
        open_folder(tmp_path)
    if left == "an empty file":
        (folder / "space.yaml").write_bytes(b"")
    if left == "an empty journal":
        (folder / "journal.jsonl").write_bytes(b"")
    if left == "half a first line":
        (folder / "journal.jsonl").write_bytes(b'{"event":"decided","na')
    made = open_folder(tmp_path)
    assert not made.begun
    made.journal.decided("sweep_id", "sweep-1")
    assert space_of().name in made.file.read_text()
    assert open_folder(tmp_path, resume=True).journal.decisions.sweep_id == "sweep-1"


def test_resumed_a_half_made_folder_is_a_start_and_none_at_all_an_error(tmp_path):
    with pytest.raises(ConfigError, match="leave out --resume"):
        open_folder(tmp_path, resume=True)
    open_folder(tmp_path)
    assert not open_folder(tmp_path, resume=True).begun


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("loss", ["deleted", "empty", "zeros", "garbage"])
def test_a_lost_journal_of_a_sweep_that_tracking_knows_is_refused(tmp_path, loss, resume):
    folder = begun(tmp_path)
    path = folder.path / "journal.jsonl"
    size = path.stat().st_size
    path.unlink()
    if loss != "deleted":
        path.write_bytes({"empty": b"", "zeros": bytes(size), "garbage": b"\xff" * size + b"\n"}[loss])
    before = content(folder)
    with pytest.raises(ConfigError, match="journal was lost") as refused:
        open_folder(tmp_path, resume=resume)
    for words in ("trial-0000", "trial-0001", "Restore journal.jsonl", "--name", str(folder.path)):
        assert words in str(refused.value)
    assert content(folder) == before


def test_a_journal_that_is_an_older_copy_of_itself_is_refused(tmp_path):
    folder = begun(tmp_path)
    path = folder.path / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))  # the last report: that is trained again
    open_folder(tmp_path, resume=True)
    path.write_bytes(b"".join(lines[:-2]))  # the second trial
    with pytest.raises(ConfigError, match=r"holds 1 run, but .* know trial-0001\."):
        open_folder(tmp_path, resume=True)
    other = Journal(tmp_path / "other")
    other.decided("sweep_id", "sweep-2")
    other.close()
    path.write_bytes((tmp_path / "other").read_bytes())  # another sweep's
    with pytest.raises(ConfigError, match=r"holds 0 runs, but .* know sweep-1, trial-0000"):
        open_folder(tmp_path, resume=True)


@pytest.mark.parametrize("name", ["best.yaml", "best.pt", "summary.json"])
def test_results_without_a_journal_are_not_written_over(tmp_path, name):
    folder = open_folder(tmp_path)
    (folder.path / name).write_bytes(b"result")
    for resume in (True, False):
        with pytest.raises(ConfigError, match=f"know {name}"):
            open_folder(tmp_path, resume=resume)
    assert (folder.path / name).read_bytes() == b"result"


def test_a_lost_or_damaged_file_is_told_with_where_a_copy_is(tmp_path):
    folder = begun(tmp_path)
    whole = folder.file.read_bytes()
    folder.file.unlink()
    with pytest.raises(ConfigError, match=r"space\.yaml: is not there.*artifact space\.yaml"):
        open_folder(tmp_path, resume=True)
    with pytest.raises(StartedBefore):
        open_folder(tmp_path)
    for damaged in (b"", b"\x00" * 50, b"name: [", whole[: len(whole) // 2]):
        folder.file.write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"space\.yaml: damaged.*artifact space\.yaml"):
            open_folder(tmp_path, resume=True)
    folder.file.write_bytes(whole)
    open_folder(tmp_path, resume=True)


def test_on_a_full_disk_results_are_whole_or_as_they_were(tmp_path):
    with tiny_disk(tmp_path / "disk", 2048) as disk:
        folder = open_folder(disk)
        folder.write_best("before\n")
        (tmp_path / "big.pt").write_bytes(bytes(10**6))
        fill(disk / "ballast")
        for write in (
            lambda: folder.write_best("after\n" * 10_000),
            lambda: folder.write_summary({"text": "x" * 10_000}),
            lambda: folder.keep_weights(tmp_path / "big.pt"),
        ):
            with pytest.raises(DiskFullError, match="make room, then go on with --resume"):
                write()
        assert folder.best.read_text() == "before\n"
        names = {path.name for path in folder.path.iterdir()}
        assert names <= {"lock", "space.yaml", "best.yaml"}
        (disk / "ballast").unlink()
        folder.keep_weights(tmp_path / "big.pt")
        assert folder.weights.stat().st_size == 10**6


def test_on_a_disk_that_is_full_from_the_beginning_there_is_nothing_to_resume(tmp_path):
    with tiny_disk(tmp_path / "disk", 64) as disk:
        fill(disk / "ballast")
        with pytest.raises(DiskFullError, match=r"space\.yaml: cannot be written .*; make room, then start again"):
            open_folder(disk)


def test_a_checkpoint_that_cannot_be_read_is_no_matter_of_the_disk(tmp_path):
    folder = open_folder(tmp_path)
    with pytest.raises(UnreadableCheckpoint):
        folder.keep_weights(tmp_path / "nowhere.pt")
    with pytest.raises(UnreadableCheckpoint):
        folder.keep_weights(tmp_path)  # a folder
    assert not folder.weights.exists() and not list(folder.path.glob(".*.part"))
    (folder.path / "best.yaml").mkdir()
    with pytest.raises(DiskFullError, match="once that is put right, go on with --resume"):
        folder.write_best("text")
