"""Slow and faulty servers: MLflow's own behind a proxy that delays, drops, refuses and redirects requests."""

import random
import threading
from contextlib import suppress

import pytest

from ctxtune.errors import TrackingError
from ctxtune.tracking import Tracker, all_test_scorings, find_sweep, read_runs, read_text, record_test_scoring, replay
from ctxtune.tracking.__main__ import main
from ctxtune.tracking.delivery_process import SpoolDelivery
from ctxtune.tracking.errors import ExperimentLost
from ctxtune.tracking.spool import Spool
from tests.helpers.processes import PATIENCE, free_port, wait_for
from tests.helpers.proxies import Fault, faulty_proxy
from tests.helpers.tracking import expected_rows, kill_server, metric_rows, new_store, rows, start_server

CREATE = "/api/2.0/mlflow/runs/create"
METRICS = ["train/loss", "validation/map_at_r"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """MLflow's server: its port, and its store for plain SQL."""
    folder = tmp_path_factory.mktemp("server")
    store, port = new_store(folder), free_port()
    process = start_server(store, port, folder / "artifacts")
    yield port, store
    kill_server(process)


@pytest.fixture
def impatient(monkeypatch):
    """Requests are given up after four seconds."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "4")


class LateCreates:
    """Lets some requests for a run reach the server only when `now` is set: when their client waits no longer."""

    def __init__(self, which: range) -> None:
        self.which = which
        self.now = threading.Event()
        self.seen = 0
        self._lock = threading.Lock()

    def __call__(self, method: str, path: str) -> Fault | None:
        if not path.startswith(CREATE):
            return None
        with self._lock:
            self.seen += 1
            return Fault(until=self.now) if self.seen in self.which else None


def active(store: str, experiment: str) -> list[tuple]:
    """(key, status) of every run of an experiment that is not deleted."""
    return rows(
        store,
        "SELECT tags.value, runs.status FROM runs JOIN experiments USING (experiment_id) JOIN tags "
        "ON tags.run_uuid = runs.run_uuid AND tags.key = 'ctxtune.key' "
        "WHERE experiments.name = ? AND runs.lifecycle_stage = 'active' ORDER BY 1",
        experiment,
    )


def made(store: str, experiment: str) -> int:
    """How many runs were ever made."""
    statement = "SELECT COUNT(*) FROM runs JOIN experiments USING (experiment_id) WHERE experiments.name = ?"
    return rows(store, statement, experiment)[0][0]


def log_sweep(tracker: Tracker, keys: list[str]) -> None:
    tracker.start_run("sweep", name="sweep", kind="sweep", params={"trials": len(keys)})
    for key in keys:
        tracker.start_run(key, name=key, kind="trial", parent="sweep", params={"loss.k": 4})
        record_test_scoring(tracker, key, "glyphs")
        for step in range(3):
            tracker.log_metrics(key, dict.fromkeys(METRICS, 0.1), step)
        tracker.end_run(key, "completed")


def test_runs_that_the_server_makes_after_the_client_has_given_up_are_there_once(server, tmp_path, impatient):
    port, store = server
    keys = [f"late-{number}" for number in range(2)]
    late = LateCreates(range(1, 3))
    with faulty_proxy(port, late) as uri:
        tracker = Tracker(uri, "late", tmp_path / "spool")
        log_sweep(tracker, keys)
        assert tracker.flush(PATIENCE), tracker.last_error
        late.now.set()
        wait_for(lambda: made(store, "late") >= late.seen, PATIENCE, "the late ones")
        tracker.end_run("sweep", "completed")
        assert tracker.close(), tracker.last_error
        assert made(store, "late") == late.seen > 1 + len(keys)  # the server did make some twice
        # What a reader is told, even before what came last is set aside.
        assert sorted(run.key for run in read_runs(uri, "late", "trial")) == keys
        replay(tmp_path / "spool")
        assert active(store, "late") == sorted((key, "FINISHED") for key in ["sweep", *keys])
        sweep = find_sweep(uri, "late")
        assert {run.parent for run in read_runs(uri, "late", "trial")} == {sweep.run_id}
        assert sorted(run.key for run in all_test_scorings(uri)["glyphs"] if run.key.startswith("late")) == keys
    found = [row for row in metric_rows(store) if row[0].startswith("late")]
    assert found == expected_rows(keys, METRICS, range(3))


def test_a_doubt_outlives_the_process_that_had_it(server, tmp_path, impatient, monkeypatch):
    port, store = server
    late = LateCreates(range(1, 2))
    with faulty_proxy(port, late) as uri:
        tracker = Tracker(uri, "outlived", tmp_path / "spool", deliver=False)
        log_sweep(tracker, ["outlived-0"])
        tracker.close(0)
        with pytest.raises(TrackingError, match="cannot be reached"):
            replay(tmp_path / "spool")  # its only try is given up, and its process ends
        assert len(Spool(tmp_path / "spool").doubtful()) == 1
        monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")
        replay(tmp_path / "spool")  # makes the run before the server has made the first one
        late.now.set()
        wait_for(lambda: made(store, "outlived") >= 3, PATIENCE, "the late one")
        assert len(active(store, "outlived")) == 3
        replay(tmp_path / "spool")
        assert active(store, "outlived") == [("outlived-0", "FINISHED"), ("sweep", "RUNNING")]


def test_a_run_s_end_is_one_request_and_prints_nothing(server, tmp_path, capsys):
    port, store = server
    asked = []
    with faulty_proxy(
        port, lambda method, path: asked.append((method, path.partition("?")[0].rpartition("/")[2]))
    ) as uri:
        tracker = Tracker(uri, "quiet", tmp_path / "spool", deliver=False)
        log_sweep(tracker, ["quiet-0"])
        tracker.close(0)
        replay(tmp_path / "spool")
    assert active(store, "quiet") == [("quiet-0", "FINISHED"), ("sweep", "RUNNING")]
    assert asked.count(("POST", "update")) == 1 and ("GET", "get") not in asked
    assert capsys.readouterr().out == ""


def double(uri: str, experiment: str) -> None:
    """A store as earlier versions left it: every run once more, without data, running for ever."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    identifier = client.get_experiment_by_name(experiment).experiment_id
    for run in client.search_runs([identifier]):
        spare = client.create_run(identifier, start_time=run.info.start_time, tags=run.data.tags)
        assert spare.info.status == "RUNNING"


def test_stores_that_hold_runs_twice_are_read_rightly_and_mended_by_dedupe(tmp_path, capsys):
    uri = new_store(tmp_path)
    tracker = Tracker(uri, "doubled", tmp_path / "spool")
    keys = ["trial-0", "trial-1"]
    log_sweep(tracker, keys)
    tracker.end_run("sweep", "completed")
    assert tracker.close(), tracker.last_error
    expected = {run.key: run.run_id for run in read_runs(uri, "doubled")}
    double(uri, "doubled")
    assert made(uri, "doubled") == 6
    assert {run.key: run.run_id for run in read_runs(uri, "doubled")} == expected
    assert find_sweep(uri, "doubled").run_id == expected["sweep"]
    assert len(all_test_scorings(uri)["glyphs"]) == 2
    assert main(["dedupe", "doubled", "--uri", uri]) == 0
    said = capsys.readouterr().out
    assert "3 duplicate runs set aside in doubled" in said and expected["trial-1"] in said
    assert active(uri, "doubled") == sorted((key, "FINISHED") for key in ["sweep", *keys])
    assert {run.key: run.run_id for run in read_runs(uri, "doubled")} == expected
    assert len(all_test_scorings(uri)["glyphs"]) == 2
    assert main(["dedupe", "doubled", "--uri", uri]) == 0
    assert "0 duplicate runs" in capsys.readouterr().out
    assert main(["dedupe", "nowhere", "--uri", uri]) == 2
    assert "no experiment 'nowhere'" in capsys.readouterr().err


def test_a_duplicate_with_data_of_its_own_is_marked_and_kept(tmp_path, capsys):
    from mlflow import MlflowClient

    uri = new_store(tmp_path)
    tracker = Tracker(uri, "data", tmp_path / "spool")
    log_sweep(tracker, ["trial-0"])
    assert tracker.close(), tracker.last_error
    counts = {run.key: run.run_id for run in read_runs(uri, "data")}
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("data").experiment_id
    spare = client.create_run(experiment, tags={"ctxtune.key": "trial-0", "kind": "trial"}).info.run_id
    client.log_metric(spare, "train/loss", 7.0, step=99)
    assert main(["dedupe", "data", "--uri", uri]) == 0
    assert "only marked" in capsys.readouterr().out
    kept = client.get_run(spare)
    assert kept.data.metrics == {"train/loss": 7.0} and kept.info.lifecycle_stage == "active"
    assert kept.info.status == "KILLED" and kept.data.tags["ctxtune.duplicate_of"] == counts["trial-0"]
    assert {run.key: run.run_id for run in read_runs(uri, "data")} == counts


@pytest.mark.parametrize(
    "kind", ["after", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("status", "before"))]
)
def test_a_server_that_stumbles_at_two_requests_in_five_takes_everything_once_and_soon(server, tmp_path, kind):
    port, store = server
    luck, lock = random.Random(1), threading.Lock()

    def faults(method: str, path: str) -> Fault | None:
        with lock:
            if not path.startswith("/api/") or luck.random() >= 0.4:
                return None
        return Fault(status=503) if kind == "status" else Fault(drop=kind)

    name = f"stumbles-{kind}"
    keys = [f"{name}-{number:02d}" for number in range(8)]
    with faulty_proxy(port, faults) as uri:
        tracker = Tracker(uri, name, tmp_path / "spool")
        log_sweep(tracker, keys)
        tracker.end_run("sweep", "completed")
        assert tracker.flush(PATIENCE), f"{tracker.pending} pending, {tracker.last_error}"
        tracker.close()
    assert [row for row in metric_rows(store) if row[0].startswith(name)] == expected_rows(keys, METRICS, range(3))
    assert [status for _, status in active(store, name)] == ["FINISHED"] * (1 + len(keys))


def test_a_server_that_fails_at_one_thing_takes_the_rest_and_is_not_called_unreachable(server, tmp_path):
    port, store = server

    def faults(method: str, path: str) -> Fault | None:
        return Fault(status=500) if "set-experiment-tag" in path else None

    with faulty_proxy(port, faults) as uri:
        tracker = Tracker(uri, "poison", tmp_path / "spool")
        tracker.describe("what this server cannot store")
        log_sweep(tracker, ["poison-0", "poison-1"])
        wait_for(lambda: tracker.pending == 1, PATIENCE, "all but the description")
        assert not tracker.close(0)
        with pytest.raises(TrackingError, match=r"answers with an error.*\(.*500 error.*\)"):
            replay(tmp_path / "spool")
    found = [row for row in metric_rows(store) if row[0].startswith("poison")]
    assert found == expected_rows(["poison-0", "poison-1"], METRICS, range(3))
    assert replay(tmp_path / "spool", f"http://127.0.0.1:{port}") == 1


def test_an_answer_without_content_or_of_a_login_page_is_not_taken_for_success(server, tmp_path):
    bad = {
        "get-by-name": Fault(status=200, content=b"{}"),
        "runs/create": Fault(status=200, content=b"{}"),
        "log-batch": Fault(status=200, content=b""),
        "runs/update": Fault(status=200, content=b" "),
        "mlflow-artifacts": Fault(status=200),
    }
    with faulty_proxy(
        server[0], lambda method, path: next((bad.pop(part) for part in list(bad) if part in path), None)
    ) as uri:
        tracker = Tracker(uri, "hollow", tmp_path / "spool", deliver=False)
        log_sweep(tracker, ["hollow-0"])
        tracker.log_text("hollow-0", "hello", "config.yaml")
        tracker.end_run("sweep", "completed")
        tracker.close(0)
        with pytest.raises(TrackingError, match="its answer is without content"):
            replay(tmp_path / "spool")
        replay(tmp_path / "spool")
        run = next(run for run in read_runs(uri, "hollow") if run.key == "hollow-0")
        assert read_text(uri, run.run_id, "config.yaml") == "hello"
    assert not bad
    assert active(server[1], "hollow") == [("hollow-0", "FINISHED"), ("sweep", "FINISHED")]
    assert [row for row in metric_rows(server[1]) if row[0] == "hollow-0"] == expected_rows(
        ["hollow-0"], METRICS, range(3)
    )


def test_what_a_proxy_denies_or_calls_too_large_holds_nothing_else_up(server, tmp_path):
    sizes, denied = [413, 413], True

    def faults(method: str, path: str) -> Fault | None:
        if "log-batch" in path and sizes:
            return Fault(status=sizes.pop())
        if path.endswith("model.bin"):
            return Fault(status=413)
        return Fault(status=403) if "set-experiment-tag" in path and denied else None

    with faulty_proxy(server[0], faults) as uri:
        tracker = Tracker(uri, "denied", tmp_path / "spool", deliver=False)
        tracker.describe("what this proxy denies")
        log_sweep(tracker, ["denied-0"])
        tracker.log_bytes("denied-0", b"x" * 3000, "model.bin")
        tracker.log_text("denied-0", "hello", "config.yaml")
        tracker.close(0)
        with pytest.raises(TrackingError, match=r"403.*MLFLOW_TRACKING_TOKEN.*; 2 events stay spooled"):
            replay(tmp_path / "spool")
        denied = False
        with pytest.raises(TrackingError, match="2 events were delivered, 1 are refused"):
            replay(tmp_path / "spool")
        assert [(key, kind) for key, kind, _ in Spool(tmp_path / "spool").refusals()] == [("denied-0", "file")]
        run = next(run for run in read_runs(uri, "denied") if run.key == "denied-0")
        assert read_text(uri, run.run_id, "config.yaml") == "hello" and run.state == "completed"
    found = [row for row in metric_rows(server[1]) if row[0] == "denied-0"]
    assert found == expected_rows(["denied-0"], METRICS, range(3))


def test_a_server_that_loses_the_experiment_or_is_behind_refuses_nothing(server, tmp_path):
    lost = b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "No such run"}'
    behind = [Fault(status=404, content=lost)] * 3
    with faulty_proxy(server[0], lambda method, path: behind.pop() if "log-batch" in path and behind else None) as uri:
        tracker = Tracker(uri, "behind", tmp_path / "spool", deliver=False)
        log_sweep(tracker, ["behind-0"])
        tracker.close(0)
        for _ in range(3):
            with suppress(TrackingError):
                replay(tmp_path / "spool")
            assert Spool(tmp_path / "spool").counts().refused == 0
        other = new_store(tmp_path / "other")
    spool = Spool(tmp_path / "spool")
    assert spool.pending() == 0
    assert active(server[1], "behind") == [("behind-0", "FINISHED"), ("sweep", "RUNNING")]
    delivery = SpoolDelivery(spool, other, "behind")
    delivery.run_once()
    rows(other, "DELETE FROM experiment_tags")
    rows(other, "DELETE FROM experiments WHERE name = 'behind'")
    spool.add_run("behind-1", {"name": "n", "kind": "trial", "parent": None, "start_time": 1, "params": {}, "tags": {}})
    with pytest.raises(ExperimentLost):
        delivery.run_once()
    assert delivery.run_once() == 1 and spool.counts().refused == 0
    assert active(other, "behind") == [("behind-1", "RUNNING")]


def test_a_proxy_that_redirects_is_told_with_what_to_do(server, tmp_path):
    login = "https://login.example.org/oauth2/start?rd=secret"
    with faulty_proxy(server[0], lambda method, path: Fault(status=302, location=login)) as uri:
        tracker = Tracker(uri, "login", tmp_path / "spool")
        with pytest.raises(
            TrackingError, match=r"redirects its clients to https://login\.example\.org/oauth2/start"
        ) as told:
            tracker.check()
        tracker.close(0)
        assert "MLFLOW_TRACKING_TOKEN" in str(told.value) and "secret" not in str(told.value)
        with pytest.raises(TrackingError, match="redirects its clients to https://login"):
            read_runs(uri, "login")
    with faulty_proxy(
        server[0], lambda method, path: Fault(status=301, location=f"https://127.0.0.1{path}")
    ) as uri:  # the same server under another address
        with pytest.raises(TrackingError, match=r"give that address as tracking\.uri") as told:
            Tracker(uri, "moved", tmp_path / "moved").check()
        assert "https://127.0.0.1" in str(told.value)
