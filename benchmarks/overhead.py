"""What a sweep costs besides training: no-op trials of 3 reports through our runner, through bare and stock Ray Tune.

    python benchmarks/overhead.py [--trials 1000] [--bare 1000] [--stock 100] [--sampler tpe] [--profile FILE]
        [--checkpoints] [--without-savings]

In one run, two trials at a time on a CPU core each, processes reused:
(ours) `ctxtune.tuning.backend.runner.run_stages` with journal, sampler, budget and tracking (parent and child runs, 3 reports
    of 4 metrics, the whole configuration as params) into a fresh SQLite store;
(bare) Ray Tune's Tuner with random values from its own generator, no callback and no logger: nothing is recorded anywhere;
(stock) Ray Tune's Tuner with OptunaSearch and MLflowLoggerCallback into another SQLite store, 4 metrics too.
Printed: milliseconds a trial of control loop (the driver's time outside `ray.wait`, in which Tune waits for trials: the
no-op trials themselves, on the same cores here), until the last trial ended, and until the last event was in MLflow, all
counted from when both processes have done their first trial; of ours what the sampler takes, which bare Ray Tune has none
of; the driver's memory over the trials; and the ratios for the same number of trials (the first `--stock` of ours).
Targets at 1,000 trials: a control loop of at most 1.5 of bare Ray Tune's, the spool drained at no more than 60 ms a trial,
10 KiB a trial of the driver's memory.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from record_curves import METRIC, search_space

REPORTS = 3
PROCESSES = 2
WARM_SECONDS = 8.0
"""Processes take seconds to start. Without this the first one would have done all trials before the second is there, and
Tune would ask for the second anew for every trial."""
METRICS = ("train/loss", METRIC, "validation/recall_at_1", "time/seconds")


def no_op(config: dict[str, Any]) -> None:
    """A trial that only reports; the first of each process waits until the other process is up, too."""
    from ray import tune

    if not hasattr(tune, "warm_for_benchmark"):
        tune.warm_for_benchmark = True
        time.sleep(WARM_SECONDS)
    point = json.loads(config["spec"])["point"]
    for number in range(1, REPORTS + 1):
        score = number * point["loss.contextual_weight"] / REPORTS
        tune.report({"epoch": float(3 * number), **dict.fromkeys(METRICS, score)})


def no_op_with_checkpoints(config: dict[str, Any]) -> None:
    """The same with a checkpoint of a few bytes at each report: Tune keeps a record of those."""
    from ray import tune

    report = tune.report

    def with_checkpoint(metrics: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "checkpoint.pt").write_bytes(b"x")
            report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))

    tune.report = with_checkpoint
    try:
        no_op(config)
    finally:
        tune.report = report


def stock_no_op(config: dict[str, Any]) -> None:
    """The same for stock Ray Tune, whose configuration is the point itself."""
    no_op({"spec": json.dumps({"point": config})})


class Meter:
    """What the driver had used at the end of each trial.

    Attributes:
        ended, worked: seconds since the beginning, all and those in which it did not wait for trials.
        processor: seconds of the driver's thread; ``memory``: MiB of its process.
        sampler: seconds of the thread in the sampler so far.
    """

    def __init__(self) -> None:
        self.ended: list[float] = []
        self.worked: list[float] = []
        self.processor: list[float] = []
        self.memory: list[float] = []
        self.sampler: list[float] = []
        self._waited = self._sampled = 0.0
        self._started = time.perf_counter()

    def seconds(self) -> float:
        """Since the beginning."""
        return time.perf_counter() - self._started

    def trial_ended(self, *_: Any, **__: Any) -> None:
        """Note it; takes what a callback of Tune's is given."""
        self.ended.append(self.seconds())
        self.worked.append(self.ended[-1] - self._waited)
        self.processor.append(time.thread_time())
        self.memory.append(resident_mebibytes())
        self.sampler.append(self._sampled)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Count from here on, and within the block what the driver waits."""
        import ray

        wait = ray.wait

        def counting(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return wait(*arguments, **options)
            finally:
                self._waited += time.perf_counter() - started

        ray.wait = counting
        self._started = time.perf_counter()
        try:
            yield
        finally:
            ray.wait = wait

    def sampling(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """A method of the sampler whose time is counted."""

        def counting(*arguments: Any) -> Any:
            started = time.thread_time()
            try:
                return method(*arguments)
            finally:
                self._sampled += time.thread_time() - started

        return counting


def resident_mebibytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextlib.contextmanager
def profiled(file: str | None) -> Iterator[None]:
    """Profile the block into a file for pstats, if one is named."""
    if file is None:
        yield
        return
    with cProfile.Profile() as profile:
        yield
    profile.dump_stats(file)


def ours(
    folder: Path, trials: int, sampler: str, profile: str | None, trainable: Callable[[dict[str, Any]], None] = no_op
) -> tuple[Meter, float, int]:
    """Run no-op trials through the runner: what they took, seconds until delivered, events that then still waited."""
    from ctxtune.tracking import Tracker
    from ctxtune.tuning import stages
    from ctxtune.tuning.backend.cluster import RunResources
    from ctxtune.tuning.backend.runner import run_stages
    from ctxtune.tuning.budget import Budget
    from ctxtune.tuning.executor import StageRuns
    from ctxtune.tuning.record.journal import Journal
    from ctxtune.tuning.record.recorder import Recorder
    from ctxtune.tuning.search.sampler import Sampler

    space = search_space(
        trials=trials, sampler={"name": sampler}, scheduler={"name": "none"}, budget={"hours": 100, "no_improvement_for": 10**6}
    )  # fmt: skip
    meter = Meter()

    def note(recorder: Recorder, run: Any) -> None:
        if run.state != "running":
            meter.trial_ended()

    journal = Journal(folder / "journal.jsonl")
    tracker = Tracker(f"sqlite:///{folder / 'ours.db'}", "overhead", folder / "spool")
    tracker.check()
    resources = RunResources(cpus=1, gpus=0, concurrent=PROCESSES)
    sampling = Sampler(space)
    for name in ("ask", "report", "tell"):
        setattr(sampling, name, meter.sampling(getattr(sampling, name)))
    recorder = Recorder(journal, tracker, metric=METRIC, sweep_id="sweep", sampler=sampling, on_change=note)
    tracker.start_run("sweep", name="sweep", kind="sweep")
    if not tracker.flush(60):
        raise SystemExit(f"MLflow could not be reached: {tracker.last_error}")
    with profiled(profile), meter.running():
        next_run = partial(stages.next_trial, space, recorder, sampling)
        search = StageRuns("search", next_run, on_event=Budget(space, recorder, resources, time.monotonic).check_search)
        run_stages(iter([search]), recorder, storage=folder / "checkpoints", resources=resources, trainable=trainable)
    pending = tracker.pending
    if not tracker.flush(600):
        raise SystemExit(f"not delivered: {tracker.last_error}")
    drained = meter.seconds()
    tracker.close()
    assert len(journal.completed("search")) == trials
    return meter, drained, pending


def bare(folder: Path, trials: int) -> Meter:
    """The same through Ray Tune alone: random values, no logger, nothing recorded."""
    return _tuned(folder / "bare", trials, None, [])


def stock(folder: Path, trials: int) -> Meter:
    """The same through stock Ray Tune and its MLflow callback, which has delivered when a trial has ended."""
    import optuna
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    mlflow = MLflowLoggerCallback(
        tracking_uri=f"sqlite:///{folder / 'stock.db'}", experiment_name="overhead", save_artifact=False
    )
    mlflow.setup()  # the tables of a new store take seconds: not counted, as for ours
    return _tuned(folder / "stock", trials, OptunaSearch(metric=METRIC, mode="max", seed=0), [mlflow])


def _tuned(folder: Path, trials: int, searcher: Any, callbacks: list[Any]) -> Meter:
    """Run Ray Tune's own Tuner on the space."""
    from ray import tune

    meter = Meter()
    clock = type("Clock", (tune.Callback,), {"on_trial_complete": lambda _, **info: meter.trial_ended()})()
    space = {
        "optimizer.lr": tune.loguniform(5e-4, 8e-3),
        "loss.contextual_weight": tune.uniform(0.1, 1.0),
        "loss.epsilon": tune.loguniform(0.005, 0.5),
        "loss.k": tune.choice([2, 4, 8]),
    }
    tuner = tune.Tuner(
        tune.with_resources(stock_no_op, {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            search_alg=searcher, num_samples=trials, max_concurrent_trials=PROCESSES, reuse_actors=True
        ),
        run_config=tune.RunConfig(
            storage_path=str(folder.parent), name=folder.name, verbose=0, callbacks=[*callbacks, clock]
        ),
    )
    with meter.running():
        tuner.fit()
    return meter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--bare", type=int, default=1000, help="trials of bare Ray Tune (0: leave it out)")
    parser.add_argument("--stock", type=int, default=100, help="trials of stock Ray Tune (0: leave it out)")
    parser.add_argument("--sampler", default="tpe", help="of ours; the stock side has OptunaSearch's, tpe")
    parser.add_argument("--profile", help="write a profile of our control loop, for pstats")
    parser.add_argument("--checkpoints", action="store_true", help="ours with a checkpoint at each report")
    parser.add_argument("--without-savings", action="store_true", help="ours without what ray_internals saves")
    arguments = parser.parse_args()
    if arguments.without_savings:
        from ctxtune.tuning.backend import runner

        runner.thrifty_tune = contextlib.nullcontext
    trainable = no_op_with_checkpoints if arguments.checkpoints else no_op
    from ctxtune.tuning.backend.cluster import running_ray

    with running_ray(), tempfile.TemporaryDirectory() as name:
        mine = ours(Path(name), arguments.trials, arguments.sampler, arguments.profile, trainable)
        peers = {"bare": (bare, arguments.bare), "stock": (stock, arguments.stock)}
        theirs = {peer: run(Path(name), trials) for peer, (run, trials) in peers.items() if trials}
    result = figures_of_ours(*mine)
    for peer, meter in theirs.items():
        result |= figures_beside(peer, meter, mine[0])
    print(json.dumps(result, indent=2))


def per_trial(seconds: list[float], count: int | None = None) -> float:
    """Milliseconds a trial, from when every process has done its first one."""
    first, last = PROCESSES - 1, (count or len(seconds)) - 1
    return 1000 * (seconds[last] - seconds[first]) / (last - first)


def growth(memory: list[float]) -> float:
    """KiB a trial that the driver grew by in the last half."""
    half = len(memory) // 2
    return 1024 * (memory[-1] - memory[half]) / (len(memory) - 1 - half)


def figures_of_ours(meter: Meter, drained: float, pending: int) -> dict[str, Any]:
    """What our trials took."""
    trials, memory = len(meter.ended), meter.memory
    return {
        "trials": trials,
        "ours_control_loop_ms_per_trial": per_trial(meter.worked),
        "ours_control_loop_processor_ms_per_trial": per_trial(meter.processor),
        "ours_sampler_processor_ms_per_trial": per_trial(meter.sampler),
        "ours_ms_per_trial": per_trial(meter.ended),
        "drained_ms_per_trial": per_trial([*meter.ended[:-1], drained]),
        "events_waiting_at_the_end": pending,
        "driver_mib_at_quarters": [round(memory[max(0, i * trials // 4 - 1)], 1) for i in range(5)],
        "driver_kib_per_trial_in_last_half": growth(memory),
    }


def figures_beside(peer: str, theirs: Meter, ours: Meter) -> dict[str, Any]:
    """What a peer's trials took, and ours over it for as many."""
    count = min(len(theirs.ended), len(ours.ended))
    own = per_trial(ours.processor, count) - per_trial(ours.sampler, count)
    return {
        f"{peer}_trials": count,
        f"{peer}_control_loop_ms_per_trial": per_trial(theirs.worked, count),
        f"{peer}_control_loop_processor_ms_per_trial": per_trial(theirs.processor, count),
        f"{peer}_ms_per_trial": per_trial(theirs.ended, count),
        f"{peer}_driver_kib_per_trial_in_last_half": growth(theirs.memory),
        f"ours_over_{peer}": per_trial(ours.ended, count) / per_trial(theirs.ended, count),
        f"control_loop_ours_over_{peer}": per_trial(ours.worked, count) / per_trial(theirs.worked, count),
        f"processor_ours_over_{peer}": per_trial(ours.processor, count) / per_trial(theirs.processor, count),
        f"processor_ours_without_sampler_over_{peer}": own / per_trial(theirs.processor, count),
    }


if __name__ == "__main__":
    main()
