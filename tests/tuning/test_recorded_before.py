"""Results that an earlier version has left: a sweep that was killed goes on, what has finished is reported.

They were recorded with the version before journals had checksums. ``@FOLDER@`` stands for the folder in which it was run.
"""

import json
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

from ctxtune.config import load_search_space
from ctxtune.report import main as report
from ctxtune.sweep import main as sweep
from ctxtune.tracking import read_runs
from ctxtune.tuning.record.journal import Journal
from tests.helpers.processes import PATIENCE, environment, run_here
from tests.helpers.simulated import drive

RECORDED = Path(__file__).parents[1] / "data/recorded/recorded.tar.gz"
KILLED = "results/recorded-killed/journal.jsonl"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    """The recorded folder as it was."""
    folder = tmp_path_factory.mktemp("recorded")
    with tarfile.open(RECORDED) as archive:
        for member in archive:
            content = archive.extractfile(member).read()
            path = folder / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix != ".pt":
                content = content.decode().replace("@FOLDER@", str(folder)).encode()
            if path.suffix == ".sql":
                with sqlite3.connect(path.with_suffix("")) as database:
                    database.executescript(content.decode())
            else:
                path.write_bytes(content)
    return folder


def kept(before: Journal, after: Journal) -> None:
    """What had happened is still there, and every run has come to its end without an epoch twice."""
    for key, record in before.runs.items():
        assert after.runs[key].spec == record.spec
        assert after.runs[key].reports[: len(record.reports)] == record.reports
        if record.state != "running":
            assert after.runs[key] == record
    for record in after.runs.values():
        assert record.state in ("completed", "pruned")
        assert [report.epoch for report in record.reports] == list(range(1, record.epoch + 1))


def test_the_journal_of_a_sweep_that_was_killed_is_gone_on_with(recorded, tmp_path):
    """The driver, its sampler and its rungs go on with it; runs themselves are simulated."""
    journal = tmp_path / "journal.jsonl"
    old_lines = (recorded / KILLED).read_bytes()
    journal.write_bytes(old_lines)
    before = Journal(journal)
    before.close()
    file = recorded / "results/recorded-killed/space.yaml"
    after, _ = drive(load_search_space(file, ["search.trials=5", "select=null", "confirm=null"]), journal, hours=0.1)
    assert journal.read_bytes().startswith(old_lines)
    kept(before, after)
    assert len(after.runs) == 5


@pytest.mark.slow
@pytest.mark.ray
def test_a_sweep_that_was_killed_goes_on_where_it_was(repository, recorded):
    before = Journal(recorded / KILLED)
    old_lines = (recorded / KILLED).read_bytes()
    uri = f"sqlite:///{recorded / 'mlflow.db'}"
    tracked_before = {tracked.key: tracked for tracked in read_runs(uri, "recorded-killed")}
    states = {key: record.state for key, record in before.runs.items()}
    assert set(states.values()) == {"completed", "pruned", "running"}
    # The resolved file that lies there is the sweep's own; shorter than it was, so that the test is.
    short = ["--set", "search.trials=5", "--set", "select=null", "--set", "confirm=null"]
    done = subprocess.run(
        [sys.executable, "-m", "ctxtune.sweep", "results/recorded-killed/space.yaml", *short, "--resume"],
        cwd=recorded, env=environment(repository), capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    after = Journal(recorded / KILLED)
    assert (recorded / KILLED).read_bytes().startswith(old_lines)
    kept(before, after)
    tracked_after = {tracked.key: tracked for tracked in read_runs(uri, "recorded-killed")}
    assert len(tracked_after) == 1 + len(after.runs)
    for key, tracked in tracked_before.items():
        assert tracked_after[key].run_id == tracked.run_id
    assert {tracked.state for tracked in tracked_after.values()} <= {"completed", "pruned"}
    (parent,) = (tracked for tracked in tracked_after.values() if tracked.kind == "sweep")
    assert (parent.params["search.trials"], parent.tags["resumed.search.trials"]) == ("8", "5")
    summary = json.loads((recorded / "results/recorded-killed/summary.json").read_text())
    assert sum(summary["states"].values()) == 5


def test_what_had_finished_is_reported(recorded):
    old = json.loads((recorded / "results/recorded-finished/summary.json").read_text())
    for name in ("recorded-finished", "recorded-ablation"):
        done = run_here(report, recorded, name, "--out", str(recorded / "reports" / name))
        assert done.returncode == 0, done.stderr
        texts = [path.read_text(errors="replace") for path in (recorded / "reports" / name).rglob("*.md")]
        assert any(name in text for text in texts)
        if name == "recorded-finished":
            assert any(old["chosen"] in text for text in texts)


def test_a_last_step_that_fails_is_told_and_taken_again_to_the_same_outcome(recorded):
    folder = recorded / "results/recorded-finished"
    best = yaml.safe_load((folder / "best.yaml").read_text())["trial"]
    old = json.loads((folder / "summary.json").read_text())
    (folder / "best.yaml").unlink()
    (folder / "best.yaml").mkdir()  # an error of the file system, when all is done
    # Where no cluster is: all runs have ended, so none is asked for.
    command = ["results/recorded-finished/space.yaml", "--resume", "--address", "127.0.0.1:9"]
    stopped = run_here(sweep, recorded, *command)
    assert stopped.returncode == 1, stopped.stderr
    assert "best.yaml: cannot be written (Is a directory)" in stopped.stderr
    assert "-m ctxtune.sweep results/recorded-finished/space.yaml --address 127.0.0.1:9 --resume" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    (folder / "best.yaml").rmdir()
    (folder / "best.pt").unlink()  # the checkpoint that it was copied from was not recorded
    done = run_here(sweep, recorded, *command)
    assert done.returncode == 3, done.stderr
    assert "0 pending, 0 refused; files missing: best.pt (the checkpoint" in done.stderr
    again = yaml.safe_load((folder / "best.yaml").read_text())["trial"]
    assert all(again[block] | values == again[block] for block, values in best.items() if isinstance(values, dict))
    new = json.loads((folder / "summary.json").read_text())
    for name in ("chosen", "point", "start_point", "states", "search_scores", "selection"):
        assert new[name] == old[name], name
    confirmed = {each["metric"]: each for each in new["confirmed"]}  # verdicts have other words since
    for each in old["confirmed"]:
        assert {**confirmed[each["metric"]], "verdict": None} == {**each, "verdict": None}
