"""A sweep from start to end: check, search, select, confirm, write down."""

import tempfile
from pathlib import Path

from ctxtune.config import SweepConfig, TrialSettings, searched_models
from ctxtune.errors import CtxtuneError
from ctxtune.results.note import sweep_note
from ctxtune.results.summary import sweep_metrics, sweep_summary
from ctxtune.results.sweep import SweepResults
from ctxtune.text import duration
from ctxtune.tracking import SpoolFullError, Tracker, flatten, package_model, tracked_dataset
from ctxtune.training import load_checkpoint
from ctxtune.training.features_ahead import Side
from ctxtune.training.restoring import restored_model, view_of_any_picture
from ctxtune.tuning.backend.checkpoints import state_file
from ctxtune.tuning.backend.cluster import RunResources
from ctxtune.tuning.backend.connect import Connection
from ctxtune.tuning.backend.runner import RayExecutor
from ctxtune.tuning.callbacks import Watcher, identity, interrupts, tell_link, with_precision
from ctxtune.tuning.features import features_ahead
from ctxtune.tuning.pipeline import nothing_left, run_stages
from ctxtune.tuning.plan import plan_lines
from ctxtune.tuning.record.journal import Journal, RunRecord
from ctxtune.tuning.record.recorder import Recorder
from ctxtune.tuning.record.results_folder import ResultsFolder, UnreadableCheckpoint, sweep_folder
from ctxtune.tuning.search.optuna_storage import StorageMirror
from ctxtune.tuning.search.warm_start import check_warm_starts, with_warm_starts
from ctxtune.tuning.stages import configuration
from ctxtune.tuning.startup import Place, checked_place, opened, recorded_weights
from ctxtune.tuning.summary_files import best_file
from ctxtune.tuning.sweep_results import results_of
from ctxtune.yaml_text import write_yaml


def run_sweep(
    config: SweepConfig,
    *,
    root: Path,
    resume: bool = False,
    address: str | None = None,
    storage: str | None = None,
    watcher: Watcher | None = None,
) -> SweepResults:
    """Run a sweep to its end, or go on with one.

    Args:
        config: what the search-space file says.
        root: the folder of all results; this sweep's is ``root/NAME``.
        resume: go on with an earlier process's sweep.
        address: of a Ray cluster; None starts Ray on this machine.
        storage: where checkpoints lie, for a cluster; None: in the results folder.
        watcher: told of every event.

    Raises:
        ConfigError, DataError, TrackingError: something is wrong, found before any trial starts.
        SweepStopped: it was interrupted, or the disk is full, or too many runs failed in a row.
    """
    watcher = watcher or Watcher()
    place = checked_place(config, searched_models(config), root, address, storage)
    if not resume:
        check_warm_starts(config)
    storage_mirror = StorageMirror(config, watcher.on_alert)
    folder = sweep_folder(root, config, resume=resume)
    with (
        storage_mirror,
        opened(
            config, folder, place, max_concurrent=config.search.max_concurrent, watcher=watcher, resume=resume,
            nothing_left=lambda journal: nothing_left(config, journal),
        ) as parts,
    ):  # fmt: skip
        journal, connection = parts.journal, parts.connection
        config = with_precision(config, journal, connection.resources if connection else None)
        config = with_warm_starts(config, journal)
        recorder = _recorder(config, journal, parts.tracker, storage_mirror, watcher)
        storage_mirror.begin(recorder.sweep_id, journal.stage("search"))
        _start_tracking(config, recorder, place, connection, resume=resume)
        if connection is not None:
            _run(config, recorder, place, connection, watcher)
        result = results_of(config, journal, ended=True)
        storage_mirror.end(journal.stage("search"))
        _write(config, recorder, folder, result, parts.missing)
        _track_model(config, recorder, folder, watcher)
        recorder.tracker.end_run(recorder.sweep_id, "completed")
        tell_link(config, parts.tracker, f"Trials by {config.search.objective.metric}", watcher)
        return result


def _recorder(
    config: SweepConfig, journal: Journal, tracker: Tracker, storage_mirror: StorageMirror, watcher: Watcher
) -> Recorder:
    """Writes down what happens; Optuna's storage and the watcher are told of it."""

    def on_change(recorder: Recorder, run: RunRecord) -> None:
        storage_mirror.change(run)
        watcher.on_change(recorder, run)

    return Recorder(
        journal,
        tracker,
        metric=config.search.objective.metric,
        sweep_id=identity(journal, "sweep"),
        scheduler=config.search.scheduler.name,
        on_change=on_change,
    )


def _run(config: SweepConfig, recorder: Recorder, place: Place, connection: Connection, watcher: Watcher) -> None:
    """Run what is left of the stages."""
    with interrupts(recorder, watcher):
        run_stages(
            config,
            recorder,
            RayExecutor(connection.storage, connection.resources),
            watcher,
            on_measured=lambda seconds: _tell_plan(config, connection.resources, seconds, watcher),
            prepare=lambda trial, side: _prepare(trial, side, place, connection, recorder, watcher),
        )


def _prepare(
    trial: TrialSettings, side: Side, place: Place, connection: Connection, recorder: Recorder, watcher: Watcher
) -> None:
    """On this machine features are computed before a stage; on a cluster the first run of each node computes them."""
    if place.address is None:
        features_ahead(trial, side, connection.resources, recorder, watcher)


def _tell_plan(config: SweepConfig, resources: RunResources, seconds: float, watcher: Watcher) -> None:
    watcher.on_note(f"a full-length run takes {duration(seconds / 3600)} here; what this comes to:")
    for line in plan_lines(config, resources, lambda trial: seconds):
        watcher.on_note(line)


def _start_tracking(
    config: SweepConfig, recorder: Recorder, place: Place, connection: Connection | None, *, resume: bool
) -> None:
    tree = config.model_dump(mode="json")
    recorder.tracker.start_run(
        recorder.sweep_id,
        name=config.name,
        kind="sweep",
        params=flatten({key: tree[key] for key in ("search", "select", "confirm", "validation")}),
        tags={
            **(connection.tags if connection else {}),
            **recorded_weights(config.trial),
            "data_set": config.trial.dataset.name,
        },
    )
    fingerprint = connection.fingerprint if connection else place.fingerprint
    if fingerprint:  # of data on a cluster that is not asked any more MLflow knows already
        dataset = tracked_dataset(config.trial.dataset.model_dump(mode="json", exclude_none=True), fingerprint)
        recorder.tracker.log_dataset(recorder.sweep_id, dataset)
    if resume:
        recorder.tracker.reopen_run(recorder.sweep_id)
    recorder.tracker.log_text(recorder.sweep_id, write_yaml(tree), "space.yaml")
    objective = config.search.objective
    recorder.tracker.save_view(
        f"Trials by {objective.metric}", objective.metric, list(config.search.space), mode=objective.mode
    )


def _write(
    config: SweepConfig,
    recorder: Recorder,
    folder: ResultsFolder[SweepConfig],
    result: SweepResults,
    missing: list[str],
) -> None:
    text = best_file(config, recorder.journal, result.chosen)
    folder.write_best(text)
    _keep_checkpoint(recorder, folder, missing)
    folder.write_summary(sweep_summary(result))
    recorder.tracker.log_text(recorder.sweep_id, text, "best.yaml")
    recorder.tracker.log_artifact(recorder.sweep_id, folder.summary)
    recorder.tracker.log_metrics(recorder.sweep_id, sweep_metrics(result), step=0)
    for run in result.front:
        recorder.tracker.set_tags(recorder.tracked(run.key), {"pareto_front": "true"})
    recorder.tracker.set_tags(recorder.sweep_id, {"mlflow.note.content": sweep_note(result)})


def _keep_checkpoint(recorder: Recorder, folder: ResultsFolder[SweepConfig], missing: list[str]) -> None:
    """Copy the chosen configuration's weights (confirmation's first seed, else the trial's) to `best.pt`, and track it.

    A checkpoint that cannot be read is told as missing: the result stands without it.
    """
    chosen = recorder.journal.decisions.chosen or ""
    confirmed = [run for run in recorder.journal.completed("confirmation") if run.spec.arm == chosen]
    run = confirmed[0] if confirmed else recorder.journal.runs.get(chosen)
    if run is None:
        return
    if run.checkpoint is None:
        missing.append(f"{folder.weights.name} ({run.key} left no checkpoint)")
        return
    try:
        with state_file(run.checkpoint) as source:
            folder.keep_weights(source)
    except (OSError, UnreadableCheckpoint) as error:
        if not folder.weights.exists():  # an earlier process has kept them
            missing.append(
                f"{folder.weights.name} (the checkpoint {run.checkpoint} of {run.key} cannot be read: {error})"
            )
    else:
        recorder.tracker.log_artifact(recorder.sweep_id, folder.weights)


def _track_model(config: SweepConfig, recorder: Recorder, folder: ResultsFolder[SweepConfig], watcher: Watcher) -> None:
    """Log the model of `best.pt` as an MLflow model. One that cannot be exported is told: the result stands without it."""
    chosen = recorder.journal.decisions.chosen
    if chosen is None or not folder.weights.exists():
        return
    trial = configuration(config, recorder.journal, chosen)[1]
    try:
        with tempfile.TemporaryDirectory() as place:
            packaged = Path(place) / "model"
            state = load_checkpoint(folder.weights)
            if len(state["runs"]) > 1:
                raise CtxtuneError(f"it is {len(state['runs'])} models, one for each fold")
            model = restored_model(trial, state)
            package_model(model, view_of_any_picture(trial), packaged)
            recorder.tracker.log_model(recorder.sweep_id, packaged, f"{config.name}-{trial.hash()}")
    except SpoolFullError:
        raise
    except (CtxtuneError, OSError, RuntimeError) as error:
        watcher.on_note(f"the chosen model is not in MLflow as a model ({error}); {folder.weights} holds it")
