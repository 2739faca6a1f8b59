"""What sweeps and ablations open before their first run, and close whatever happens."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ctxtune.config import TrialFile, TrialSettings
from ctxtune.errors import ConfigError, TrackingError
from ctxtune.models import ModelSettings
from ctxtune.models.weights import weight_file, weight_record
from ctxtune.tracking import Tracker, absolute_uri, find_sweep
from ctxtune.tracking.addresses import sqlite_path
from ctxtune.tuning.backend.checkpoints import lost_checkpoints
from ctxtune.tuning.backend.cluster import cluster_address, running_ray
from ctxtune.tuning.backend.connect import Connection, check_before, connect, own_modules
from ctxtune.tuning.callbacks import Watcher, forget_unstarted
from ctxtune.tuning.ending import close_tracker, stopped_by_its_disk
from ctxtune.tuning.record.journal import Journal
from ctxtune.tuning.record.results_folder import ResultsFolder


@dataclass(frozen=True)
class Place:
    """Where the runs will work, as far as it is known before anything is opened.

    Attributes:
        address: of a Ray cluster; None: this machine.
        storage: where checkpoints lie; None: in the results folder.
        fingerprint: of the training data, where they are on this machine.
    """

    address: str | None
    storage: str | None
    fingerprint: str


def checked_place(
    file: TrialFile, models: Iterable[ModelSettings], root: Path, address: str | None, storage: str | None
) -> Place:
    """Look for what can be wrong before anything is opened; see `check_before`.

    The weights of all ``models`` that runs may ask for are fetched here, once, where the runs are on this machine.
    """
    _check_lasting(file, root)
    address = cluster_address(address)
    if address is None:
        for model in {model.model_dump_json(include={"backbone", "weights"}): model for model in models}.values():
            weight_file(model)
    return Place(address, *check_before(file, address, storage))


def recorded_weights(trial: TrialSettings) -> dict[str, str]:
    """Tags that say which weights the runs start from; none where they lie on the nodes of a cluster only."""
    try:
        return weight_record(trial.model)
    except ConfigError:
        return {}


def _check_lasting(file: TrialFile, root: Path) -> None:
    """A job's working directory is a copy that Ray deletes: nothing that is to stay may lie there."""
    here = Path.cwd()
    if "working_dir_files" not in here.parts:
        return
    places = {
        "tracking.uri (MLFLOW_TRACKING_URI)": sqlite_path(absolute_uri(file.tracking.uri)),
        "--results": root.absolute(),
    }
    for what, place in places.items():
        if place is not None and place.is_relative_to(here):
            raise ConfigError(
                f"{what}: {place.name} would lie in the working directory of this Ray job, a copy that Ray deletes; give the "
                "path of a volume that stays" + ("" if what.startswith("--") else ", or a server's address")
            )


@dataclass(frozen=True)
class Opened:
    """What is open while runs go on.

    Attributes:
        connection: to Ray; None: there is nothing left to run.
        missing: files that should be there at the end and are not, each with the reason.
    """

    journal: Journal
    tracker: Tracker
    connection: Connection | None
    missing: list[str]


@contextlib.contextmanager
def opened(
    file: TrialFile,
    folder: ResultsFolder[Any],
    place: Place,
    *,
    max_concurrent: int | Literal["auto"],
    watcher: Watcher,
    resume: bool,
    nothing_left: Callable[[Journal], bool],
) -> Iterator[Opened]:
    """Journal, tracking and Ray for one sweep or ablation, closed in the opposite order: tracking is delivered last.

    Args:
        nothing_left: whether all runs have ended, by the journal: Ray is not started for what is written down then.
    """
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(folder.close)
        journal, missing = folder.journal, list[str]()
        cleanup.callback(journal.close)
        if not resume:  # of what was lost the file is all that is left
            cleanup.callback(forget_unstarted, folder, journal)
        if set_aside := journal.repair():
            watcher.on_alert(set_aside)
        tracker = Tracker(file.tracking.uri, file.name, folder.spool)
        cleanup.callback(_end, journal, tracker, file.name, missing, watcher)
        for note in lost_checkpoints(journal):
            watcher.on_alert(note)
        tracker.check()
        if resume and not folder.begun:
            _check_unknown(file)
        connection = None
        if not (resume and nothing_left(journal)):
            modules = own_modules(file.model_dump(mode="json"))
            cleanup.enter_context(running_ray(place.address, modules, watcher.on_note))
            connection = connect(
                file,
                address=place.address,
                storage=place.storage,
                fingerprint=place.fingerprint,
                checkpoints=folder.checkpoints,
                max_concurrent=max_concurrent,
                on_note=watcher.on_note,
            )
        with stopped_by_its_disk(journal, tracker):
            yield Opened(journal, tracker, connection, missing)


def _end(journal: Journal, tracker: Tracker, name: str, missing: list[str], watcher: Watcher) -> None:
    """Deliver what can be delivered, and say how that ended; of what has not begun there is nothing to say."""
    ending = close_tracker(tracker, name, missing)
    if journal.events or not ending.complete:
        watcher.on_ending(ending)


def _check_unknown(file: TrialFile) -> None:
    """What is resumed without any trace of it here must not be known to MLflow either."""
    try:
        known = find_sweep(file.tracking.uri, file.name)
    except TrackingError:
        return
    raise ConfigError(
        f"{file.name}: there is no journal of it here, nor anything else but the file, though MLflow knows a {known.kind} of "
        f"this name ({known.key}): journal and spool were lost. Restore them and use --resume; or leave out --resume to start "
        "over (what was tracked stays in MLflow, as an earlier one of this name), or start under another name (--name NAME)"
    )
