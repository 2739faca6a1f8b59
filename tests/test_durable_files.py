"""What commands write is whole or not there at all, on a disk that is full for real."""

import errno
import os
import threading
from pathlib import Path

import pytest
import torch

from ctxtune import copy
from ctxtune.data import __main__ as data
from ctxtune.durable_files import write_durably, write_whole
from ctxtune.training import save_checkpoint
from tests.helpers import trees
from tests.helpers.disks import fill, tiny_disk
from tests.helpers.processes import run_here

MUCH = b"x" * 200_000


@pytest.fixture
def disk(tmp_path):
    """A disk of 64 KiB."""
    with tiny_disk(tmp_path / "disk", 64) as folder:
        yield folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_whole(path, MUCH),
        lambda path: write_durably(path, [MUCH[:1000], MUCH]),
        lambda path: save_checkpoint({"weights": torch.zeros(50_000)}, path),  # refused in the middle
        lambda path: save_checkpoint({str(number): torch.zeros(9) for number in range(500)}, path),  # and at the end
    ],
)
def test_a_full_disk_is_told_with_the_files_name_and_changes_nothing(write, disk):
    path = disk / "file"
    path.write_bytes(b"earlier")
    with pytest.raises(OSError, match="No space left on device") as refused:
        write(path)
    assert refused.value.errno == errno.ENOSPC and Path(refused.value.filename).parent == disk
    assert path.read_bytes() == b"earlier" and names(disk) == ["file"]


def test_a_file_is_written_through_a_link_and_whatever_the_length_of_its_name(tmp_path):
    target, link = tmp_path / ("é" * 120), tmp_path / "link"
    link.symlink_to(target)
    write_whole(link, "text ü")
    assert link.is_symlink() and target.read_text(encoding="utf-8") == "text ü"
    assert names(tmp_path) == ["link", target.name]


def test_a_pipe_stays_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_whole(pipe, "text")
    reader.join()
    assert read == [b"text"] and pipe.is_fifo()


@pytest.mark.parametrize(
    "command", [[copy.main, "cars", "disk/out.yaml"], [data.main, "show", "--output", "disk/out.png"]]
)
def test_a_command_leaves_no_piece_of_what_it_cannot_write(command, disk, tmp_path):
    trees.class_folders(tmp_path / "photographs", {"train": 2, "test": 2})
    main, name, *arguments = command
    fill(disk / "ballast")
    photographs = ["class_folders", "photographs"] if main is data.main else []
    done = run_here(main, tmp_path, name, *photographs, *arguments)
    assert done.returncode == 2 and "No space left on device" in done.stderr and names(disk) == ["ballast"]
