"""Running stage after stage on Ray Tune, in one go where nothing stops them; everything that lasts is in the recorder."""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from pyarrow.fs import FileSelector, FileSystem, FileType
from ray import tune
from ray.exceptions import RayError
from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig
from ray.tune.experiment import Trial
from ray.tune.logger import LoggerCallback
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from ctxtune.tuning.backend.checkpoints import KEPT_CHECKPOINTS, kept_checkpoints
from ctxtune.tuning.backend.cluster import HEAD, RunResources, process_count
from ctxtune.tuning.backend.concurrency import Concurrency
from ctxtune.tuning.backend.course import Course, unfinished
from ctxtune.tuning.backend.local_ray import LOCAL_RAY
from ctxtune.tuning.backend.ray_internals import (
    end_process,
    error_of,
    forget_details,
    retry_after_out_of_memory,
    silent_progress,
    thrifty_tune,
    tuner_here,
)
from ctxtune.tuning.backend.storage import checkpoint_address
from ctxtune.tuning.backend.trial import CHECKPOINT, run_trial
from ctxtune.tuning.executor import StageRuns
from ctxtune.tuning.record.journal import RunRecord
from ctxtune.tuning.record.recorder import Recorder
from ctxtune.tuning.record.trial_report import read_report, tells_failure

Trainable: TypeAlias = Callable[[dict[str, Any]], None]
"""What Ray Tune runs for a spec."""
_FINISHED: Any = Searcher.FINISHED
"""In place of a configuration: there will be none any more."""
PROCESS_RESTARTS = 3
"""How often a run whose process or machine died goes on from its checkpoint."""


def run_stages(
    stages: Iterator[StageRuns],
    recorder: Recorder,
    *,
    storage: Path | str,
    resources: RunResources,
    cache_dir: Path | None = None,
    trainable: Trainable = run_trial,
) -> None:
    """Run stage after stage; see `ctxtune.tuning.executor.Executor`.

    Tune is started once: the processes of one stage, which have imported everything, go on with the runs of the next. It is
    started again only after a stage was stopped, or for runs that it gave up.

    Args:
        storage: where checkpoints lie: a folder or an fsspec address.
        cache_dir: where image caches live; None for the default.
        trainable: what Ray runs for each spec.
    """
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    several_gpus = process_count(resources.gpus) > 1
    started = _with_share(trainable, resources)
    config = {
        "storage": str(storage),
        "threads": resources.cpus,
        "gpus": resources.gpus,
        "price": resources.price_per_gpu_hour,
        "cache_dir": str(cache_dir) if cache_dir else None,
    }
    # On a cluster a process that waits for the next stage would keep its node from being given back.
    kept = resources.concurrent if os.environ.get(LOCAL_RAY) else 0
    course = Course(stages, recorder)
    course.advance()
    attempt = 0
    while course.current is not None:
        begun = course.current
        tuner = tuner_here(
            trainable=started,
            param_space=config,
            tune_config=_tune_config(course, Concurrency(resources), reuse=not several_gpus and attempt == 0),
            run_config=_run_config(course, str(storage)),
        )
        with _quiet(), thrifty_tune(kept), retry_after_out_of_memory(), ray_errors_stop(recorder):
            tuner.fit()
        course.raise_error()
        if course.current is None:
            return
        # Ray gives a run up in silence where a process that it wanted to use again was not done with the run before.
        attempt = attempt + 1 if course.current is begun else 1
        if not recorder.stop and attempt <= PROCESS_RESTARTS and recorder.put_back():
            continue
        _settle(recorder)
        attempt = 0
        course.advance()


def _with_share(trainable: Trainable, resources: RunResources) -> Any:
    """What Ray runs, with its share of a node; of a run on several GPUs its processes, which have shares of their own."""
    if process_count(resources.gpus) == 1:
        return tune.with_resources(trainable, {"cpu": resources.cpus, "gpu": resources.gpus})
    if trainable is run_trial:
        from ctxtune.tuning.backend.multi_gpu import run_multi_gpu as trainable  # Ray Train takes a second to import
    return tune.with_resources(trainable, HEAD)


@dataclass(frozen=True)
class RayExecutor:
    """Runs stages on Ray Tune; see `ctxtune.tuning.executor.Executor`."""

    storage: Path | str
    resources: RunResources

    def now(self) -> float:
        """Seconds of a clock that nobody sets."""
        return time.monotonic()

    def run(self, stages: Iterator[StageRuns], recorder: Recorder) -> None:
        """Run stage after stage; see `run_stages`."""
        run_stages(stages, recorder, storage=self.storage, resources=self.resources)


def _settle(recorder: Recorder) -> None:
    """What is to become of runs that Ray is done with and that have not ended: they failed, or the stage was ended."""
    for run in unfinished(recorder):
        if not recorder.stop:
            recorder.end(run.key, "failed", f"Ray gave it up {PROCESS_RESTARTS + 1} times")
        elif not recorder.stop.resumable:
            recorder.finish(run.key)


def _tune_config(course: Course, concurrency: Concurrency, *, reuse: bool) -> TuneConfig:
    return TuneConfig(
        search_alg=_SpecSearcher(course, concurrency),
        scheduler=_StageScheduler(course),
        num_samples=-1,
        reuse_actors=reuse,
        trial_name_creator=_trial_name,
        trial_dirname_creator=_trial_name,
    )


def _run_config(course: Course, storage: str) -> RunConfig:
    return RunConfig(
        name=f"runs-{time.strftime('%Y%m%d-%H%M%S')}-{course.recorder.journal.events}",
        storage_path=storage,
        callbacks=[_RecorderCallback(course), *silent_progress()],
        failure_config=FailureConfig(max_failures=PROCESS_RESTARTS),
        checkpoint_config=CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS),
        stop=_CourseStopper(course),
        verbose=0,
    )


def _trial_name(trial: Trial) -> str:
    return str(trial.config["key"])


class _WithoutState:
    """Ray pickles searcher, scheduler, callbacks and stopper for a restore that we never ask for: there is nothing to keep."""

    def __getstate__(self) -> dict[str, object]:
        return {}


class _SpecSearcher(_WithoutState, Searcher):
    """Hands specs to Ray, one at a time."""

    def __init__(self, course: Course, concurrency: Concurrency) -> None:
        super().__init__()
        self._course, self._recorder, self._concurrency = course, course.recorder, concurrency
        self._under_way: set[str] = set()

    def suggest(self, trial_id: str) -> dict[str, object] | None:
        """The next run as a configuration; None: nothing now."""
        if self._recorder.stop:
            return _FINISHED
        if not self._course.tune_is_busy():  # of runs that it gives up in silence Tune tells nobody
            self._under_way.clear()
        if len(self._under_way) >= self._concurrency.limit:
            return None
        spec = self._course.next_run()
        if spec is None:
            # The next stage follows from what the last runs of this one come to.
            return None if self._course.tune_is_busy() else _FINISHED
        if not self._recorder.start(spec):
            return _FINISHED
        self._under_way.add(trial_id)
        known = self._recorder.journal.runs[spec.key]
        # The spec as text: Tune copies, flattens and encodes a configuration at every report.
        return {
            "key": spec.key,
            "loss": spec.trial.loss.name,
            "spec": spec.model_dump_json(),
            "resume_from": kept_checkpoints(known),
        }

    def on_trial_complete(self, trial_id: str, result: dict[str, object] | None = None, error: bool = False) -> None:
        """The callback keeps the recorder; here only a place becomes free."""
        self._under_way.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """The journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """The journal is the state."""


class _StageScheduler(_WithoutState, FIFOScheduler):
    """Stops the runs of a stage that has somebody who stops them early."""

    def __init__(self, course: Course) -> None:
        super().__init__()
        self._course = course
        self._under_way: dict[Trial, None] = {}

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: object) -> bool:
        """Metric and mode are not Tune's concern."""
        return True

    def on_trial_add(self, tune_controller: object, trial: Trial) -> None:
        """Tune has a run that has not ended."""
        self._under_way[trial] = None

    def choose_trial_to_run(self, tune_controller: object) -> Trial | None:
        """The first that waits, as Tune does, which for this looks at all trials that there ever were, at each step."""
        self._under_way = {trial: None for trial in self._under_way if not trial.is_finished()}
        return next((trial for trial in self._under_way if trial.status == Trial.PENDING), None)

    def on_trial_result(self, tune_controller: object, trial: Trial, result: dict[str, Any]) -> str:
        """Stop or continue, as the stage's own scheduler decides."""
        stage = self._course.current
        if stage is None or stage.scheduler is None:
            return FIFOScheduler.CONTINUE
        stops = stage.scheduler.stops(trial.config["key"], trial.config["loss"], result)
        return FIFOScheduler.STOP if stops else FIFOScheduler.CONTINUE


class _RecorderCallback(_WithoutState, LoggerCallback):
    """Ray's events into the recorder."""

    def __init__(self, course: Course) -> None:
        self._course, self._recorder = course, course.recorder

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: object) -> None:
        """Where the stage is to stop, end the processes at once: Ray gives them 15 s, or the rest of their interval."""
        self._course.trials = trials
        if self._recorder.stop:
            for trial in trials:
                end_process(trial)

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        self._recorder.report(_trial_name(trial), read_report(result))
        if CHECKPOINT in result:
            self._recorder.checkpoint(_trial_name(trial), result[CHECKPOINT])

    def on_checkpoint(
        self, iteration: int, trials: list[Trial], trial: Trial, checkpoint: object, **info: object
    ) -> None:
        self._recorder.checkpoint(_trial_name(trial), checkpoint_address(checkpoint))

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        key = _trial_name(trial)
        if failed and not self._recorder.stop:
            if trial.num_failures <= PROCESS_RESTARTS:
                return  # the process that it was to have had died while it waited: `run_stages` starts it again
            self._recorder.end(key, "failed", f"its process died {PROCESS_RESTARTS + 1} times: {error_of(trial)}")
        else:
            self._recorder.finish(key)
        run = self._recorder.journal.runs[key]
        if run.state in ("pruned", "failed"):
            delete_checkpoints(run)
        forget_details(trial)


class _CourseStopper(_WithoutState, Stopper):
    """Stops the stage when the recorder says so."""

    def __init__(self, course: Course) -> None:
        self._course = course

    def __call__(self, trial_id: str, result: dict[str, object]) -> bool:
        # A run that has told of its failure is not tried again, even if its process dies of the same.
        return tells_failure(result)

    def stop_all(self) -> bool:
        self._course.look()
        return bool(self._course.recorder.stop)


def delete_checkpoints(run: RunRecord) -> None:
    """Make room: nobody goes on with a run that was pruned or has failed. What cannot be deleted stays."""
    for folder in run.folders:
        with contextlib.suppress(OSError, ValueError):
            storage, path = FileSystem.from_uri(folder)
            for entry in storage.get_file_info(FileSelector(path, allow_not_found=True)):
                if entry.type == FileType.Directory and entry.base_name.startswith("checkpoint_"):
                    storage.delete_dir(entry.path)


@contextlib.contextmanager
def ray_errors_stop(recorder: Recorder) -> Iterator[None]:
    """Turn an error of Ray's that leaves `Tuner.fit` into a stop that can be resumed."""
    try:
        yield
    except (RayError, RuntimeError) as error:
        found = error if isinstance(error, RayError) else error.__cause__
        if not isinstance(found, RayError):
            raise
        reason = next(iter(str(found).splitlines()), type(found).__name__)
        recorder.request_stop("ray_error", f"Ray has given up ({reason}); everything is saved", resumable=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Ray Tune logs advice about its own restore, which would mislead here."""
    loggers = [logging.getLogger(name) for name in ("ray.tune", "ray.tune.tune", "ray.train")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
