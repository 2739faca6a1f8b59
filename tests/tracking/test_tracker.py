import base64
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable

import pytest

from ctxtune.errors import TrackingError
from ctxtune.tracking import Tracker, check_store, read_runs, replay
from ctxtune.tracking.checking import ask_store
from tests.helpers.processes import PATIENCE, command_lines, wait_for
from tests.helpers.tracking import expected_rows, metric_rows, new_store, rows


def run_tags(uri: str, key: str) -> dict[str, str]:
    found = rows(
        uri,
        "SELECT key, value FROM tags WHERE run_uuid = "
        "(SELECT run_uuid FROM tags WHERE key = 'ctxtune.key' AND value = ?)",
        key,
    )
    return dict(found)


def run_row(uri: str, key: str) -> tuple:
    found = rows(
        uri,
        "SELECT status, start_time, end_time, run_uuid FROM runs WHERE run_uuid IN "
        "(SELECT run_uuid FROM tags WHERE key = 'ctxtune.key' AND value = ?)",
        key,
    )
    assert len(found) == 1
    return found[0]


def log_trial(tracker: Tracker, key: str, steps: range, *, parent: str | None = None) -> None:
    tracker.start_run(key, name=f"name of {key}", kind="trial", parent=parent, params={"loss": {"k": 4}})
    for step in steps:
        tracker.log_metrics(key, {"train/loss": 1.0 / (step + 1), "validation/map_at_r": 0.1 * step}, step)


def deliver(tracker: Tracker) -> None:
    """Deliver in this process (where MLflow is imported once) what a spool-only tracker wrote."""
    folder = tracker.folder
    tracker.close(timeout=0)
    replay(folder)


def test_a_sweep_arrives_whole(tmp_path) -> None:
    uri = new_store(tmp_path)
    before = time.time_ns() // 1_000_000
    tracker = Tracker(uri, "cars", tmp_path / "spool")
    tracker.check()
    tracker.start_run("sweep", name="cars", kind="sweep", tags={"origin": "test"})
    assert tracker.flush(PATIENCE)
    assert tracker._process is not None
    os.kill(tracker._process.pid, 9)  # the delivery process dies and is replaced
    tracker._process.wait()
    assert "status -9" in (tracker.last_error or "")
    log_trial(tracker, "trial-1", range(3), parent="sweep")
    tracker.log_metrics("trial-1", {"odd": math.nan, "endless": math.inf}, 1, timestamp_ms=5)
    tracker.log_params("trial-1", {"sampler": {"seed": 0}})
    tracker.set_tags("trial-1", {"color": "red"})
    tracker.set_tags("trial-1", {"color": "blue"})
    tracker.log_text("trial-1", "a: 1\n", "settings/config.yaml")
    plot = tmp_path / "plot.png"
    plot.write_bytes(b"\x89PNG")
    tracker.log_artifact("trial-1", plot, "plots")
    plot.unlink()
    tracker.end_run("trial-1", "pruned", "asha at epoch 2")
    assert tracker.flush(PATIENCE), tracker.last_error
    assert tracker.last_error is None
    assert tracker.pending == 0
    assert tracker.close()

    status, start, end, run_id = run_row(uri, "trial-1")
    assert status == "FINISHED"
    assert before <= start <= end <= time.time_ns() // 1_000_000
    tags = run_tags(uri, "trial-1")
    assert tags["mlflow.parentRunId"] == run_row(uri, "sweep")[3]
    assert tags["mlflow.runName"] == "name of trial-1"
    expected = {"kind": "trial", "state": "pruned", "reason": "asha at epoch 2", "color": "blue"}
    assert {name: tags[name] for name in expected} == expected
    assert run_row(uri, "sweep")[0] == "RUNNING"
    params = rows(uri, "SELECT key, value FROM params WHERE run_uuid = ? ORDER BY key", run_id)
    assert params == [("loss.k", "4"), ("sampler.seed", "0")]
    values = rows(uri, "SELECT value FROM metrics WHERE key = 'train/loss' ORDER BY step")
    assert values == [(1.0,), (0.5,), (1.0 / 3,)]
    assert rows(uri, "SELECT is_nan, step, timestamp FROM metrics WHERE key = 'odd'") == [(1, 1, 5)]
    assert rows(uri, "SELECT value > 1e300 FROM metrics WHERE key = 'endless'") == [(1,)]
    artifacts = tmp_path / "mlruns" / "cars" / run_id / "artifacts"
    assert (artifacts / "settings" / "config.yaml").read_text() == "a: 1\n"
    assert (artifacts / "plots" / "plot.png").read_bytes() == b"\x89PNG"
    assert list((tmp_path / "spool" / "files").iterdir()) == []


def test_states_become_mlflow_statuses(tmp_path) -> None:
    uri = new_store(tmp_path)
    tracker = Tracker(uri, "states", tmp_path / "spool", deliver=False)
    statuses = {"completed": "FINISHED", "pruned": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
    for state in statuses:
        tracker.start_run(state, name=state, kind="trial")
        tracker.end_run(state, state, "why")
    tracker.start_run("back", name="back", kind="trial")
    tracker.end_run("back", "killed", "power cut")
    tracker.reopen_run("back")
    with pytest.raises(ValueError, match="completed, pruned, failed, killed"):
        tracker.end_run("back", "finished")
    deliver(tracker)
    assert {state: run_row(uri, state)[0] for state in statuses} == statuses
    assert run_row(uri, "back")[0] == "RUNNING"
    assert run_tags(uri, "back")["state"] == "running"


def test_a_step_is_logged_once_whoever_repeats_it(tmp_path) -> None:
    uri = new_store(tmp_path)
    tracker = Tracker(uri, "once", tmp_path / "spool", deliver=False)
    log_trial(tracker, "trial", range(5))
    log_trial(tracker, "trial", range(3, 7))  # a trial that went on from a checkpoint
    deliver(tracker)
    tracker = Tracker(uri, "once", tmp_path / "spool", deliver=False)  # a driver that was started again
    log_trial(tracker, "trial", range(6, 9))
    deliver(tracker)
    assert metric_rows(uri) == expected_rows(["trial"], ["train/loss", "validation/map_at_r"], range(9))
    assert rows(uri, "SELECT COUNT(*) FROM tags WHERE key = 'ctxtune.key' AND value = 'trial'") == [(1,)]


def test_a_lost_spool_does_not_double_runs_or_steps(tmp_path) -> None:
    uri = new_store(tmp_path)
    for number, steps in enumerate((range(4), range(2, 6))):
        tracker = Tracker(uri, "lost", tmp_path / f"spool-{number}", deliver=False)
        log_trial(tracker, "trial", steps)
        deliver(tracker)
    assert metric_rows(uri) == expected_rows(["trial"], ["train/loss", "validation/map_at_r"], range(6))
    assert len(read_runs(uri, "lost")) == 1


def test_a_parent_known_to_the_server_only_is_found(tmp_path) -> None:
    uri = new_store(tmp_path)
    first = Tracker(uri, "parents", tmp_path / "one", deliver=False)
    first.start_run("sweep", name="sweep", kind="sweep")
    deliver(first)
    second = Tracker(uri, "parents", tmp_path / "two", deliver=False)
    second.start_run("trial", name="trial", kind="trial", parent="sweep")
    deliver(second)
    assert run_tags(uri, "trial")["mlflow.parentRunId"] == run_row(uri, "sweep")[3]


def test_a_replaced_database_gets_the_runs_anew(tmp_path) -> None:
    uri = new_store(tmp_path / "first")
    tracker = Tracker(uri, "wiped", tmp_path / "spool", deliver=False)
    log_trial(tracker, "trial", range(2))
    deliver(tracker)
    uri = new_store(tmp_path / "second")
    tracker = Tracker(uri, "wiped", tmp_path / "spool", deliver=False)
    tracker.log_metrics("trial", {"train/loss": 0.1}, 2)
    deliver(tracker)
    assert metric_rows(uri) == [("trial", "train/loss", 2)]
    assert rows(uri, "SELECT value FROM params WHERE key = 'loss.k'") == [("4",)]


def test_a_run_that_the_server_lost_is_made_anew(tmp_path) -> None:
    uri = new_store(tmp_path)
    tracker = Tracker(uri, "lost", tmp_path / "spool", deliver=False)
    log_trial(tracker, "trial", range(2))
    deliver(tracker)
    run_id = run_row(uri, "trial")[3]
    for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
        rows(uri, f"DELETE FROM {table} WHERE run_uuid = ?", run_id)
    tracker = Tracker(uri, "lost", tmp_path / "spool", deliver=False)
    tracker.log_metrics("trial", {"train/loss": 0.1}, 2)
    tracker.end_run("trial", "completed")
    deliver(tracker)
    assert metric_rows(uri) == [("trial", "train/loss", 2)]
    assert rows(uri, "SELECT value FROM params WHERE key = 'loss.k'") == [("4",)]
    assert run_row(uri, "trial")[0] == "FINISHED"
    assert run_row(uri, "trial")[3] != run_id


def test_what_mlflow_refuses_is_set_aside_and_the_rest_arrives(tmp_path) -> None:
    uri = new_store(tmp_path)
    tracker = Tracker(uri, "refusals", tmp_path / "spool", deliver=False)
    log_trial(tracker, "trial", range(2))
    deliver(tracker)
    tracker = Tracker(uri, "refusals", tmp_path / "spool", deliver=False)
    tracker.log_params("trial", {"loss.k": 8, "loss.epsilon": 0.05, "note": "x" * 9000})
    tracker.log_metrics("trial", {"train/loss": 0.5, "recall@1": 0.5}, 2)
    tracker.close(timeout=0)
    with pytest.raises(TrackingError, match="1 are refused"):
        replay(tmp_path / "spool")
    params = dict(rows(uri, "SELECT key, value FROM params"))
    assert (params["loss.k"], params["loss.epsilon"], len(params["note"])) == ("4", "0.05", 6000)
    assert rows(uri, "SELECT value FROM metrics WHERE key = 'recall_1' AND step = 2") == [(0.5,)]
    status = subprocess.run(
        [sys.executable, "-m", "ctxtune.tracking", "status", str(tmp_path / "spool")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "0 events pending, 1 refused" in status.stdout
    assert "refused params of trial: INVALID_PARAMETER_VALUE" in status.stdout


def test_many_params_and_metrics_are_sent_in_portions(tmp_path) -> None:
    uri = new_store(tmp_path)
    tracker = Tracker(uri, "many", tmp_path / "spool", deliver=False)
    tracker.start_run("trial", name="trial", kind="trial", params={f"p{i}": "x" * 5000 for i in range(250)})
    tracker.set_tags("trial", {f"t{i}": "y" * 7000 for i in range(130)})
    for step in range(30):
        tracker.log_metrics("trial", {f"m{i}": float(i) for i in range(100)}, step)
    deliver(tracker)
    assert rows(uri, "SELECT COUNT(*) FROM params") == [(250,)]
    assert rows(uri, "SELECT COUNT(*) FROM tags WHERE key LIKE 't%' AND LENGTH(value) = 7000") == [(130,)]
    assert rows(uri, "SELECT COUNT(*) FROM metrics") == [(3000,)]


def test_what_waits_of_one_run_goes_in_one_request(tmp_path, monkeypatch) -> None:
    """However its events lie among those of others: a server slower than a fleet gets larger requests, not more."""
    from mlflow import MlflowClient

    requests = []
    send = MlflowClient.log_batch
    monkeypatch.setattr(MlflowClient, "log_batch", lambda *given, **named: requests.append(1) or send(*given, **named))
    uri = new_store(tmp_path)
    tracker = Tracker(uri, "behind", tmp_path / "spool", deliver=False)
    keys = [f"trial-{number:02d}" for number in range(12)]
    for key in keys:
        tracker.start_run(key, name=key, kind="trial", params={f"loss.p{number}": 4 for number in range(100)})
    for step in range(100):
        for key in keys:
            tracker.log_metrics(key, {"train/loss": 1.0}, step)
    deliver(tracker)
    assert len(requests) == len(keys)
    assert metric_rows(uri) == expected_rows(keys, ["train/loss"], range(100))


def test_eight_threads_lose_and_double_nothing(tmp_path) -> None:
    uri = new_store(tmp_path)
    tracker = Tracker(uri, "threads", tmp_path / "spool", deliver=False)
    keys = [f"trial-{number}" for number in range(8)]
    failures: list[Exception] = []

    def work(own: str) -> None:
        try:
            log_trial(tracker, own, range(10))
            for shared in keys:  # and everyone repeats everyone's steps
                tracker.start_run(shared, name=shared, kind="trial")
                tracker.log_metrics(shared, {"shared": 1.0}, 0)
            tracker.end_run(own, "completed")
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work, args=(key,)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    deliver(tracker)
    expected = expected_rows(keys, ["train/loss", "validation/map_at_r"], range(10))
    assert metric_rows(uri) == sorted(expected + expected_rows(keys, ["shared"], range(1)))
    assert rows(uri, "SELECT COUNT(*) FROM runs WHERE status = 'FINISHED'") == [(8,)]


def test_a_saved_view_shows_what_was_searched(tmp_path) -> None:
    uri = new_store(tmp_path)
    tracker = Tracker(uri, "views", tmp_path / "spool", deliver=False)
    assert tracker.ui_link("http://127.0.0.1:5000") is None
    tracker.describe("**Sweep** of *cars*")
    for dimensions in (["loss.k"], ["loss.k", "optimizer.lr"]):
        tracker.save_view("Trials by MAP@R", "validation/map_at_r", dimensions)
    deliver(tracker)
    number = rows(uri, "SELECT experiment_id FROM experiments WHERE name = 'views'")[0][0]
    tags = dict(rows(uri, "SELECT key, value FROM experiment_tags WHERE experiment_id = ?", number))
    assert tags["mlflow.note.content"] == "**Sweep** of *cars*"
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    view = json.loads(tags["mlflow.sharedViewState.ctxtune-trials-by-map-r"])
    assert view["name"] == "Trials by MAP@R"
    page = json.loads(zlib.decompress(base64.b64decode(view["state"].removeprefix("deflate;"))))
    assert (page["orderByKey"], page["orderByAsc"]) == ("metrics.`validation/map_at_r`", False)
    assert "params.`optimizer.lr`" in page["selectedColumns"]
    assert page["compareRunCharts"][0]["selectedParams"] == ["loss.k", "optimizer.lr"]
    again = Tracker(uri, "views", tmp_path / "spool", deliver=False)
    assert again.ui_link("http://127.0.0.1:5000/", "Trials by MAP@R") == (
        f"http://127.0.0.1:5000/#/experiments/{number}/runs?workflowType=machine_learning"
        "&viewStateShareKey=ctxtune-trials-by-map-r"
    )
    again.close()


def test_programming_errors_are_said_at_once(tmp_path) -> None:
    tracker = Tracker("sqlite:///mlflow.db", "errors", tmp_path / "spool", deliver=False)
    with pytest.raises(TrackingError, match="'nobody'"):
        tracker.log_metrics("nobody", {"a": 1.0}, 0)
    with pytest.raises(ValueError, match="key"):
        tracker.start_run("it's", name="x", kind="trial")
    tracker.start_run("trial", name="x", kind="trial")
    with pytest.raises(TrackingError, match=r"missing\.png"):
        tracker.log_artifact("trial", tmp_path / "missing.png")
    tracker.close()
    with pytest.raises(TrackingError, match="closed"):
        tracker.set_tags("trial", {"a": "b"})


def test_a_spool_has_one_owner(tmp_path) -> None:
    tracker = Tracker("sqlite:///mlflow.db", "owner", tmp_path / "spool", deliver=False)
    with pytest.raises(TrackingError, match="in use"):
        Tracker("sqlite:///mlflow.db", "owner", tmp_path / "spool", deliver=False)
    with pytest.raises(TrackingError, match="in use"):
        replay(tmp_path / "spool")
    assert tracker.close()
    assert Tracker("sqlite:///mlflow.db", "owner", tmp_path / "spool", deliver=False).close()


def test_check_explains_what_is_wrong(tmp_path) -> None:
    def message(uri: str, check: Callable[[str, str], None] = check_store) -> str:
        with pytest.raises(TrackingError) as caught:
            check(uri, "check")
        return str(caught.value)

    (tmp_path / "other.db").write_bytes(b"not a database" * 100)
    assert "other.db cannot be read" in message(f"sqlite:///{tmp_path}/other.db")
    (tmp_path / "blocked").write_text("a file")
    assert "not a writable folder" in message(f"sqlite:///{tmp_path}/blocked/mlflow.db")
    assert "not a writable folder" in message("sqlite:////proc/here/mlflow.db")
    uri = new_store(tmp_path)
    rows(uri, "UPDATE experiments SET lifecycle_stage = 'deleted', name = 'check' WHERE name = 'template'")
    deleted = message(uri, ask_store)  # in this process, which has imported MLflow
    assert "was deleted" in deleted
    tracker = Tracker(uri, "check", tmp_path / "spool")
    with pytest.raises(TrackingError) as caught:
        tracker.check()
    tracker.close(timeout=0)
    assert str(caught.value) == deleted


def test_a_store_is_checked_without_making_anything(tmp_path) -> None:
    check_store(f"sqlite:///{tmp_path}/new/none.db", "planned")
    assert not list(tmp_path.iterdir())
    uri = new_store(tmp_path)
    before = (tmp_path / "mlflow.db").read_bytes()
    check_store(uri, "planned")
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]
    assert (tmp_path / "mlflow.db").read_bytes() == before


def test_a_server_that_is_away_costs_nothing_and_learns_no_secrets_of_ours(
    tmp_path, refusing_port, monkeypatch
) -> None:
    tracker = Tracker(f"http://ada:lovelace@127.0.0.1:{refusing_port}", "away", tmp_path / "spool")
    with pytest.raises(TrackingError) as caught:
        tracker.check()
    assert f"http://127.0.0.1:{refusing_port} cannot be used" in str(caught.value)
    with pytest.raises(TrackingError, match=f"http://127.0.0.1:{refusing_port} cannot be used"):
        check_store(f"http://ada:lovelace@127.0.0.1:{refusing_port}", "away")
    with monkeypatch.context() as patch:  # nothing that is logged waits for a server: this process asks none
        patch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a call connected to the server"))
        for number in range(300):
            log_trial(tracker, f"trial-{number}", range(3), parent=None)
            tracker.end_run(f"trial-{number}", "completed")
    wait_for(lambda: tracker.last_error is not None, PATIENCE, "the error")
    commands = " ".join(command_lines())
    assert str(tmp_path / "spool") in commands
    assert tracker.pending == 300 * 6
    assert not tracker.close(timeout=0.5)
    with pytest.raises(TrackingError, match="give it again with --uri") as again:
        replay(tmp_path / "spool")
    assert all("lovelace" not in text for text in (str(caught.value), str(again.value), commands))
    for path in (tmp_path / "spool").rglob("*"):
        assert path.is_dir() or b"lovelace" not in path.read_bytes(), path
