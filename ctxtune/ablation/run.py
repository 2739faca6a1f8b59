"""An ablation from start to end: check, tune every cell, run the seeds, write down."""

from collections.abc import Iterator
from pathlib import Path

from ctxtune.ablation.budget import CellTimes
from ctxtune.ablation.earlier import earlier_tuning
from ctxtune.ablation.pipeline import nothing_left, run_stages
from ctxtune.ablation.plan import stage_lines
from ctxtune.ablation.results import design_of, results_of
from ctxtune.config import Ablation, cells_of, search_of, searched_models
from ctxtune.data import load_dataset
from ctxtune.models import ModelSettings
from ctxtune.results.ablation import AblationResults
from ctxtune.results.costs import hours_of
from ctxtune.results.note import ablation_note
from ctxtune.results.summary import ablation_summary
from ctxtune.text import duration
from ctxtune.tracking import flatten, tracked_dataset
from ctxtune.tuning.backend.cluster import RunResources
from ctxtune.tuning.backend.connect import Connection
from ctxtune.tuning.backend.runner import RayExecutor, delete_checkpoints
from ctxtune.tuning.callbacks import Watcher, identity, interrupts, tell_link, with_precision
from ctxtune.tuning.features import features_ahead
from ctxtune.tuning.record.journal import RunRecord
from ctxtune.tuning.record.recorder import Recorder
from ctxtune.tuning.record.results_folder import ABLATION_FILE, ResultsFolder
from ctxtune.tuning.startup import Place, checked_place, opened, recorded_weights
from ctxtune.yaml_text import write_yaml

_MAY_CHANGE = ("resources", "tracking", "max_concurrent", "based_on", "tune_each.budget", "pilot")
"""What a resumed ablation may say differently. Seeds are not among it: more of them once the scores are known would be
optional stopping, which no p-value allows for."""


def ablation_folder(root: Path, ablation: Ablation, *, resume: bool) -> ResultsFolder[Ablation]:
    """The results folder of an ablation.

    Raises:
        ConfigError: see `ResultsFolder`.
    """
    return ResultsFolder(root, ablation, file=ABLATION_FILE, may_change=_MAY_CHANGE, resume=resume)


def run_ablation(
    ablation: Ablation,
    *,
    root: Path,
    resume: bool = False,
    address: str | None = None,
    storage: str | None = None,
    watcher: Watcher | None = None,
) -> AblationResults:
    """Run an ablation to its end, or go on with one.

    Args:
        ablation: from `ctxtune.config.load_ablation`.
        root: the folder of all results; this ablation's is ``root/NAME``.
        resume: go on with an earlier process's ablation.
        address: of a Ray cluster; None starts Ray on this machine.
        storage: where checkpoints lie, for a cluster; None: in the results folder.
        watcher: told of every event.

    Raises:
        ConfigError, DataError, TrackingError: something is wrong, found before any run starts.
        SweepStopped: it was interrupted, or the disk is full, or too many runs failed in a row.
    """
    watcher = watcher or Watcher()
    earlier = earlier_tuning(ablation)
    place = checked_place(ablation, _models(ablation), root, address, storage)
    if not place.address:
        _check_data(ablation)
    folder = ablation_folder(root, ablation, resume=resume)
    with opened(
        ablation, folder, place, max_concurrent=ablation.max_concurrent, watcher=watcher, resume=resume,
        nothing_left=lambda journal: nothing_left(ablation, journal),
    ) as parts:  # fmt: skip
        journal, connection = parts.journal, parts.connection
        ablation = with_precision(ablation, journal, connection.resources if connection else None)
        recorder = Recorder(
            journal,
            parts.tracker,
            metric=ablation.compare.metric,
            sweep_id=identity(journal, "ablation"),
            on_change=lambda recorder, run: _on_change(recorder, run, watcher),
        )
        if earlier and not journal.decisions.tuned_with:
            journal.decided("tuned_with", [each.model_dump() for each in earlier])
        _start_tracking(ablation, recorder, place, connection, resume=resume)
        if connection is not None:
            _run(ablation, recorder, place, connection, watcher)
        for run in journal.stage("cell_search"):
            if run.state == "killed":
                delete_checkpoints(run)
        result = results_of(ablation, journal, ended=True)
        _write(recorder, folder, result)
        tell_link(ablation, parts.tracker, "Cells", watcher)
        return result


def _run(ablation: Ablation, recorder: Recorder, place: Place, connection: Connection, watcher: Watcher) -> None:
    """Run what is left of tuning and seeds."""
    with interrupts(recorder, watcher):
        if place.address is None:
            for trial in {cell.trial.hash(): cell.trial for cell in cells_of(ablation)}.values():
                features_ahead(trial, "train", connection.resources, recorder, watcher)
        run_stages(
            ablation,
            recorder,
            RayExecutor(connection.storage, connection.resources),
            watcher,
            on_measured=lambda times: _tell_plan(ablation, times, connection.resources, watcher),
            on_tuned=lambda: _tuned(ablation, recorder),
        )


def _on_change(recorder: Recorder, run: RunRecord, watcher: Watcher) -> None:
    """Tell the display, and make room: of what has ended only the weights of each cell's first seed are kept.

    What a budget killed may go on as long as no run of the seeds has begun.
    """
    first_seed = run.stage == "cell" and run.spec.seed_index == 0
    if run.state not in ("running", "killed") and not first_seed:
        delete_checkpoints(run)
    watcher.on_change(recorder, run)


def _models(ablation: Ablation) -> Iterator[ModelSettings]:
    """The models of all cells, and of what is searched in them."""
    for cell in cells_of(ablation):
        yield from searched_models(search_of(ablation, cell)) if ablation.tune_each else [cell.trial.model]


def _tell_plan(ablation: Ablation, times: CellTimes, resources: RunResources, watcher: Watcher) -> None:
    watcher.on_note(f"a full-length run takes {duration(times.mean / 3600)} here; what this comes to:")
    for line in stage_lines(ablation, times, resources):
        watcher.on_note(line)


def _tuned(ablation: Ablation, recorder: Recorder) -> None:
    """Tell tracking what every cell was tuned by: a report reads it there."""
    design = design_of(ablation, recorder.journal)
    if design.trials_held is not None:
        recorder.tracker.log_text(recorder.sweep_id, design.model_dump_json(indent=2), "design.json")


def _check_data(ablation: Ablation) -> None:
    """Look for the data of cells that name another data set, or other data of it."""
    known = {ablation.trial.dataset.model_dump_json()}
    for cell in cells_of(ablation):
        dataset = cell.trial.dataset
        if dataset.model_dump_json() not in known:
            known.add(dataset.model_dump_json())
            load_dataset(dataset)


def _start_tracking(
    ablation: Ablation, recorder: Recorder, place: Place, connection: Connection | None, *, resume: bool
) -> None:
    tree = ablation.model_dump(mode="json")
    design = design_of(ablation, recorder.journal)
    recorder.tracker.start_run(
        recorder.sweep_id,
        name=ablation.name,
        kind="ablation",
        params=flatten({key: tree[key] for key in ("seeds", "design", "compare", "confirmatory", "validation")}),
        tags={
            **(connection.tags if connection else {}),
            **recorded_weights(ablation.trial),
            "data_set": ablation.trial.dataset.name,
            "reference": design.reference,
            "based_on": ablation.based_on or "",
        },
    )
    fingerprint = connection.fingerprint if connection else place.fingerprint
    if fingerprint:  # of data on a cluster that is not asked any more MLflow knows already
        dataset = tracked_dataset(ablation.trial.dataset.model_dump(mode="json", exclude_none=True), fingerprint)
        recorder.tracker.log_dataset(recorder.sweep_id, dataset)
    if resume:
        recorder.tracker.reopen_run(recorder.sweep_id)
    recorder.tracker.log_text(recorder.sweep_id, write_yaml(tree), "ablation.yaml")
    recorder.tracker.log_text(recorder.sweep_id, design.model_dump_json(indent=2), "design.json")
    paths = sorted({path for cell in cells_of(ablation) for path in cell.settings})
    recorder.tracker.save_view("Cells", design.metric, paths, mode=ablation.compare.mode, kind="cell")


def _write(recorder: Recorder, folder: ResultsFolder[Ablation], result: AblationResults) -> None:
    folder.write_summary(ablation_summary(result))
    recorder.tracker.log_artifact(recorder.sweep_id, folder.summary)
    recorder.tracker.log_metrics(recorder.sweep_id, {"time/hours": hours_of(result.runs)}, step=0)
    recorder.tracker.set_tags(recorder.sweep_id, {"mlflow.note.content": ablation_note(result)})
    recorder.tracker.end_run(recorder.sweep_id, "completed")
