"""A fleet on a simulated clock: 10,000 trials on 1,000 spot GPUs, through the real driver.

    python benchmarks/fleet.py [--trials 10000] [--gpus 1000] [--sampler tpe] [--tracking sqlite|postgresql|none]

Real are journal, sampler, ASHA's rungs, budget, recorder and the tracking's spool; simulated are Ray, nodes and trials. Each
GPU reports once a minute. The driver does one thing at a time: what it is asked takes the processor time that it takes here,
`--engine` for Ray's own part and `--sync` for each event that is forced to disk, and the GPU waits for the answer as a
trial of Tune does. Nodes of `--node-gpus` die at random, `--life-hours` old on average; their runs go on from their last
report on another node. Scores are recorded learning curves, as in `budget.py`.

Printed: suggestions a second, and how that changes with the number of trials; at how many parallel trials the driver is
busy all the time; the share of GPU time that waits for the driver or is lost to deaths, until the last trial was started;
memory and the journal's size a trial; seconds until a resumed sweep knows what this one knew; how fast tracking delivers.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from budget import SPACES, recorded_scores
from overhead import profiled, resident_mebibytes
from simulated_fleet import EPOCHS, MACHINES, Fleet, Machines

from ctxtune.config import SweepConfig, load_search_space
from ctxtune.tracking import Tracker, replay
from ctxtune.tuning.backend.scheduler import build_scheduler
from ctxtune.tuning.callbacks import Watcher
from ctxtune.tuning.pipeline import run_stages
from ctxtune.tuning.record.journal import Journal
from ctxtune.tuning.record.recorder import Recorder
from ctxtune.tuning.search.sampler import Sampler

PARTS = 5
"""The trials are looked at in so many parts: what grows with their number shows in the last one."""


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


def search(config: SweepConfig, fleet: Fleet, folder: Path, uri: str | None, profile: str | None) -> dict[str, object]:
    """Run a search on the fleet; its figures."""
    before = resident_mebibytes()
    journal = Journal(folder / "journal.jsonl")
    tracker = Tracker(uri or "sqlite:///unused.db", "fleet", folder / "spool", deliver=False)
    tracker.start_run("fleet", name="fleet", kind="sweep")
    recorder = Recorder(
        journal, tracker, metric=config.search.objective.metric, sweep_id="fleet", scheduler=config.search.scheduler.name
    )  # fmt: skip
    with profiled(profile):
        run_stages(config, recorder, fleet, Watcher())
    memory = resident_mebibytes()
    tracker.end_run("fleet", "completed")
    tracker.close(timeout=0)
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


def resume(config: SweepConfig, path: Path) -> dict[str, object]:
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


def drain(folder: Path, uri: str, trials: int, fleet_seconds: float) -> dict[str, object]:
    """Deliver the spool; how long that takes, beside how long the fleet took to fill it."""
    started = time.perf_counter()
    events = replay(folder / "spool", uri)
    took = time.perf_counter() - started
    return {
        "tracking_events": events,
        "tracking_s": round(took, 1),
        "tracking_ms_a_trial": round(1000 * took / trials, 1),
        "tracking_over_the_sweep": round(took / fleet_seconds, 2),
    }


@contextlib.contextmanager
def store(kind: str, folder: Path) -> Iterator[str | None]:
    """The address of an empty MLflow store: SQLite, a PostgreSQL of our own, an address as it stands, or none."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'mlflow.db'}"
    elif kind == "postgresql":
        missing = [name for name in ("initdb", "pg_ctl") if shutil.which(name) is None]
        if missing:
            raise SystemExit(f"--tracking postgresql: {', '.join(missing)} not found in PATH; take sqlite")
        if os.geteuid() == 0:
            raise SystemExit("--tracking postgresql: initdb refuses root; be another user, or give a server's address")
        cluster = folder / "postgresql"
        subprocess.run(["initdb", "-D", cluster, "-U", "fleet", "-A", "trust"], check=True, stdout=subprocess.DEVNULL)
        options = f"-k {folder} -c listen_addresses="
        start = ["pg_ctl", "-D", cluster, "-o", options, "-l", folder / "log", "-w", "start"]
        subprocess.run(start, check=True, stdout=subprocess.DEVNULL)
        try:
            yield f"postgresql+psycopg2://fleet@/postgres?host={folder}"
        finally:
            subprocess.run(["pg_ctl", "-D", cluster, "-m", "fast", "stop"], check=True, stdout=subprocess.DEVNULL)
    else:
        yield None if kind == "none" else kind


def figures(
    trials: int, machines: Machines, *, sampler: str = "tpe", tracking: str = "none", profile: str | None = None
) -> dict[str, object]:
    """All figures of a fleet; a resumed driver is a process of its own, so that its memory can be seen."""
    config = fleet_space(trials, sampler)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # what a forced write takes, `--sync` says
    with (
        tempfile.TemporaryDirectory(prefix="fleet-", dir=memory) as name,
        tempfile.TemporaryDirectory(prefix="fleet-") as disk,
        store(tracking, Path(disk)) as uri,
    ):
        folder, fleet = Path(name), Fleet(machines, recorded_scores(config))
        found = search(config, fleet, folder, uri, profile)
        again = ["--resume", str(folder / "journal.jsonl"), "--trials", str(trials), "--sampler", sampler]
        answer = subprocess.run([sys.executable, __file__, *again], check=True, capture_output=True, text=True)
        found |= json.loads(answer.stdout)
        if uri is not None:
            found |= drain(folder, uri, trials, fleet.clock)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Machines()
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--gpus", type=int, default=default.gpus)
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--tracking", default="sqlite", help="sqlite, postgresql (of its own), none, or an address")
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
    options = {"sampler": given.sampler, "tracking": given.tracking, "profile": given.profile}
    print(json.dumps(figures(given.trials, machines, **options), indent=2))


if __name__ == "__main__":
    main()
