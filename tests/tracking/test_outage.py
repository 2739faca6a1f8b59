"""Servers, writers and disks that fail for real."""

import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ctxtune import network_folders
from ctxtune.errors import TrackingError
from ctxtune.tracking import (
    SpoolFullError,
    Tracker,
    find_sweep,
    metric_histories,
    metric_history,
    read_runs,
    read_text,
    replay,
)
from ctxtune.tracking.__main__ import main
from ctxtune.tracking.delivery_process import SpoolDelivery
from ctxtune.tracking.spool import Spool
from tests.helpers.disks import fill, tiny_disk
from tests.helpers.processes import PATIENCE, free_port, wait_for
from tests.helpers.tracking import expected_rows, kill_server, metric_rows, new_store, rows, start_server

METRICS = ["train/loss", "validation/map_at_r"]


def log_steps(tracker: Tracker, keys: list[str], steps: range) -> None:
    for step in steps:
        for key in keys:
            tracker.log_metrics(key, dict.fromkeys(METRICS, 0.1 * step), step)


def test_a_server_that_comes_back_has_every_metric_once(tmp_path) -> None:
    store, port = new_store(tmp_path), free_port()
    keys = [f"trial-{number}" for number in range(4)]
    server = start_server(store, port, tmp_path / "artifacts")
    try:
        tracker = Tracker(f"http://127.0.0.1:{port}", "outage", tmp_path / "spool")
        tracker.check()
        tracker.start_run("sweep", name="outage", kind="sweep")
        tracker.log_text("sweep", "name: outage\n", "search_space.yaml")
        for key in keys:
            tracker.start_run(key, name=key, kind="trial", parent="sweep", params={"loss.k": 4})
        log_steps(tracker, keys, range(10))
        wait_for(
            lambda: tracker.pending < 30, PATIENCE, "the delivery", step=0.02
        )  # killed in the middle of the delivery
        kill_server(server)
        log_steps(tracker, keys, range(10, 20))
        tracker.start_run("late", name="late", kind="trial", parent="sweep")
        log_steps(tracker, ["late"], range(5))
        tracker.end_run("late", "completed")
        wait_for(lambda: tracker.last_error is not None, PATIENCE, "the error")
        assert not tracker.flush(timeout=0.3)
        server = start_server(store, port, tmp_path / "artifacts")
        log_steps(tracker, keys, range(20, 22))
        for key in keys:
            tracker.end_run(key, "completed")
        assert tracker.flush(timeout=PATIENCE), tracker.last_error
        wait_for(lambda: tracker.last_error is None, PATIENCE, "the end of the outage, as told")
        assert tracker.close()

        assert metric_rows(store) == sorted(
            expected_rows(keys, METRICS, range(22)) + expected_rows(["late"], METRICS, range(5))
        )
        # and the reading side says the same over HTTP
        uri = f"http://127.0.0.1:{port}"
        runs = read_runs(uri, "outage", "trial")
        assert sorted(run.key for run in runs) == ["late", *keys]
        assert {run.state for run in runs} == {"completed"}
        sweep = find_sweep(uri, "outage")
        assert {run.parent for run in runs} == {sweep.run_id}
        assert read_text(uri, sweep.run_id, "search_space.yaml") == "name: outage\n"
        histories = metric_histories(uri, [run.run_id for run in runs], "validation/map_at_r")
        for run in runs:
            points = [(point.step, point.value) for point in histories[run.run_id]]
            assert points == [(step, 0.1 * step) for step in range(5 if run.key == "late" else 22)]
            assert metric_history(uri, run.run_id, "none") == []
    finally:
        kill_server(server)


def test_a_server_that_never_comes_back_is_replaced_by_replay(tmp_path, capsys, refusing_port) -> None:
    keys = ["trial-0", "trial-1"]
    tracker = Tracker(f"http://127.0.0.1:{refusing_port}", "gone", tmp_path / "spool")
    for key in keys:
        tracker.start_run(key, name=key, kind="trial")
    log_steps(tracker, keys, range(5))
    (tmp_path / "weights.pt").write_bytes(b"weights")
    tracker.log_artifact("trial-0", tmp_path / "weights.pt", "checkpoints")
    (tmp_path / "weights.pt").write_bytes(b"overwritten")
    assert not tracker.close(timeout=0.2)
    assert main(["replay", str(tmp_path / "spool")]) == 2
    said = capsys.readouterr().err
    assert "cannot be reached" in said
    assert "13 events stay spooled" in said
    uri = new_store(tmp_path / "elsewhere")
    command = [sys.executable, "-m", "ctxtune.tracking", "replay", str(tmp_path / "spool"), "--uri", uri]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "13 events were delivered" in done.stdout
    assert metric_rows(uri) == expected_rows(keys, METRICS, range(5))
    (weights,) = (tmp_path / "elsewhere").rglob("weights.pt")
    assert weights.read_bytes() == b"weights"
    assert main(["replay", str(tmp_path / "nowhere")]) == 2
    assert "There is no tracking spool" in capsys.readouterr().err


WRITER = """
import sys
from pathlib import Path
from ctxtune.tracking import Tracker

uri, folder, first = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
tracker = Tracker(uri, "killed", folder / "spool")
tracker.start_run("trial", name="trial", kind="trial", params={"loss.k": 4})
for step in range(max(0, first - 5), first + 100_000):
    tracker.log_metrics("trial", {"train/loss": 1.0 / (step + 1), "validation/map_at_r": 0.1}, step)
    print(step, flush=True)
"""


def write_and_die(uri: str, folder: Path, first: int, steps: int) -> int:
    """Log in another process from `first` on (and the five steps before it again), killed after `steps` steps."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, uri, str(folder), str(first)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    last = first - 1
    for line in writer.stdout:
        last = int(line)
        if last >= first + steps:
            writer.kill()
            break
    for line in writer.stdout:  # what it had said by then
        last = int(line) if line.endswith("\n") else last
    writer.wait()
    return last


@pytest.mark.parametrize("deaths", [1, pytest.param(15, marks=pytest.mark.slow)])
def test_a_killed_writer_loses_nothing_that_it_was_told_is_logged(tmp_path, deaths: int) -> None:
    uri = new_store(tmp_path)
    last = -1
    for death in range(deaths):
        last = write_and_die(uri, tmp_path, last + 1, 40 + 31 * death)
    tracker = Tracker(uri, "killed", tmp_path / "spool")
    tracker.log_metrics("trial", dict.fromkeys(METRICS, 0.0), last + 2)
    tracker.end_run("trial", "completed")
    assert tracker.close(), tracker.last_error
    found = metric_rows(uri)
    # The very last append may have been made without being said.
    steps = [step for _, metric, step in found if metric == "train/loss"]
    assert steps in (list(range(last + 3)), [*range(last + 1), last + 2])
    assert found == sorted([("trial", metric, step) for metric in METRICS for step in steps])
    assert rows(
        uri,
        "SELECT COUNT(*), MIN(status) FROM runs JOIN experiments USING (experiment_id) "
        "WHERE experiments.name = 'killed'",
    ) == [(1, "FINISHED")]


@pytest.mark.parametrize("deaths", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_a_delivery_killed_in_the_middle_doubles_nothing(tmp_path, deaths: int) -> None:
    uri = new_store(tmp_path)
    tracker = Tracker(uri, "middle", tmp_path / "spool", deliver=False)
    keys = [f"trial-{number}" for number in range(40 * deaths)]
    tracker.start_run("sweep", name="sweep", kind="sweep")
    for key in keys:
        tracker.start_run(key, name=key, kind="trial", parent="sweep", params={"loss.k": 4})
    log_steps(tracker, keys, range(5))
    for key in keys:
        tracker.end_run(key, "completed")
    tracker.close(timeout=0)
    spool = Spool(tmp_path / "spool")
    everything = spool.pending()
    for death in range(deaths):
        delivery = subprocess.Popen(
            [sys.executable, "-m", "ctxtune.tracking", "replay", str(tmp_path / "spool")], stderr=subprocess.PIPE
        )
        left = everything * (deaths - death - 0.5) / deaths
        wait_for(lambda left=left: spool.pending() < left, PATIENCE, "the delivery", step=0.02)
        delivery.kill()
        delivery.wait()
    assert 0 < spool.pending() < everything
    spool.close()
    replay(tmp_path / "spool")
    assert metric_rows(uri) == expected_rows(keys, METRICS, range(5))
    runs = read_runs(uri, "middle")
    assert sorted(run.key for run in runs) == sorted(["sweep", *keys])
    assert {run.state for run in runs if run.kind == "trial"} == {"completed"}
    assert {run.params["loss.k"] for run in runs if run.kind == "trial"} == {"4"}
    assert {run.parent for run in runs} == {None, find_sweep(uri, "middle").run_id}


def test_a_torn_end_of_the_log_costs_only_the_torn_events(tmp_path) -> None:
    tracker = Tracker("sqlite:///mlflow.db", "torn", tmp_path / "spool", deliver=False)
    tracker.start_run("trial", name="trial", kind="trial")
    log_steps(tracker, ["trial"], range(50))
    # What a power cut leaves: the files as they are now, the log's last page half written.
    crashed = tmp_path / "crashed"
    shutil.copytree(tmp_path / "spool", crashed)
    with (crashed / "spool.db-wal").open("r+b") as log:
        log.truncate((crashed / "spool.db-wal").stat().st_size - 2000)
    tracker.close(timeout=0)
    uri = new_store(tmp_path)
    again = Tracker(uri, "torn", crashed, deliver=False)
    log_steps(again, ["trial"], range(45, 60))
    again.close()
    replay(crashed)
    assert metric_rows(uri) == expected_rows(["trial"], METRICS, range(60))


def test_a_full_disk_is_one_clear_error_and_costs_nothing_spooled(tmp_path) -> None:
    uri = new_store(tmp_path)
    with tiny_disk(tmp_path / "disk", 4096) as disk:
        tracker = Tracker(uri, "full", disk / "spool")
        ballast = disk / "ballast"
        tracker.start_run("trial", name="trial", kind="trial")
        log_steps(tracker, ["trial"], range(10))
        fill(ballast)
        logged = 10
        with pytest.raises(SpoolFullError, match="is full") as caught:
            while logged < 100_000:
                tracker.log_metrics("trial", {**dict.fromkeys(METRICS, 0.5)}, logged)
                logged += 1
        assert isinstance(caught.value, TrackingError)
        with pytest.raises(SpoolFullError, match="is full"):
            tracker.log_text("trial", "x" * 100_000, "big.txt")
        tracker.close(timeout=1)
        ballast.unlink()
        tracker = Tracker(uri, "full", disk / "spool", deliver=False)  # the sweep is resumed
        tracker.log_metrics("trial", dict.fromkeys(METRICS, 0.5), logged)
        tracker.end_run("trial", "completed")
        tracker.close()
        replay(disk / "spool")
    assert metric_rows(uri) == expected_rows(["trial"], METRICS, range(logged + 1))


def deliver_until(written: threading.Event, folder: Path, uri: str) -> int:
    """Deliver what a spool holds, as the delivery process does, beside its writer; how many events that were."""
    spool = Spool(folder)
    delivery = SpoolDelivery(spool, uri, "shared")
    while not written.is_set() or delivery.delivered == 0:
        delivery.run_once()
    spool.close()
    return delivery.delivered


def test_on_a_network_file_system_the_spool_shares_no_memory_and_loses_nothing(tmp_path, monkeypatch) -> None:
    """SQLite's write-ahead log is for one machine's processes; a sweep that is resumed may be on another one."""
    tracker = Tracker("sqlite:///mlflow.db", "shared", tmp_path / "spool", deliver=False)
    tracker.start_run("trial", name="trial", kind="trial")
    log_steps(tracker, ["trial"], range(20))
    assert (tmp_path / "spool/spool.db-wal").exists()  # on a local disk
    tracker.close(timeout=0)
    mounts = tmp_path / "mounts"
    mounts.write_text(f"22 1 0:52 / {tmp_path.resolve()} rw - nfs4 server:/results rw\n")
    monkeypatch.setattr(network_folders, "MOUNTS", mounts)
    uri = new_store(tmp_path)
    again = Tracker(uri, "shared", tmp_path / "spool", deliver=False)
    written = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        delivered = pool.submit(deliver_until, written, tmp_path / "spool", uri)  # while more is written
        log_steps(again, ["trial"], range(15, 60))
        written.set()
        assert delivered.result(PATIENCE) > 0
    assert {path.name for path in (tmp_path / "spool").glob("spool.db*")} <= {"spool.db", "spool.db-journal"}
    again.close(timeout=0)
    replay(tmp_path / "spool")
    assert metric_rows(uri) == expected_rows(["trial"], METRICS, range(60))
