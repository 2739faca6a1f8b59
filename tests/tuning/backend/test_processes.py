"""Trials that share a process: what one leaves behind does not reach the next."""

import json
import subprocess
import sys

import psutil
import pytest

from tests.helpers.processes import PATIENCE, environment

PREAMBLE = """
import json, os, signal, sys, time
from functools import partial
from pathlib import Path

import psutil

from ctxtune.config import load_search_space, stage_seed
from ctxtune.tracking import Tracker
from ctxtune.tuning.backend.cluster import RunResources, running_ray
from ctxtune.tuning.backend.runner import run_stages
from ctxtune.tuning.backend.trial import run_trial
from ctxtune.tuning.executor import StageRuns
from ctxtune.tuning.record.journal import Journal
from ctxtune.tuning.record.recorder import Recorder
from ctxtune.tuning.record.run_spec import RunSpec
from ctxtune.tuning.stages import next_of

folder = Path(sys.argv[1])
space = load_search_space(sys.argv[2], sys.argv[3:])


def spec_of(key, trial, seed_index=0):
    return RunSpec(key=key, stage="search", arm=key, point={}, trial=trial, validation=space.validation, folds=(0,),
                   seed_index=seed_index, seed=stage_seed("search", seed_index))


tracker = Tracker(f"sqlite:///{folder / 'mlflow.db'}", "processes", folder / "spool", deliver=False)
recorder = Recorder(Journal(folder / "journal.jsonl"), tracker, metric="validation/map_at_r", sweep_id="sweep")
tracker.start_run("sweep", name="sweep", kind="sweep")


def run(stages, trainable):
    with running_ray():
        resources = RunResources(cpus=1, gpus=0, concurrent=1)
        run_stages(stages, recorder, storage=folder / "checkpoints", resources=resources, trainable=trainable)
    tracker.close(0)
"""
SHARED = """
PLAIN = {}
DIRTY = {"deterministic": True, "loss": {"name": "proxy_anchor"}, "optimizer": {"lr": 1e30}}


def merged(tree, changes):
    return {key: merged(tree[key], value) if isinstance(value, dict) and key != "loss" else value
            for key, value in {**tree, **changes}.items()} if changes else tree


def spec(key, changes, seed_index=0):
    return spec_of(key, type(space.trial).model_validate(merged(space.trial.tree(), changes)), seed_index)


def traced(config):
    with (folder / "processes").open("a") as file:
        file.write(f"{config['key']} {os.getpid()}\\n")
    run_trial(config)


def stages():
    for specs in ([spec("fresh", PLAIN)],
                  [spec("dirty", DIRTY), spec("other", {"loss": {"name": "contrastive"}}, 1), spec("reused", PLAIN)],
                  [spec("after", PLAIN)]):
        if specs[0].key == "after":  # its process dies while it waits for the next stage
            waiting = int((folder / "processes").read_text().split()[-1])
            os.kill(waiting, signal.SIGKILL)
            while Path(f"/proc/{waiting}/cmdline").exists() and Path(f"/proc/{waiting}/cmdline").read_bytes():
                time.sleep(0.05)
        yield StageRuns("search", partial(next_of, specs, recorder))


run(stages(), traced)
"""
TINY = [
    "trial.model.width=8",
    "trial.model.embedding_dim=16",
    "trial.sampler.batch_size=32",
    "trial.sampler.batches_per_epoch=3",
    "trial.schedule.epochs=3",
    "trial.precision=float32",
]


def play(script, repository, folder):
    """Run a script in a process of its own; its runs as the journal has them."""
    from ctxtune.tuning.record.journal import Journal

    file = str(repository / "search_spaces/quickstart.yaml")
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script, str(folder), file, *TINY],
        cwd=folder, env=environment(repository), capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Journal(folder / "journal.jsonl").runs


@pytest.fixture(scope="module")
def played(repository, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    runs = play(SHARED, repository, folder)
    return runs, dict(line.split() for line in (folder / "processes").read_text().splitlines())


@pytest.mark.slow
def test_the_result_of_a_trial_is_the_same_in_a_fresh_and_in_a_reused_process(played):
    runs, processes = played
    assert processes["fresh"] == processes["dirty"] == processes["other"] == processes["reused"]
    assert runs["dirty"].state == "failed"  # its learning rate is absurd: it left in the middle of an epoch
    assert runs["fresh"].state == runs["other"].state == runs["reused"].state == "completed"

    def scores(key):
        return [
            {name: value for name, value in report.metrics.items() if not name.startswith("time/")}
            for report in runs[key].reports
        ]

    assert len(scores("fresh")) == 3
    assert json.dumps(scores("reused")) == json.dumps(scores("fresh"))  # to the last bit
    assert scores("other") != scores("fresh")


@pytest.mark.slow
def test_a_process_that_dies_while_it_waits_for_the_next_stage_costs_no_run(played):
    runs, processes = played
    assert processes["after"] != processes["reused"]
    assert (runs["after"].state, runs["after"].reason) == ("completed", "")
    assert [report.epoch for report in runs["after"].reports] == [report.epoch for report in runs["fresh"].reports]


HUNGRY = """
memory = psutil.virtual_memory()
limit = memory.total - memory.available + 3 * 2**30  # what is used now, and three GiB
os.environ["RAY_memory_usage_threshold"] = str(limit / memory.total)
os.environ["RAY_memory_monitor_refresh_ms"] = "100"
specs = [spec_of(key, space.trial) for key in ("hungry", "next")]


def eating(config):
    eaten = []
    if config["key"] == "hungry" and not (folder / "has eaten").exists():
        (folder / "has eaten").touch()
        while True:
            eaten.append(bytearray(os.urandom(2**20)) * 64)
    run_trial(config)


run(iter([StageRuns("search", partial(next_of, specs, recorder))]), eating)
"""


@pytest.mark.slow
def test_a_run_that_ray_ends_for_want_of_memory_is_tried_again_and_the_sweep_goes_on(repository, tmp_path):
    if psutil.virtual_memory().available < 6 * 2**30:
        pytest.skip("needs 6 GiB of free memory")
    runs = play(HUNGRY, repository, tmp_path)
    assert (tmp_path / "has eaten").exists()
    assert {key: run.state for key, run in runs.items()} == {"hungry": "completed", "next": "completed"}
