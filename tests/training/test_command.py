"""`python -m ctxtune.train` as a user runs it: killed and resumed, several processes, one message for what is wrong."""

import fcntl
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ctxtune.errors import CtxtuneError
from ctxtune.single_run import _device
from ctxtune.train import build_parser, main
from ctxtune.training import load_checkpoint, scored_weights
from ctxtune.training.process_group import ProcessGroup
from tests.helpers.processes import PATIENCE, environment, run_here
from tests.helpers.training import TRAIN_FILE, equal, train_command, train_here


def results(folder: Path) -> Path:
    return folder / "results" / "small" / "train-seed0"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    status, output = train_here(folder)
    assert status == 0
    return folder, output


def test_a_run_leaves_scores_the_newest_two_checkpoints_and_the_best(finished):
    folder, output = finished
    assert "validation/map_at_r" in output and "images/s" in output
    result = json.loads((results(folder) / "result.json").read_text())
    assert [metrics["epoch"] for metrics in result["history"]] == [2, 4, 6]
    assert result["metrics"] == result["history"][-1]
    assert sorted(path.name for path in results(folder).glob("*.pt")) == ["best.pt", "epoch-00005.pt", "epoch-00006.pt"]
    best = max(result["history"], key=lambda metrics: metrics["validation/map_at_r"])
    kept = load_checkpoint(results(folder) / "best.pt")
    assert kept["best"] == result["best"] == {"epoch": best["epoch"], "score": best["validation/map_at_r"]}
    assert kept["runs"][0]["epoch"] == best["epoch"]
    newest = load_checkpoint(results(folder) / "epoch-00006.pt")
    assert not equal(scored_weights(newest), newest["runs"][0]["model"])


def check_kills(repository: Path, folder: Path, whole: Path, waits: list[float]) -> None:
    """Start, kill -9 so many seconds after the first checkpoint of this start (or before), resume, and so on."""
    for number, wait in enumerate(waits):
        seen = {path.name for path in results(folder).glob("epoch-*.pt")}
        process = subprocess.Popen(
            train_command(folder, *(["--resume"] if number else [])),
            cwd=folder, env=environment(repository), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            if {path.name for path in results(folder).glob("epoch-*.pt")} - seen:
                break
            time.sleep(0.002)
        time.sleep(wait)
        process.kill()
        process.wait()
    ended = (results(folder) / "result.json").exists()  # on a fast machine before the last kill
    status, output = train_here(folder, "--resume")
    assert status == 0 and (ended or "going on after epoch" in output)
    ours, theirs = (load_checkpoint(results(each) / "epoch-00006.pt") for each in (folder, whole))
    for split in ("model", "averaged", "loss"):
        assert equal(ours["runs"][0][split], theirs["runs"][0][split])
    for (_, mine), (_, other) in zip(
        *(each["runs"][0]["optimizer"]["state"].items() for each in (ours, theirs)), strict=True
    ):
        assert equal(mine, other)
    histories = [json.loads((results(each) / "result.json").read_text())["history"] for each in (folder, whole)]
    assert untimed(histories[0]) == untimed(histories[1])
    bests = [scored_weights(load_checkpoint(results(each) / "best.pt")) for each in (folder, whole)]
    assert equal(*bests)
    assert not list(results(folder).glob(".*.pt.*"))


def untimed(history):
    return [{name: value for name, value in each.items() if not name.startswith("time/")} for each in history]


def test_killed_and_resumed_the_weights_are_bitwise_the_same(repository, tmp_path, finished):
    check_kills(repository, tmp_path, finished[0], [np.random.default_rng().uniform(0, 0.15)])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_many_moments(repository, tmp_path, finished):
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        check_kills(repository, folder, finished[0], list(np.random.default_rng(attempt).uniform(0, 0.6, 4)))


def test_a_finished_run_is_shown_again_and_a_second_start_is_refused(finished):
    folder, _ = finished
    before = json.loads((results(folder) / "result.json").read_text())
    status, output = train_here(folder, "--resume", "--quiet")
    assert status == 0 and len(output.splitlines()) == 1
    assert json.loads((results(folder) / "result.json").read_text()) == before
    with pytest.raises(CtxtuneError, match="--resume"):
        train_here(folder)


def test_the_device_that_is_found_can_be_set(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    chosen = []
    monkeypatch.setattr(torch._C, "_cuda_setDevice", chosen.append, raising=False)
    assert [str(_device(asked, ProcessGroup())) for asked in ("auto", "cuda", "cuda:1")] == ["cuda", "cuda", "cuda:1"]
    assert chosen == [1]


def test_two_commands_do_not_share_a_folder(tmp_path):
    results(tmp_path).mkdir(parents=True)
    with (results(tmp_path) / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(CtxtuneError, match="another process"):
            train_here(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "trial.optimizer.micro_batchs=4"], "micro_batch"),
        (["--seed-index", "-1"], "--seed-index"),
        (["--threads", "0"], "--threads"),
        (["--device", "tpu"], "cuda:N"),
        (["--set", "trial.sampler.batch_size=4000"], "4000"),
        (["--set", "trial.evaluation.recall_at=[1, 100000]"], "recall_at"),
        (["--set", "trial.optimizer.lr=1.0e+30"], "not finite"),
    ],
)
def test_what_is_wrong_is_said_in_one_message(tmp_path, arguments, words):
    with pytest.raises(CtxtuneError) as caught:
        train_here(tmp_path, *arguments)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_an_error_is_one_line_on_stderr_and_status_2(tmp_path):
    done = run_here(main, tmp_path, *train_command(tmp_path, "--set", "trial.optimizer.ema=1.0")[3:])
    assert done.returncode == 2
    assert "trial.optimizer.ema" in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_help_names_every_argument():
    words = build_parser().format_help()
    for word in ("--set", "--name", "--results", "--seed-index", "--device", "--resume", "--threads", "--quiet", "130"):
        assert word in words


@pytest.mark.slow
def test_torchrun_with_two_processes_gives_one_result(repository, tmp_path):
    tree = {**TRAIN_FILE, "trial": {**TRAIN_FILE["trial"], "schedule": {"name": "constant", "epochs": 2}}}
    one = train_command(tmp_path, "--device", "cpu", tree=tree)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *one[1:]]
    done = subprocess.run(
        launch, cwd=tmp_path, env=environment(repository), capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("result.json in") == 1
    result = json.loads((results(tmp_path) / "result.json").read_text())
    assert result["processes"] == 2 and result["metrics"]["train/steps"] == 8
    state = load_checkpoint(results(tmp_path) / "epoch-00002.pt")
    assert all(torch.isfinite(value).all() for value in state["runs"][0]["model"].values())
