"""Which folders count as another machine's, by Linux's own table of mounts."""

from pathlib import Path

import pytest

from ctxtune import network_folders
from ctxtune.network_folders import file_system, is_on_network

TABLE = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
41 22 0:36 / /home rw,relatime - autofs systemd-1 rw,fd=50
42 22 0:52 / /home/ada rw,relatime shared:7 - nfs4 files.example:/home/ada rw,vers=4.2
43 22 0:53 / /home/ada/local\040disk rw - xfs /dev/vdb rw
44 22 0:54 / /scratch rw - ext4 /dev/vdc rw
45 22 0:55 / /scratch rw - lustre 10.0.0.1@tcp:/scratch rw
46 22 0:56 / /bucket rw - fuse.s3fs s3fs rw
a line that is none
"""


@pytest.fixture
def mounts(tmp_path, monkeypatch) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(TABLE)
    monkeypatch.setattr(network_folders, "MOUNTS", table)


@pytest.mark.parametrize(
    ("folder", "kind", "network"),
    [
        ("/var/results", "ext4", False),
        ("/home", "autofs", False),
        ("/home/ada/results", "nfs4", True),
        ("/home/adam", "autofs", False),
        ("/home/ada/local disk/results", "xfs", False),
        ("/scratch/results", "lustre", True),  # the later mount covers the earlier
        ("/bucket", "fuse.s3fs", True),
    ],
)
def test_a_folder_is_where_the_deepest_and_latest_mount_is(mounts, folder, kind, network):
    assert file_system(Path(folder)) == kind
    assert is_on_network(Path(folder)) is network


def test_a_link_is_followed(mounts, tmp_path):
    (tmp_path / "results").symlink_to("/scratch/results")
    assert is_on_network(tmp_path / "results")


def test_this_machine_says_what_its_own_folders_are_on(tmp_path):
    if not network_folders.MOUNTS.exists():
        pytest.skip("this system has no table of mounts")
    assert file_system(Path("/proc")) == "proc"
    assert file_system(tmp_path)


def test_a_system_without_that_table_has_no_network(monkeypatch, tmp_path):
    monkeypatch.setattr(network_folders, "MOUNTS", tmp_path / "nothing")
    assert file_system(tmp_path) == "" and not is_on_network(tmp_path)
