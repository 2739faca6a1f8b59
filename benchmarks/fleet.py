"""A fleet on a simulated clock: 10,000 trials on 1,000 spot GPUs, through the real driver.

    python benchmarks/fleet.py [--trials 10000] [--gpus 1000] [--sampler tpe] [--tracking sqlite|postgresql|none]

Real are journal, sampler, ASHA's rungs, budget, recorder and the tracking's spool; simulated are Ray, nodes and trials. Each
GPU reports once a minute. The driver does one thing at a time: what it is asked takes the processor time that it takes here,
`--engine-ms` for Ray's own part and `--sync-ms` for each event that is forced to disk, and the GPU waits for the answer as a
trial of Tune does. Nodes of `--node-gpus` die at random, `--life` hours old on average; their runs go on from their last
report on another node. Scores are recorded learning curves, as in `budget.py`.

Printed: suggestions a second, and how that changes with the number of trials; at how many parallel trials the driver is
busy all the time; the share of GPU time that waits for the driver or is lost to deaths, until the last trial was started;
memory and the journal's size a trial; seconds until a resumed sweep knows what this one knew; how fast tracking delivers.
"""

import argparse
import contextlib
import heapq
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from budget import SPACES, recorded_scores
from overhead import profiled, resident_mebibytes

from ctxtune.config import SweepConfig, load_search_space
from ctxtune.tracking import Tracker, replay
from ctxtune.tuning.backend.cluster import RunResources
from ctxtune.tuning.backend.scheduler import build_scheduler
from ctxtune.tuning.callbacks import Watcher
from ctxtune.tuning.executor import StageRuns
from ctxtune.tuning.pipeline import run_stages
from ctxtune.tuning.record.journal import Journal
from ctxtune.tuning.record.recorder import Recorder
from ctxtune.tuning.record.run_spec import RunSpec
from ctxtune.tuning.record.trial_report import TrialReport
from ctxtune.tuning.search.sampler import Sampler
from ctxtune.tuning.simulation import Score

EPOCHS = 27
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


@dataclass(frozen=True)
class Machines:
    """What the fleet is made of; seconds, if nothing else is said."""

    gpus: int = 1000
    report: float = 60.0
    setup: float = 20.0
    node_gpus: int = 8
    life_hours: float = 8.0
    replacement: float = 180.0
    engine: float = 0.004
    sync: float = 0.002


@dataclass
class GpuTime:
    """Seconds of all GPUs: at work, getting ready, waiting for the driver, and lost to deaths of nodes."""

    trained: float = 0.0
    setup: float = 0.0
    waited: float = 0.0
    lost: float = 0.0

    def shares(self) -> dict[str, float]:
        """Each as a share of all."""
        total = sum(asdict(self).values()) or 1.0
        return {name: round(seconds / total, 4) for name, seconds in asdict(self).items()}


@dataclass
class _Gpu:
    """A GPU and its run; ``turn`` tells events of its present life from those of an earlier one."""

    spec: RunSpec | None = None
    epoch: int = 0
    seconds: float = 0.0
    since: float = 0.0
    turn: int = 0


@dataclass
class Fleet:
    """Runs stages on simulated machines; see `ctxtune.tuning.executor.Executor`."""

    machines: Machines
    score: Score
    seed: int = 0
    clock: float = 0.0
    free_at: float = 0.0
    """When the driver has done all that it was asked."""
    time: GpuTime = field(default_factory=GpuTime)
    asks: list[float] = field(default_factory=list)
    driver: list[float] = field(default_factory=list)
    """Seconds of the driver: of each suggestion, and in all when that was made."""
    worked: float = 0.0
    reports: int = 0
    deaths: int = 0
    last_start: tuple[float, GpuTime] | None = None
    _events: list[tuple[float, int, str, int, int]] = field(default_factory=list)
    _order: int = 0

    @property
    def resources(self) -> RunResources:
        """A GPU each."""
        return RunResources(cpus=1, gpus=1, concurrent=self.machines.gpus, price_per_gpu_hour=0.5)

    def now(self) -> float:
        """Simulated seconds."""
        return self.clock

    def run(self, stages: Iterator[StageRuns], recorder: Recorder) -> None:
        """Run stage after stage."""
        for each in stages:
            self._run(each, recorder)

    def _run(self, work: StageRuns, recorder: Recorder) -> None:
        self._fleet = [_Gpu() for _ in range(self.machines.gpus)]
        random = np.random.default_rng(self.seed)
        for index in range(self.machines.gpus):
            self._at(self.clock, "ask", index)
        for node in range(-(-self.machines.gpus // self.machines.node_gpus)):
            self._at(self.clock + random.exponential(3600 * self.machines.life_hours), "death", node)
        under_way = 0
        while self._events and not recorder.stop:
            at, _, kind, index, turn = heapq.heappop(self._events)
            if kind == "death":
                if self._die(at, index) or self.last_start is None:
                    self._at(at + random.exponential(3600 * self.machines.life_hours), "death", index)
                continue
            gpu = self._fleet[index]
            if turn != gpu.turn:
                continue
            self.clock = max(at, self.free_at)
            if kind == "ask":
                under_way += self._ask(work, recorder, index)
            else:
                under_way -= self._report(work, recorder, index)
            self.time.waited += self.free_at - at
            if under_way == 0 and self.last_start is not None:
                break

    def _at(self, time_: float, kind: str, index: int) -> None:
        self._order += 1
        turn = self._fleet[index].turn if kind != "death" else 0
        heapq.heappush(self._events, (time_, self._order, kind, index, turn))

    @contextlib.contextmanager
    def _driver(self, forced: int, work: StageRuns) -> Iterator[None]:
        """The driver's part of an event: what it takes here, and what Ray and the disk would take beside."""
        started = time.thread_time()
        yield
        if work.on_event:
            work.on_event()
        took = time.thread_time() - started + self.machines.engine + forced * self.machines.sync
        self.worked += took
        self.free_at = self.clock + took

    def _ask(self, work: StageRuns, recorder: Recorder, index: int) -> bool:
        """Start a run; whether there was one."""
        gpu = self._fleet[index]
        with self._driver(1, work):
            started = time.thread_time()
            spec = work.next_run()
            if spec is not None:
                self.asks.append(time.thread_time() - started)
                recorder.start(spec)
        if spec is None:
            if self.last_start is None:
                self.last_start = self.clock, GpuTime(**asdict(self.time))
            return False
        self.driver.append(self.worked)
        gpu.spec, gpu.epoch, gpu.seconds, gpu.since = spec, recorder.journal.runs[spec.key].epoch, 0.0, self.free_at
        self._at(self.free_at + self.machines.setup + self.machines.report, "report", index)
        self.time.setup += self.machines.setup
        return True

    def _report(self, work: StageRuns, recorder: Recorder, index: int) -> bool:
        """A GPU reports; whether its run has ended."""
        gpu = self._fleet[index]
        assert gpu.spec is not None
        spec = gpu.spec
        gpu.epoch, gpu.seconds = gpu.epoch + 1, gpu.seconds + self.machines.report
        self.time.trained += self.machines.report
        self.reports += 1
        scores = {name: self.score(spec, gpu.epoch / EPOCHS) for name in _names(recorder.metric)}
        report = TrialReport(
            gpu.epoch, {**scores, "time/seconds": gpu.seconds, "cost/gpu_hours": gpu.seconds / 3600}
        )  # fmt: skip
        with self._driver(1, work):
            recorder.report(spec.key, report)
            recorder.checkpoint(spec.key, f"s3://bucket/sweeps/fleet/{spec.key}/checkpoint_{gpu.epoch:06d}")
            stopped = (
                work.scheduler is not None
                and work.scheduler.decide(spec.key, spec.trial.loss.name, report.plain()) == "STOP"
            )
            ended = stopped or gpu.epoch >= EPOCHS
            if ended:
                recorder.finish(spec.key)
        gpu.since = self.free_at
        if ended:
            gpu.spec = None
            self._at(self.free_at, "ask", index)
        else:
            self._at(self.free_at + self.machines.report, "report", index)
        return ended

    def _die(self, at: float, node: int) -> bool:
        """A node is taken away: its runs go on from their last report, on its replacement; whether it had any."""
        first = node * self.machines.node_gpus
        hit = [index for index in range(first, min(first + self.machines.node_gpus, self.machines.gpus))
               if self._fleet[index].spec is not None]  # fmt: skip
        self.deaths += 1
        for index in hit:
            gpu = self._fleet[index]
            back = max(at, self.free_at) + self.machines.engine + self.machines.replacement + self.machines.setup
            self.time.lost += max(at - gpu.since, 0.0) + back - at
            gpu.turn += 1
            gpu.since = back
            self._at(back + self.machines.report, "report", index)
        return bool(hit)


def _names(metric: str) -> tuple[str, ...]:
    return (metric, "validation/recall_at_1", "train/loss")


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
        "busy": round(1 - until_last.shares()["waited"], 4),
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
        cluster = folder / "postgresql"
        subprocess.run(["initdb", "-D", cluster, "-U", "fleet", "-A", "trust"], check=True, stdout=subprocess.DEVNULL)
        options = f"-k {folder} -c listen_addresses="
        start = ["pg_ctl", "-D", cluster, "-o", options, "-l", folder / "log", "-w", "start"]
        subprocess.run(start, check=True, stdout=subprocess.DEVNULL)
        try:
            yield f"postgresql://fleet@/postgres?host={folder}"
        finally:
            subprocess.run(["pg_ctl", "-D", cluster, "-m", "fast", "stop"], check=True, stdout=subprocess.DEVNULL)
    else:
        yield None if kind == "none" else kind


def figures(
    trials: int, machines: Machines, *, sampler: str = "tpe", tracking: str = "none", profile: str | None = None
) -> dict[str, object]:
    """All figures of a fleet; a resumed driver is a process of its own, so that its memory can be seen."""
    config = fleet_space(trials, sampler)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # what a forced write takes, `--sync-ms` says
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
    parser.add_argument("--report", type=float, default=default.report, help="seconds between two reports of a GPU")
    parser.add_argument("--setup", type=float, default=default.setup, help="seconds until a run begins to train")
    parser.add_argument("--node-gpus", type=int, default=default.node_gpus)
    parser.add_argument(
        "--life", type=float, default=default.life_hours, help="hours until a node is taken, on average"
    )
    parser.add_argument("--replacement", type=float, default=default.replacement, help="seconds until another is there")
    parser.add_argument("--engine-ms", type=float, default=1000 * default.engine, help="Ray's own part of an event")
    parser.add_argument("--sync-ms", type=float, default=1000 * default.sync, help="of a write that is forced to disk")
    parser.add_argument("--profile", help="write a profile of the driver, for pstats")
    parser.add_argument("--resume", type=Path, metavar="JOURNAL", help="only read a journal as a resumed sweep does")
    given = parser.parse_args()
    if given.resume:
        print(json.dumps(resume(fleet_space(given.trials, given.sampler), given.resume)))
        return
    machines = Machines(
        given.gpus, given.report, given.setup, given.node_gpus, given.life, given.replacement,
        given.engine_ms / 1000, given.sync_ms / 1000,
    )  # fmt: skip
    options = {"sampler": given.sampler, "tracking": given.tracking, "profile": given.profile}
    print(json.dumps(figures(given.trials, machines, **options), indent=2))


if __name__ == "__main__":
    main()
