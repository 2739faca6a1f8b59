"""Machines and runs on a simulated clock, for `fleet.py`: what stands in the place of Ray, nodes and trials."""

import contextlib
import heapq
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import numpy as np

from ctxtune.tuning.backend.cluster import RunResources
from ctxtune.tuning.executor import StageRuns
from ctxtune.tuning.record.recorder import Recorder
from ctxtune.tuning.record.run_spec import RunSpec
from ctxtune.tuning.record.trial_report import TrialReport
from ctxtune.tuning.simulation import Score

EPOCHS = 27


@dataclass(frozen=True)
class Machines:
    """What the fleet is made of (see `MACHINES`); seconds, if nothing else is said."""

    gpus: int = 1000
    report: float = 60.0
    setup: float = 20.0
    node_gpus: int = 8
    life_hours: float = 8.0
    replacement: float = 180.0
    engine: float = 0.004
    sync: float = 0.002
    pace: float = 0.0


MACHINES = {
    "report": "seconds between two reports of a GPU",
    "setup": "seconds until a run begins to train",
    "node_gpus": "GPUs of a node",
    "life_hours": "hours until a node is taken, on average",
    "replacement": "seconds until another node is there",
    "engine": "seconds of Ray's own part of an event",
    "sync": "seconds of a write that is forced to disk",
    "pace": "at most so many simulated seconds in a real one; 0: as many as the driver can do",
}


@dataclass
class GpuTime:
    """Seconds of all GPUs: at work, getting ready, lost to deaths of nodes, and waiting for the driver.

    They wait for their first run (all ask at once), for each further one, and for the answer to a report.
    """

    trained: float = 0.0
    setup: float = 0.0
    lost: float = 0.0
    first_run: float = 0.0
    next_run: float = 0.0
    answer: float = 0.0

    def shares(self) -> dict[str, float]:
        """Each as a share of all."""
        total = sum(asdict(self).values()) or 1.0
        return {name: round(seconds / total, 4) for name, seconds in asdict(self).items()}

    @property
    def waited(self) -> float:
        """The part that is the driver's."""
        return (self.first_run + self.next_run + self.answer) / (sum(asdict(self).values()) or 1.0)


@dataclass
class _Gpu:
    """A GPU and its run; ``turn`` tells events of its present life from those of an earlier one."""

    spec: RunSpec | None = None
    epoch: int = 0
    seconds: float = 0.0
    since: float = 0.0
    turn: int = 0
    used: bool = False


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
    _began: float = 0.0

    @property
    def resources(self) -> RunResources:
        """A GPU each."""
        return RunResources(cpus=1, gpus=1, concurrent=self.machines.gpus, price_per_gpu_hour=0.5)

    def now(self) -> float:
        """Simulated seconds."""
        return self.clock

    def run(self, stages: Iterator[StageRuns], recorder: Recorder) -> None:
        """Run stage after stage."""
        self._began = time.monotonic()
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
            self._wait()
            if kind == "ask":
                under_way += self._ask(work, recorder, index, at)
            else:
                under_way -= self._report(work, recorder, index)
                self.time.answer += self.free_at - at
            if under_way == 0 and self.last_start is not None:
                break

    def _wait(self) -> None:
        """Let the real clock come up to the simulated one."""
        if self.machines.pace:
            due = self._began + self.clock / self.machines.pace
            time.sleep(max(0.0, due - time.monotonic()))

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

    def _ask(self, work: StageRuns, recorder: Recorder, index: int, asked: float) -> bool:
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
        if gpu.used:
            self.time.next_run += self.free_at - asked
        else:
            self.time.first_run += self.free_at - asked
        gpu.used = True
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
            stopped = work.scheduler is not None and work.scheduler.stops(
                spec.key, spec.trial.loss.name, report.plain()
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
