"""The journal: whole events or none, whatever kills the writer or damages the file."""

import json
import resource
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxtune.config.resolve import with_values
from ctxtune.errors import CtxtuneError
from ctxtune.tuning.record.journal import DiskFullError, Journal
from ctxtune.tuning.record.trial_report import TrialReport
from tests.helpers.specs import run_spec


def filled(path: Path) -> Journal:
    journal = Journal(path)
    journal.asked(run_spec("trial-0000", point={"loss.k": 4}))
    journal.reported("trial-0000", TrialReport(1, {"validation/map_at_r": 0.25}))
    journal.checkpointed("trial-0000", "somewhere")
    journal.asked(run_spec("trial-0001", point={"loss.k": 8}))
    journal.reported("trial-0000", TrialReport(2, {"validation/map_at_r": 0.5}))
    journal.ended("trial-0000", "completed")
    journal.decided("chosen", "trial-0000")
    return journal


def without_checksums(path: Path) -> None:
    """The journal as an older version would have written it."""
    events = [json.loads(line) for line in path.read_bytes().splitlines()]
    kept = [{name: value for name, value in event.items() if name != "crc32"} for event in events]
    lines = [json.dumps(event, separators=(",", ":")) for event in kept if event["event"] != "format"]
    path.write_text("".join(f"{line}\n" for line in lines))


def told(journal: Journal) -> tuple:
    """All that a journal says."""
    return journal.decisions.model_dump(exclude_unset=True), {key: vars(run) for key, run in journal.runs.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "j"
    filled(path).close()
    return path.read_bytes()


@pytest.fixture(scope="module")
def states(whole, tmp_path_factory) -> list[tuple]:
    """What the journal says after each of its lines."""
    path = tmp_path_factory.mktemp("states") / "j"
    lines = whole.splitlines(keepends=True)
    found = []
    for count in range(len(lines) + 1):
        path.write_bytes(b"".join(lines[:count]))
        found.append(told(Journal(path)))
    return found


def test_what_was_written_is_read_back(tmp_path):
    filled(tmp_path / "j").close()
    journal = Journal(tmp_path / "j")
    first, second = journal.stage("search")
    assert (first.state, first.epoch, first.checkpoint, first.last("validation/map_at_r")) == (
        "completed", 2, "somewhere", 0.5,
    )  # fmt: skip
    assert (second.state, second.epoch, second.spec) == ("running", 0, run_spec("trial-0001", point={"loss.k": 8}))
    assert journal.decisions.model_dump(exclude_unset=True) == {"chosen": "trial-0000"}
    assert (journal.asked_in("search"), journal.asked_in("selection")) == (2, 0)


def test_runs_share_what_is_equal_of_their_configurations_and_nothing_else(tmp_path):
    trial = run_spec("any").trial
    specs = [
        run_spec(f"trial-000{place}", trial=with_values(trial, {"loss.k": k})) for place, k in enumerate((4, 8, 8))
    ]
    before = [spec.model_dump_json() for spec in specs]
    journal = Journal(tmp_path / "j")
    for spec in specs:
        journal.asked(spec)
    journal.close()
    for runs in (journal.stage("search"), Journal(tmp_path / "j").stage("search")):
        assert [run.spec.model_dump_json() for run in runs] == before
        first, second, third = (run.spec.trial for run in runs)
        assert first.model is second.model is third.model and first.loss is not second.loss
        assert [each.loss.k for each in (first, second, third)] == [4, 8, 8]


def test_an_epoch_is_taken_once(tmp_path):
    journal = filled(tmp_path / "j")
    assert not journal.reported("trial-0000", TrialReport(2, {"validation/map_at_r": 0.9}))
    assert journal.reported("trial-0001", TrialReport(2, {}))
    assert journal.runs["trial-0000"].last("validation/map_at_r") == 0.5


def test_the_checksum_of_a_line_is_that_of_its_number_and_its_text(whole):
    for number, line in enumerate(whole.splitlines(), start=1):
        text, _, rest = line.rpartition(b',"crc32":"')
        assert int(rest[:8], 16) == zlib.crc32(f"{number}:".encode() + text)


def test_reading_changes_nothing(tmp_path, whole):
    Journal(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "j").write_bytes(whole[:-5])
    assert "in part" in Journal(tmp_path / "j").damage
    assert (tmp_path / "j").read_bytes() == whole[:-5]


def check_recovered(path: Path, states: list[tuple]) -> bool:
    """The journal at `path` is refused unchanged, or it says what some first lines of the undamaged one say, the rest lies
    beside it, and it can be written on; whether it was refused."""
    damaged = path.read_bytes()
    try:
        journal = Journal(path)
    except CtxtuneError as error:
        assert path.name in str(error)
        assert path.read_bytes() == damaged
        return True
    assert told(journal) in states
    words = journal.repair()
    journal.decided("after", 1)
    journal.close()
    beside = sorted(path.parent.glob(f"{path.name}.damaged-*"))
    assert bool(beside) == bool(words)
    if beside:
        assert beside[0].name in words
        assert damaged.endswith(beside[0].read_bytes())
    assert Journal(path).decisions.after == 1
    return False


@given(share=st.floats(0, 1))
def test_cut_anywhere_it_holds_the_whole_events_before_the_cut_and_can_be_written_on(
    tmp_path_factory, whole, states, share
):
    path = tmp_path_factory.mktemp("journal") / "j"
    cut = round(share * len(whole))
    path.write_bytes(whole[:cut])
    lines = whole[:cut].count(b"\n")
    assert told(Journal(path)) == states[lines]
    assert not check_recovered(path, states)
    pieces = [path.read_bytes(), *(each.read_bytes() for each in path.parent.glob("j.damaged-*"))]
    torn = whole[:cut].rpartition(b"\n")[2]
    assert pieces[0].startswith(whole[:cut][: cut - len(torn)])
    assert pieces[1:] == ([torn] if torn else [])


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_becomes_another_value(tmp_path_factory, whole, states, place, bit):
    path = tmp_path_factory.mktemp("journal") / "j"
    content = bytearray(whole)
    content[int(place * len(whole))] ^= 1 << bit
    path.write_bytes(bytes(content))
    refused = check_recovered(path, states)
    last = whole.rstrip(b"\n").rpartition(b"\n")[0]
    if int(place * len(whole)) < len(last):
        assert refused  # whole lines stand behind it: nothing may be cut


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_bit_of_all_becomes_another_value(tmp_path, whole, states):
    for position in range(len(whole)):
        for bit in range(8):
            folder = tmp_path / f"{position}-{bit}"
            folder.mkdir()
            content = bytearray(whole)
            content[position] ^= 1 << bit
            (folder / "j").write_bytes(bytes(content))
            check_recovered(folder / "j", states)
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()


@given(data=st.data())
def test_lines_that_are_lost_doubled_or_moved_are_noticed(tmp_path_factory, whole, states, data):
    path = tmp_path_factory.mktemp("journal") / "j"
    lines = whole.splitlines(keepends=True)
    first, second = sorted(data.draw(st.sets(st.integers(0, len(lines) - 1), min_size=2, max_size=2)))
    changed = data.draw(
        st.sampled_from(
            [
                [*lines[:first], *lines[first + 1 :]],
                [*lines[: first + 1], *lines[first:]],
                [*lines[:first], lines[second], *lines[first + 1 : second], lines[first], *lines[second + 1 :]],
            ]
        )
    )
    path.write_bytes(b"".join(changed))
    assert check_recovered(path, states) or path.with_name("j.damaged-1").exists()


def test_damage_in_the_middle_is_an_error_that_names_the_line(tmp_path):
    filled(tmp_path / "j").close()
    lines = (tmp_path / "j").read_bytes().splitlines(keepends=True)
    lines[3] = b"\x00\x00garbage\n"
    (tmp_path / "j").write_bytes(b"".join(lines))
    with pytest.raises(
        CtxtuneError, match=r"j:4: damaged.* 2 events before .*4 events behind it, of trial-0000, trial-0001"
    ):
        Journal(tmp_path / "j")
    # As the message says: with the whole lines before it the sweep can be resumed.
    (tmp_path / "j").write_bytes(b"".join(lines[:3]))
    assert Journal(tmp_path / "j").runs["trial-0000"].epoch == 1


def test_zeros_at_the_end_as_a_power_cut_leaves_them_are_set_aside(tmp_path, whole):
    (tmp_path / "j").write_bytes(whole + bytes(300) + b"\n" + bytes(50))
    journal = Journal(tmp_path / "j")
    assert journal.events == 7
    assert "damaged-1" in journal.repair()
    assert (tmp_path / "j").read_bytes() == whole
    assert len((tmp_path / "j.damaged-1").read_bytes()) == 351


@pytest.mark.parametrize(
    "line", [b"[]", b"7", b'{"event":"reported","key":"nobody","metrics":{}}', b'{"event":"invented"}', b"{}"]
)
def test_in_an_old_journal_a_line_that_is_json_but_no_event_of_ours_is_damage_too(tmp_path, line):
    filled(tmp_path / "j").close()
    without_checksums(tmp_path / "j")
    lines = (tmp_path / "j").read_bytes().splitlines(keepends=True)
    (tmp_path / "j").write_bytes(b"".join([*lines[:4], line + b"\n", *lines[4:]]))
    with pytest.raises(CtxtuneError, match=r"j:5: damaged"):
        Journal(tmp_path / "j")


def test_an_old_journal_without_checksums_is_read_and_has_them_from_then_on(tmp_path):
    filled(tmp_path / "j").close()
    expected = told(Journal(tmp_path / "j"))
    without_checksums(tmp_path / "j")
    old = (tmp_path / "j").read_bytes()
    journal = Journal(tmp_path / "j")
    assert told(journal) == expected
    journal.decided("after", 1)
    journal.close()
    content = (tmp_path / "j").read_bytes()
    assert content.startswith(old)
    assert json.loads(content[len(old) :].splitlines()[0])["event"] == "format"
    assert content[len(old) :].count(b'"crc32"') == 2
    assert Journal(tmp_path / "j").decisions.model_dump(exclude_unset=True) == {"chosen": "trial-0000", "after": 1}
    # A line that somebody takes the checksum from is not taken for an old one.
    (tmp_path / "j").write_bytes(content + b'{"event":"decided","name":"chosen","value":"trial-0001"}\n')
    assert "no checksum" in Journal(tmp_path / "j").damage


def append(path: Path, event: dict) -> None:
    """An event as a later version may write it, with the checksum that belongs to it."""
    text = json.dumps(event, separators=(",", ":")).encode()[:-1]
    number = path.read_bytes().count(b"\n") + 1
    with path.open("ab") as file:
        file.write(text + f',"crc32":"{zlib.crc32(f"{number}:".encode() + text):08x}"}}\n'.encode())


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({"event": "paused", "key": "trial-0001"}, "an event 'paused'"),
        ({"event": "ended", "key": "trial-0001", "state": "postponed"}, "ended: state"),
        ({"event": "ended", "key": "trial-0001", "state": "failed", "exit_status": 1}, "exit_status"),
        ({"event": "format", "version": 99, "ctxtune": "9.0"}, "format 99 of ctxtune 9.0"),
    ],
)
def test_an_event_of_a_newer_version_is_refused_and_kept(tmp_path, event, words):
    filled(tmp_path / "j").close()
    append(tmp_path / "j", event)
    before = (tmp_path / "j").read_bytes()
    with pytest.raises(CtxtuneError, match=r"another.*Go on with that version; nothing was changed") as raised:
        Journal(tmp_path / "j")
    assert words in str(raised.value) and "j:9" in str(raised.value)
    assert (tmp_path / "j").read_bytes() == before


WRITER = """
import sys
from pathlib import Path
from ctxtune.tuning.record.journal import Journal
from tests.helpers.specs import run_spec
journal = Journal(Path(sys.argv[1]))
for number in range(100000):
    journal.asked(run_spec(f"trial-{number}", seed=number))
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
    assert [run.spec.seed for run in runs] == list(range(len(runs)))


FULL = """
import resource, signal, sys
from pathlib import Path
from ctxtune.tuning.record.journal import DiskFullError, Journal
from tests.helpers.specs import run_spec
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    for number in range(1000):
        journal.asked(run_spec(f"trial-{number}", seed=number))
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
    assert journal.damage == ""
    assert len(journal.runs) == int(printed[0]) > 2
    assert issubclass(DiskFullError, CtxtuneError)


@pytest.mark.parametrize("replaced", [False, True])
def test_an_event_is_not_written_where_nobody_will_find_it(tmp_path, replaced):
    """The folder was renamed under a running sweep, or deleted: what is open is written no more."""
    folder = tmp_path / "sweep"
    journal = filled(folder / "j")
    before = told(journal)
    folder.rename(tmp_path / "moved")
    if replaced:
        Journal(folder / "j").asked(run_spec("trial-0007"))
    with pytest.raises(DiskFullError, match=r"moved, deleted or replaced .*--resume"):
        journal.ended("trial-0001", "failed", "its checkpoint has no folder")
    assert told(journal) == before == told(Journal(tmp_path / "moved/j"))
    if not replaced:
        (tmp_path / "moved").rename(folder)
        journal.ended("trial-0001", "completed")
        assert Journal(folder / "j").runs["trial-0001"].state == "completed"
