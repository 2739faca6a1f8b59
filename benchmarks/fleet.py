"""A fleet on a simulated clock: 10,000 trials on 1,000 spot GPUs, through the real driver.

    python benchmarks/fleet.py [--trials 10000] [--gpus 1000] [--sampler tpe] [--tracking sqlite|postgresql|none|ADDRESS]
        [--server] [--live] [--pace 4]

Real are journal, sampler, ASHA's rungs, budget, recorder and the tracking's spool; simulated are Ray, nodes and trials. Each
GPU reports once a minute. The driver does one thing at a time: what it is asked takes the processor time that it takes here,
`--engine` for Ray's own part and `--sync` for each event that is forced to disk, and the GPU waits for the answer as a
trial of Tune does. Nodes of `--node-gpus` die at random, `--life-hours` old on average; their runs go on from their last
report on another node. Scores are recorded learning curves, as in `budget.py`.

Printed: suggestions a second, and how that changes with the number of trials; at how many parallel trials the driver is
busy all the time; the share of GPU time that waits for the driver or is lost to deaths, until the last trial was started;
memory and the journal's size a trial; seconds until a resumed sweep knows what this one knew; how fast tracking delivers:
the whole spool at the end, or (`--live`) by the sweep's own delivery process while the fleet reports, with the events that
wait on average in each fifth of the time. With `--pace` the simulated clock goes at most so many times as fast as a real one.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from budget import SPACES, recorded_scores
from fleet_tracking import PARTS, Figures, beside, drain, server, store
from overhead import profiled, resident_mebibytes
from simulated_fleet import EPOCHS, MACHINES, Fleet, Machines

from ctxtune.config import SweepConfig, load_search_space
from ctxtune.tracking import Tracker
from ctxtune.tuning.callbacks import Watcher
from ctxtune.tuning.pipeline import run_stages
from ctxtune.tuning.record.journal import Journal
from ctxtune.tuning.record.recorder import Recorder
from ctxtune.tuning.search.sampler import Sampler
from ctxtune.tuning.search.scheduler import build_scheduler


def fleet_space(trials: int, sampler: str) -> SweepConfig:
    """The quickstart's six dimensions, 27 epochs, ASHA, a budget that is watched and never met; the search only."""
    overrides = {
        "search.trials": trials, "search.sampler.name": sampler, "trial.schedule.epochs": EPOCHS,
        "search.budget": {"hours": 10_000, "gpu_hours": 10_000_000, "no_improvement_for": 1_000_000},
        "select": None, "confirm": None, "resources.gpus": 1,
    }  # fmt: skip
    return load_search_space(
        SPACES / "quickstart.yaml", [f"{path}={json.dumps(value)}" for path, value in overrides.items()]
    )


def search(config: SweepConfig, fleet: Fleet, folder: Path, tracker: Tracker, profile: str | None) -> Figures:
    """Run a search on the fleet; its figures."""
    before = resident_mebibytes()
    journal = Journal(folder / "journal.jsonl")
    tracker.start_run("fleet", name="fleet", kind="sweep")
    recorder = Recorder(
        journal, tracker, metric=config.search.objective.metric, sweep_id="fleet", scheduler=config.search.scheduler.name
    )  # fmt: skip
    with profiled(profile):
        run_stages(config, recorder, fleet, Watcher())
    memory = resident_mebibytes()
    tracker.end_run("fleet", "completed")
    journal.close()
    trials, asks = len(fleet.asks), np.array(fleet.asks)
    parts = [each for each in np.array_split(asks, PARTS) if len(each)]
    _, until_last = fleet.last_start or (fleet.clock, fleet.time)
    gpu_seconds = fleet.time.trained + fleet.time.setup
    part = max(trials // PARTS, 1)
    late = (fleet.driver[-1] - fleet.driver[-part]) / max(part - 1, 1)
    return {
        "trials": trials,
        "completed": len(journal.completed("search")),
        "reports": fleet.reports,
        "deaths_of_nodes": fleet.deaths,
        "simulated_hours": round(fleet.clock / 3600, 2),
        "gpu_time_until_the_last_start": until_last.shares(),
        "busy": round(1 - until_last.waited, 4),
        "ms_a_suggestion_by_part": [round(1000 * float(np.mean(each)), 2) for each in parts],
        "suggestions_a_second_at_the_end": round(1 / float(np.mean(parts[-1])), 1),
        "driver_ms_a_trial": round(1000 * fleet.worked / trials, 2),
        "driver_ms_a_trial_at_the_end": round(1000 * late, 2),
        "gpus_at_which_the_driver_is_always_busy": int(gpu_seconds / fleet.worked),
        "the_same_at_the_end": int(gpu_seconds / trials / late) if late else 0,
        "driver_mib": round(memory),
        "driver_kib_a_trial": round(1024 * (memory - before) / trials, 1),
        "journal_mib": round(journal.path.stat().st_size / 2**20, 1),
        "journal_kib_a_trial": round(journal.path.stat().st_size / 1024 / trials, 1),
    }


def resume(config: SweepConfig, path: Path) -> Figures:
    """What `--resume` rebuilds before its first run, in seconds by part, and how far memory grows by it."""
    metric, before, began = config.search.objective.metric, resident_mebibytes(), time.perf_counter()
    seconds: dict[str, float] = {}

    def timed(name: str, step: Callable[[], object]) -> object:
        started = time.perf_counter()
        made = step()
        seconds[f"resume_{name}_s"] = round(time.perf_counter() - started, 2)
        return made

    journal = timed("journal", lambda: Journal(path))
    assert isinstance(journal, Journal)
    runs = journal.stage("search")
    sampler, rungs = Sampler(config), build_scheduler(config)
    timed("sampler", lambda: sampler.replay(runs, metric))
    timed("rungs", lambda: rungs and rungs.replay(runs))
    total = time.perf_counter() - began
    grown = 1024 * (resident_mebibytes() - before) / len(runs)
    return {**seconds, "resume_s": round(total, 2), "resume_kib_a_trial": round(grown, 1)}


@dataclass(frozen=True)
class Tracking:
    """Where runs go: see `fleet_tracking.store`; `server`: by MLflow's own; `live`: while the fleet reports."""

    store: str = "none"
    server: bool = False
    live: bool = False


def figures(
    trials: int, machines: Machines, tracking: Tracking, *, sampler: str = "tpe", profile: str | None = None
) -> Figures:
    """All figures of a fleet; a resumed driver is a process of its own, so that its memory can be seen."""
    config = fleet_space(trials, sampler)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # what a forced write takes, `--sync` says
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fleet-", dir=memory)))
        disk = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fleet-")))
        uri = stack.enter_context(store(tracking.store, disk))
        if uri is not None and tracking.server:
            uri = stack.enter_context(server(uri, disk))
        fleet = Fleet(machines, recorded_scores(config))
        experiment = f"fleet-{time.time_ns()}"  # the store may hold an earlier fleet
        tracker = Tracker(uri or "sqlite:///unused.db", experiment, disk / "spool", deliver=tracking.live)
        if tracking.live:
            tracker.check()
            found = beside(tracker, lambda: search(config, fleet, folder, tracker, profile))
        else:
            found = search(config, fleet, folder, tracker, profile)
            tracker.close(timeout=0)
        again = ["--resume", str(folder / "journal.jsonl"), "--trials", str(trials), "--sampler", sampler]
        answer = subprocess.run([sys.executable, __file__, *again], check=True, capture_output=True, text=True)
        found |= json.loads(answer.stdout)
        if uri is not None and not tracking.live:
            found |= drain(disk / "spool", uri, trials, fleet.clock)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Machines()
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--gpus", type=int, default=default.gpus)
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--tracking", default="sqlite", help="sqlite, postgresql (of its own), none, or an address")
    parser.add_argument("--server", action="store_true", help="MLflow's own server, with one worker, before the store")
    parser.add_argument("--live", action="store_true", help="deliver while the fleet reports")
    for name, meaning in MACHINES.items():
        usual = getattr(default, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(usual), default=usual, help=meaning)
    parser.add_argument("--profile", help="write a profile of the driver, for pstats")
    parser.add_argument("--resume", type=Path, metavar="JOURNAL", help="only read a journal as a resumed sweep does")
    given = parser.parse_args()
    if given.resume:
        print(json.dumps(resume(fleet_space(given.trials, given.sampler), given.resume)))
        return
    machines = Machines(given.gpus, **{name: getattr(given, name) for name in MACHINES})
    tracking = Tracking(given.tracking, given.server, given.live)
    if tracking.store == "none" and (tracking.server or tracking.live):
        parser.error("--server and --live need a store to deliver to: --tracking")
    found = figures(given.trials, machines, tracking, sampler=given.sampler, profile=given.profile)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
