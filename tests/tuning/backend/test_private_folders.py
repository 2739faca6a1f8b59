"""Temporary folders that only their user can enter, and that do not outlive their process for long."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ctxtune.tuning.backend import private_folders
from ctxtune.tuning.backend.private_folders import private_folder, remove_abandoned
from tests.helpers.processes import PATIENCE, environment

HOLD = """
import sys
from pathlib import Path
from ctxtune.tuning.backend import private_folders
from ctxtune.tuning.backend.private_folders import private_folder
with private_folder(Path(sys.argv[1])) as folder:
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint/state.pt").write_bytes(b"x" * 1000)
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_it_is_closed_to_others_and_gone_at_the_end_whatever_happens(tmp_path):
    with pytest.raises(RuntimeError), private_folder(tmp_path) as folder:
        (folder / "file").write_text("x")
        assert folder.parent == tmp_path and folder.stat().st_mode & 0o077 == 0
        assert remove_abandoned(tmp_path) == [] and (folder / "file").exists()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_that_of_a_killed_process_is_removed_and_that_of_a_living_one_stays(repository, tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    holders = [
        subprocess.Popen(command, env=environment(repository), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    folders = [Path(holder.stdout.readline().strip()) for holder in holders]
    assert remove_abandoned(tmp_path) == []
    holders[0].send_signal(signal.SIGKILL)
    holders[0].wait(30)
    assert folders[0].exists()
    assert remove_abandoned(tmp_path) == [folders[0]]
    assert not folders[0].exists() and (folders[1] / "checkpoint/state.pt").exists()
    holders[1].communicate("", timeout=PATIENCE)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_one_of_ours_is_left_alone(tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "lock").write_text("another machine")
    (tmp_path / "ctxtune-link").symlink_to(victim)
    (tmp_path / "ctxtune-cache").mkdir()
    (tmp_path / "ctxtune-elsewhere").mkdir()
    (tmp_path / "ctxtune-elsewhere/lock").write_text("another machine")
    (tmp_path / "ctxtune-file").write_text("x")
    assert remove_abandoned(tmp_path) == []
    assert len(list(tmp_path.iterdir())) == 5 and (victim / "lock").exists()


def test_one_that_was_written_into_while_it_was_deleted_is_removed_by_a_later_run(tmp_path, monkeypatch):
    delete = shutil.rmtree

    def delete_and_be_late(path, **options):
        delete(path, **options)
        (path.parent / "late").mkdir(exist_ok=True)  # as Ray's last processes do

    with monkeypatch.context() as patch:
        patch.setattr(private_folders.shutil, "rmtree", delete_and_be_late)
        with private_folder(tmp_path) as folder:
            (folder / "ray").mkdir()
    assert sorted(path.name for path in folder.iterdir()) == ["late", "lock"]
    assert remove_abandoned(tmp_path) == [folder] and list(tmp_path.iterdir()) == []
