"""A sweep from start to end: check, search, select, confirm, write down."""

import contextlib
import dataclasses
import shutil
from pathlib import Path

import yaml
from ray.tune import Checkpoint

from ctxtune.config import SearchSpace
from ctxtune.errors import ConfigError, CtxtuneError
from ctxtune.tracking import flatten
from ctxtune.training.checkpoints import STATE_FILE
from ctxtune.tuning import stages
from ctxtune.tuning.book import Book
from ctxtune.tuning.budget import Budget
from ctxtune.tuning.cluster import RunResources
from ctxtune.tuning.connection import Connection
from ctxtune.tuning.driver import Watcher, end_stage, identity, interrupts, tell_link, with_precision
from ctxtune.tuning.engine import run_stage
from ctxtune.tuning.folder import ResultsFolder, sweep_folder
from ctxtune.tuning.journal import Journal
from ctxtune.tuning.objectives import SeveralObjectives
from ctxtune.tuning.opening import checked_place, opened
from ctxtune.tuning.outcome import Outcome, best_file, markdown, outcome, tracked_metrics
from ctxtune.tuning.sampling import Sampler
from ctxtune.tuning.scheduling import RungScheduler, build_scheduler
from ctxtune.tuning.warm_start import check_warm_starts, with_warm_starts


def run_sweep(
    space: SearchSpace,
    *,
    root: Path,
    resume: bool = False,
    address: str | None = None,
    storage: str | None = None,
    watcher: Watcher | None = None,
) -> Outcome:
    """Run a sweep to its end, or go on with one.

    Args:
        space: the search space.
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
    place = checked_place(space, root, address, storage)
    if not resume:
        check_warm_starts(space)
    folder = sweep_folder(root, space, resume=resume)
    with opened(space, folder, place, max_concurrent=space.search.max_concurrent, watcher=watcher) as parts:
        journal, connection = parts.journal, parts.connection
        space = with_warm_starts(with_precision(space, journal, connection.resources), journal)
        objective = space.search.objective.metric
        book = Book(
            journal,
            parts.tracker,
            metric=objective,
            sweep_id=identity(journal, "sweep"),
            scheduler=space.search.scheduler.name,
            on_change=watcher.on_change,
        )
        _start_tracking(space, book, connection, resume=resume)
        with interrupts(book, watcher):
            _run_stages(space, book, connection.resources, connection.storage, watcher)
        result = outcome(space, journal)
        _write(space, book, folder, result)
        tell_link(space, parts.tracker, f"Trials by {objective}", watcher)
        return result


def _run_stages(space: SearchSpace, book: Book, resources: RunResources, storage: str, watcher: Watcher) -> None:
    if "chosen" not in book.journal.decisions:
        _search(space, book, resources, storage, watcher)
        selection = list(stages.selection_specs(space, book.journal))
        if selection:
            watcher.on_stage(book, "selection", len(selection))
            run_stage("selection", iter(selection), book, storage=storage, resources=resources)
            end_stage(book)
        chosen = stages.select(space, book.journal)
        book.journal.decided("chosen", chosen)
    _fix_confirmation(space, book.journal)
    confirmation = list(stages.confirmation_specs(space, book.journal, book.journal.decisions["chosen"]))
    if confirmation:
        watcher.on_stage(book, "confirmation", len(confirmation))
        run_stage("confirmation", iter(confirmation), book, storage=storage, resources=resources)
        end_stage(book)


def _fix_confirmation(space: SearchSpace, journal: Journal) -> None:
    """What confirms the chosen configuration is settled before a test score is known.

    Raises:
        ConfigError: a resumed sweep asks for another confirmation than the one that has begun.
    """
    if space.confirm is None:
        return
    asked = space.confirm.model_dump(mode="json")
    if "confirm" not in journal.decisions:
        journal.decided("confirm", asked)
    begun = journal.decisions["confirm"]
    if asked != begun:
        raise ConfigError(
            f"confirm: the confirmation began with {begun}, now the file says {asked}: seeds that are added once test "
            "scores are known would be optional stopping, which no interval allows for. Leave it, or start with --name NAME"
        )


def _search(space: SearchSpace, book: Book, resources: RunResources, storage: str, watcher: Watcher) -> None:
    earlier = book.journal.stage("search")
    if "search_ended" in book.journal.decisions:
        return
    sampler = Sampler(space)
    sampler.replay(earlier, space.search.objective.metric)
    scheduler = build_scheduler(space)
    book.sampler = SeveralObjectives(space, book.journal, sampler) if space.search.objective.beside else sampler
    if isinstance(scheduler, RungScheduler):
        for key in scheduler.replay(earlier):
            book.finish(key)
    budget = Budget(space, book, resources)
    watcher.on_stage(book, "search", space.search.trials)
    run_stage(
        "search",
        stages.search_specs(space, book.journal, sampler),
        book,
        storage=storage,
        resources=resources,
        scheduler=scheduler,
        check_budget=budget.check,
    )
    if book.stop and not book.stop.resumable:
        watcher.on_note(book.stop.message)
    end_stage(book)
    if stages.best_trial(space, book.journal) is None:
        reasons = {run.reason.splitlines()[0] for run in book.journal.stage("search") if run.state == "failed"}
        raise CtxtuneError(f"no trial came to its last epoch{': ' if reasons else ''}{'; '.join(sorted(reasons))}")
    book.journal.decided("search_ended", True)


def _start_tracking(space: SearchSpace, book: Book, connection: Connection, *, resume: bool) -> None:
    tree = space.model_dump(mode="json")
    book.tracker.start_run(
        book.sweep_id,
        name=space.name,
        kind="sweep",
        params=flatten({key: tree[key] for key in ("search", "select", "confirm", "validation")}),
        tags={
            **connection.environment,
            "data_set": space.trial.dataset.name,
            "data.train_fingerprint": connection.fingerprint,
        },
    )
    if resume:
        book.tracker.reopen_run(book.sweep_id)
    book.tracker.log_text(book.sweep_id, yaml.safe_dump(tree, sort_keys=False), "space.yaml")
    objective = space.search.objective
    book.tracker.save_view(
        f"Trials by {objective.metric}", objective.metric, list(space.search.space), mode=objective.mode
    )


def _write(space: SearchSpace, book: Book, folder: ResultsFolder[SearchSpace], result: Outcome) -> None:
    text = best_file(space, book.journal, result)
    folder.best.write_text(text, encoding="utf-8")
    _keep_checkpoint(book, folder)
    folder.write_summary(dataclasses.asdict(result))
    book.tracker.log_text(book.sweep_id, text, "best.yaml")
    book.tracker.log_artifact(book.sweep_id, folder.path / "summary.json")
    book.tracker.log_metrics(book.sweep_id, tracked_metrics(result), step=0)
    for point in result.front:
        book.tracker.set_tags(book.tracked(point.trial), {"pareto_front": "true"})
    book.tracker.set_tags(book.sweep_id, {"mlflow.note.content": markdown(space, result)})
    book.tracker.end_run(book.sweep_id, "completed")


def _keep_checkpoint(book: Book, folder: ResultsFolder[SearchSpace]) -> None:
    """Copy the chosen configuration's weights (confirmation's first seed, else the trial's) to `best.pt`, and track it."""
    chosen = book.journal.decisions["chosen"]
    confirmed = [run for run in book.journal.completed("confirmation") if run.spec["arm"] == chosen]
    run = confirmed[0] if confirmed else book.journal.runs.get(chosen)
    if run is None or run.checkpoint is None:
        return
    with contextlib.suppress(OSError), Checkpoint(run.checkpoint).as_directory() as source:
        temporary = folder.weights.with_suffix(".part")
        shutil.copyfile(Path(source) / STATE_FILE, temporary)
        temporary.replace(folder.weights)
        book.tracker.log_artifact(book.sweep_id, folder.weights)
