"""The report of a sweep of 1,000 runs beside reading the same runs by MLflow's own `search_runs`.

    python benchmarks/report.py [--runs 1000] [--rounds 3]

Makes an MLflow store in SQLite with a sweep of so many trials (ASHA over 27 epochs, six dimensions), a selection and a
confirmation. Then `python -m ctxtune.report`, figures and imports included, and a process that only pages through
`MlflowClient.search_runs`, take turns: wall and processor seconds of the quickest of each, peak memory, and the ratios.
Target: at most 2.5 of the wall time.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from ctxtune.tracking import Tracker, record_test_scoring, replay

TARGET = 2.5
READ = """
import sys
import mlflow

client = mlflow.MlflowClient(sys.argv[1])
experiments = [each.experiment_id for each in client.search_experiments()]
page, number = None, 0
while page is None or page.token:
    page = client.search_runs(experiments, max_results=1000, page_token=page and page.token)
    number += len(page)
print(number)
"""
EPOCHS, RUNGS = 27, (1, 3, 9)
SPACE: dict[str, dict[str, Any]] = {
    "loss.contextual_weight": {"uniform": [0.1, 1.0]},
    "loss.k": {"choice": [2, 4, 6, 8]},
    "loss.epsilon": {"loguniform": [0.005, 0.5]},
    "loss.positive_margin": {"uniform": [0.5, 0.95]},
    "loss.negative_margin": {"uniform": [0.1, 0.7]},
    "optimizer.lr": {"loguniform": [1.0e-4, 1.0e-2]},
}
TREE = {
    "name": "thousand",
    "trial": {
        "dataset": {"name": "cars196"},
        "schedule": {"epochs": EPOCHS},
        "evaluation": {"every": 1, "recall_at": [1, 2, 4, 8]},
    },
    "search": {
        "objective": {"metric": "validation/map_at_r", "mode": "max"},
        "space": SPACE,
        "sampler": {"name": "tpe"},
        "scheduler": {"name": "asha", "grace_epochs": 1, "reduction_factor": 3},
    },
}


def draw(generator: np.random.Generator) -> dict[str, float]:
    """A random point of the space."""
    point: dict[str, float] = {}
    for path, item in SPACE.items():
        kind, bounds = next(iter(item.items()))
        if kind == "choice":
            point[path] = int(generator.choice(bounds))
        elif kind == "uniform":
            point[path] = float(generator.uniform(*bounds))
        else:
            point[path] = float(np.exp(generator.uniform(*np.log(bounds))))
    return point


def quality(point: dict[str, float]) -> float:
    """The score at the end of training, mostly of the learning rate and the weight."""
    return (
        0.5
        - 0.05 * (math.log10(point["optimizer.lr"]) + 3) ** 2
        - 0.1 * (point["loss.contextual_weight"] - 0.7) ** 2
        - 0.005 * abs(point["loss.k"] - 4)
    )


def make_store(folder: Path, runs: int) -> str:
    """Write the sweep; the store's URI."""
    uri = f"sqlite:///{folder}/mlflow.db"
    tracker = Tracker(uri, TREE["name"], folder / "spool", deliver=False)
    tracker.start_run("sweep", name="thousand", kind="sweep", tags={"data_set": "cars196", "hardware.gpus": "1"})
    tracker.log_text("sweep", yaml.safe_dump(TREE), "space.yaml")
    generator = np.random.default_rng(0)
    seen: dict[int, list[float]] = {rung: [] for rung in RUNGS}
    for number in range(runs):
        _trial(tracker, number, draw(generator), generator, seen)
    for arm, gain in (("start", 0.0), ("trial-0007", 0.02)):
        for seed in range(5):
            _confirmation(tracker, arm, seed, 0.45 + gain + 0.004 * generator.normal())
    tracker.end_run("sweep", "completed")
    tracker.close(timeout=0)
    replay(folder / "spool", uri)
    return uri


def _trial(
    tracker: Tracker, number: int, point: dict[str, float], generator: np.random.Generator, seen: dict[int, list[float]]
) -> None:
    key = f"trial-{number:04d}"
    other = {f"model.setting_{index}": str(index) for index in range(60)}
    tracker.start_run(key, name=key, kind="trial", parent="sweep", params={**point, **other}, tags={"arm": key})
    end = quality(point) + 0.01 * generator.normal()
    for epoch in range(1, EPOCHS + 1):
        score = end * (1 - 0.6 * math.exp(-epoch / 5)) + 0.004 * generator.normal()
        scores = {f"validation/{name}": score + gap for name, gap in (("map_at_r", 0.0), ("recall_at_1", 0.2))}
        tracker.log_metrics(
            key, {**scores, "train/loss": 1 / epoch, "time/seconds": 30.0 * epoch, "gpu/memory_gib": 9.0}, epoch
        )
        if epoch in RUNGS:
            seen[epoch].append(score)
            if score < np.quantile(seen[epoch], 2 / 3):
                tracker.end_run(key, "pruned", f"stopped by asha after epoch {epoch}")
                return
    tracker.end_run(key, "completed")


def _confirmation(tracker: Tracker, arm: str, seed: int, score: float) -> None:
    key = f"confirmation-{arm}-seed{seed}"
    tracker.start_run(key, name=key, kind="confirmation", parent="sweep", tags={"arm": arm, "seed_index": str(seed)})
    record_test_scoring(tracker, key, "cars196")
    scores = {
        f"test/{name}": score + gap for name, gap in (("map_at_r", 0.0), ("recall_at_1", 0.3), ("recall_at_2", 0.4))
    }
    tracker.log_metrics(key, {**scores, "test_subset/map_at_r": score + 0.1, "time/seconds": 900.0}, EPOCHS)
    tracker.end_run(key, "completed")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--store", help="a store that an earlier call made with --keep, instead of a new one")
    parser.add_argument("--keep", metavar="DIR", help="make the store here and leave it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if options.keep:
            Path(options.keep).mkdir(parents=True, exist_ok=True)
        uri = options.store or make_store(Path(options.keep or temporary).absolute(), options.runs)
        if options.keep:
            print(uri)
            return 0
        out = f"{temporary}/out"
        commands = {
            "search_runs": [sys.executable, "-c", READ, uri],
            "report": [sys.executable, "-m", "ctxtune.report", str(TREE["name"]), "--tracking", uri, "--out", out],
        }
        taken = {name: [] for name in commands}
        for _ in range(options.rounds):
            for name, command in commands.items():
                taken[name].append(measured(command))
    best = {name: Used(*(min(each) for each in zip(*rounds, strict=True))) for name, rounds in taken.items()}
    print(f"{options.runs:,} trials")
    for name, used in best.items():
        print(f"{name:>11}: {used.wall:5.1f} s, {used.processor:5.1f} s of processor time, {used.mebibytes:,.0f} MiB")
    ratio = best["report"].wall / best["search_runs"].wall
    processor = best["report"].processor / best["search_runs"].processor
    print(f"report / search_runs: {ratio:.2f} (target {TARGET}); processor time {processor:.2f}")
    return int(ratio > TARGET)


class Used(NamedTuple):
    """What one process took: wall and processor seconds, and its peak memory."""

    wall: float
    processor: float
    mebibytes: float


def measured(command: list[str]) -> Used:
    """Run a command to its end; its own children count towards processor time, not memory."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} ended with {os.waitstatus_to_exitcode(status)}")
    return Used(time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


if __name__ == "__main__":
    sys.exit(main())
