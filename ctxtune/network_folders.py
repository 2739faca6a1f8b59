"""Whether a folder is on another machine's disk, by what Linux has mounted."""

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = frozenset(
    ("9p", "afs", "beegfs", "ceph", "cifs", "gfs2", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "ocfs2", "orangefs",
     "panfs", "smb3", "smbfs", "wekafs")
)  # fmt: skip
_ESCAPE = re.compile(r"\\([0-7]{3})")


def is_on_network(folder: Path) -> bool:
    """Whether other machines may see a folder, too; False where the system does not say (it has no `/proc`).

    A file system in user space (`fuse`) counts as one: most of them are (sshfs, GlusterFS, buckets).
    """
    kind = file_system(folder)
    return kind in _NETWORK or kind.startswith("fuse")


def file_system(folder: Path) -> str:
    """The kind of file system that a folder is on, in Linux's words: ext4, nfs4, ...; empty where that is not known."""
    try:
        mounts = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
    wanted, found, longest = folder.resolve(), "", -1
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        words = before.split(" ")
        if len(words) < 5 or not after:
            continue
        place = Path(_ESCAPE.sub(lambda match: chr(int(match[1], 8)), words[4]))
        depth = len(place.parts)
        if wanted.is_relative_to(place) and depth >= longest:  # of two at one place, the later one covers the earlier
            longest, found = depth, after.split(" ")[0]
    return found
