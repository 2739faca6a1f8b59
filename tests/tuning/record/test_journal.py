"""The journal: whole events or none, whatever kills the writer."""

import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxtune.errors import CtxtuneError
from ctxtune.tuning.record.journal import DiskFullError, Journal


def filled(path) -> Journal:
    journal = Journal(path)
    journal.asked("trial-0000", "search", {"point": {"loss.k": 4}})
    journal.reported("trial-0000", {"epoch": 1.0, "validation/map_at_r": 0.25})
    journal.checkpointed("trial-0000", "somewhere")
    journal.asked("trial-0001", "search", {"point": {"loss.k": 8}})
    journal.reported("trial-0000", {"epoch": 2.0, "validation/map_at_r": 0.5})
    journal.ended("trial-0000", "completed")
    journal.decided("chosen", "trial-0000")
    return journal


def test_what_was_written_is_read_back(tmp_path):
    filled(tmp_path / "j").close()
    journal = Journal(tmp_path / "j")
    first, second = journal.stage("search")
    assert (first.state, first.epoch, first.checkpoint, first.last("validation/map_at_r")) == (
        "completed", 2, "somewhere", 0.5,
    )  # fmt: skip
    assert (second.state, second.epoch, second.spec) == ("running", 0, {"point": {"loss.k": 8}})
    assert journal.decisions == {"chosen": "trial-0000"}


def test_an_epoch_is_taken_once(tmp_path):
    journal = filled(tmp_path / "j")
    assert not journal.reported("trial-0000", {"epoch": 2.0, "validation/map_at_r": 0.9})
    assert journal.reported("trial-0001", {"epoch": 2.0})
    assert journal.runs["trial-0000"].last("validation/map_at_r") == 0.5


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(min_value=0, max_value=2000))
def test_cut_anywhere_it_holds_the_whole_events_before_the_cut_and_can_be_written_on(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("journal") / "j"
    filled(path).close()
    content = path.read_bytes()
    path.write_bytes(content[:cut])
    journal = Journal(path)
    assert journal.events == content[:cut].count(b"\n")
    journal.decided("after", 1)
    journal.close()
    assert Journal(path).decisions["after"] == 1
    assert all(json.loads(line) for line in path.read_bytes().splitlines())


def test_damage_in_the_middle_is_an_error_that_names_the_line(tmp_path):
    filled(tmp_path / "j").close()
    lines = (tmp_path / "j").read_bytes().splitlines(keepends=True)
    lines[2] = b"\x00\x00garbage\n"
    (tmp_path / "j").write_bytes(b"".join(lines))
    with pytest.raises(
        CtxtuneError, match=r"j:3: damaged.* 2 events before .*4 events behind it, of trial-0000, trial-0001"
    ):
        Journal(tmp_path / "j")
    # As the message says: with the whole lines before it the sweep can be resumed.
    (tmp_path / "j").write_bytes(b"".join(lines[:2]))
    assert Journal(tmp_path / "j").runs["trial-0000"].epoch == 1


@pytest.mark.parametrize(
    "line", [b"[]", b"7", b'{"event": "reported", "key": "nobody", "metrics": {}}', b'{"event": "invented"}', b"{}"]
)
def test_a_line_that_is_json_but_no_event_of_ours_is_damage_too(tmp_path, line):
    filled(tmp_path / "j").close()
    lines = (tmp_path / "j").read_bytes().splitlines(keepends=True)
    (tmp_path / "j").write_bytes(b"".join([*lines[:4], line + b"\n", *lines[4:]]))
    with pytest.raises(CtxtuneError, match=r"j:5: damaged"):
        Journal(tmp_path / "j")


WRITER = """
import sys
from pathlib import Path
from ctxtune.tuning.record.journal import Journal
journal = Journal(Path(sys.argv[1]))
for number in range(100000):
    journal.asked(f"trial-{number}", "search", {"number": number})
    print(number, flush=True)
"""


def test_what_was_acknowledged_survives_kill_9(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "j")], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    acknowledged = int(process.stdout.read().split()[-1])
    runs = Journal(tmp_path / "j").stage("search")
    assert acknowledged + 1 <= len(runs) <= acknowledged + 2
    assert [run.spec["number"] for run in runs] == list(range(len(runs)))


FULL = """
import resource, signal, sys
from pathlib import Path
from ctxtune.tuning.record.journal import DiskFullError, Journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    for number in range(1000):
        journal.asked(f"trial-{number}", "search", {"number": number})
except DiskFullError as error:
    print(len(journal.runs), "--resume" in str(error))
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs a limit on file size")
def test_a_disk_that_is_full_is_said_and_leaves_whole_events(tmp_path):
    printed = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "j")], capture_output=True, text=True, check=True
    ).stdout.split()
    assert printed[1] == "True"
    journal = Journal(tmp_path / "j")
    assert len(journal.runs) == int(printed[0]) > 5
    assert issubclass(DiskFullError, CtxtuneError)
