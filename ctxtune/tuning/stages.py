"""The three stages of a sweep as lists of runs: search, selection, confirmation (DESIGN section 5)."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from pydantic import ValidationError

from ctxtune.config import SweepConfig, TrialSettings, resolve_trial, stage_seed, start_points
from ctxtune.errors import ConfigError, CtxtuneError
from ctxtune.results.ranking import best, ranked
from ctxtune.results.runs import START, Stage
from ctxtune.tuning.record.journal import Journal, RunRecord
from ctxtune.tuning.record.recorder import Recorder
from ctxtune.tuning.record.run_spec import RunSpec
from ctxtune.tuning.search.sampler import Sampler

MOST_UNRESOLVABLE = 20
"""So many suggestions in a row that no run can take are one too many."""


def next_trial(space: SweepConfig, recorder: Recorder, sampler: Sampler) -> RunSpec | None:
    """The trial to start now: one that an earlier process left unfinished, else what the sampler suggests; None: no more.

    All trials share one seed: they differ in their configuration alone, and the luck of the seed is taken out by
    selection and confirmation, which have seeds of their own.

    Raises:
        ConfigError: suggestion after suggestion cannot be run.
    """
    trials = recorder.journal.stage("search")
    for run in trials:
        if recorder.may_start(run.key):
            return run.spec
    if len(trials) >= space.search.trials or sampler.exhausted:
        return None
    key = f"trial-{len(trials):04d}"
    suggested = suggestion(space, sampler, key)
    if suggested is None:
        return None
    point, trial = suggested
    spec = _spec(
        space, "search", key, arm=key, point=point, trial=space.search_trial(trial), folds=space.validation.use,
        seed_index=0,
    )  # fmt: skip
    return spec.model_copy(update={"memory": sampler.memory(key)})


def suggestion(space: SweepConfig, sampler: Sampler, key: str) -> tuple[dict[str, Any], TrialSettings] | None:
    """The sampler's next point that a run can take, with its full-length configuration; None: there are no more.

    Raises:
        ConfigError: suggestion after suggestion cannot be run.
    """
    refused = 0
    while not sampler.exhausted:
        point = sampler.ask(key)
        try:
            trial = resolve_trial(space, point)
            space.search_trial(trial)
        except (ConfigError, ValidationError):
            sampler.tell(key, "failed", None)
            refused += 1
            if refused == MOST_UNRESOLVABLE:
                raise
            continue
        return point, trial
    return None


def next_of(specs: Sequence[RunSpec], recorder: Recorder) -> RunSpec | None:
    """The first of a list of runs that is still to be started."""
    return next((spec for spec in specs if recorder.may_start(spec.key)), None)


def best_trial(space: SweepConfig, journal: Journal) -> RunRecord | None:
    """The best completed trial so far, by its last score."""
    return best(journal.completed("search"), space.search.objective.all)


def candidates(space: SweepConfig, journal: Journal) -> dict[str, RunRecord]:
    """The configurations that selection scores again: the best full-length trials, and the start point, by arm."""
    wanted = space.select.top if space.select else 1
    chosen: dict[str, RunRecord] = {}
    seen: set[str] = set()
    for run in ranked(journal.completed("search"), space.search.objective.all):
        configuration = run.spec.trial.hash()
        if configuration not in seen and len(chosen) < wanted:
            seen.add(configuration)
            chosen[run.key] = run
    return chosen


def selection_specs(space: SweepConfig, journal: Journal) -> Iterator[RunSpec]:
    """Each candidate and the start point on every fold with fresh seeds, at full length."""
    if space.select is None:
        return
    arms = {key: configuration(space, journal, key) for key in candidates(space, journal)}
    start_point, start_trial = start_configuration(space)
    if start_trial.hash() not in {trial.hash() for _, trial in arms.values()}:
        arms[START] = (start_point, start_trial)
    folds = range(fold_count(space)) if space.select.folds == "all" else space.select.folds
    for seed_index in range(space.select.seeds):
        for fold in folds:
            for arm, (point, trial) in arms.items():
                key = f"selection-{arm}-fold{fold}-seed{seed_index}"
                if not _ended(journal, key):
                    yield _spec(
                        space, "selection", key, arm=arm, point=point, trial=trial, folds=(fold,), seed_index=seed_index
                    )


def selection_scores(space: SweepConfig, journal: Journal) -> dict[str, list[float]]:
    """The selection scores of each arm that finished all its runs."""
    metric = space.search.objective.metric
    scores: dict[str, list[float]] = {}
    incomplete: set[str] = set()
    for run in journal.stage("selection"):
        score = run.last(metric)
        if run.state == "completed" and score is not None:
            scores.setdefault(run.spec.arm, []).append(score)
        else:
            incomplete.add(run.spec.arm)
    return {arm: values for arm, values in scores.items() if arm not in incomplete}


def select(space: SweepConfig, journal: Journal) -> str:
    """The arm to confirm: best mean in selection; without selection the best trial.

    Raises:
        CtxtuneError: neither a selection run nor a trial came to its end.
    """
    scores = selection_scores(space, journal)
    if scores:
        sign = 1 if space.search.objective.mode == "max" else -1
        return max(scores, key=lambda arm: sign * float(np.mean(scores[arm])))
    found = best_trial(space, journal)
    if found is None:
        raise CtxtuneError("no trial came to its last epoch: there is nothing to select from")
    return found.key


def confirmation_specs(space: SweepConfig, journal: Journal, chosen: str) -> Iterator[RunSpec]:
    """The chosen configuration and the start point, on all train classes, over the same fresh seeds."""
    if space.confirm is None:
        return
    start_point, start_trial = start_configuration(space)
    arms = {chosen: configuration(space, journal, chosen)}
    if START in space.confirm.also and arms[chosen][1].hash() != start_trial.hash():
        arms[START] = (start_point, start_trial)
    for seed_index in range(space.confirm.seeds):
        for arm, (point, trial) in arms.items():
            key = f"confirmation-{arm}-seed{seed_index}"
            if not _ended(journal, key):
                yield _spec(
                    space, "confirmation", key, arm=arm, point=point, trial=trial, folds=(), seed_index=seed_index
                )


def configuration(space: SweepConfig, journal: Journal, arm: str) -> tuple[dict[str, object], TrialSettings]:
    """Point and full-length configuration of an arm."""
    if arm == START:
        return start_configuration(space)
    point = journal.runs[arm].spec.point
    return point, resolve_trial(space, point)


def start_configuration(space: SweepConfig) -> tuple[dict[str, object], TrialSettings]:
    """The first start point, unaltered; without one the trial of the file as it stands."""
    point = next(iter(start_points(space).values()), None)
    return (point, resolve_trial(space, point)) if point is not None else ({}, space.trial)


def fold_count(space: SweepConfig) -> int:
    """How many folds the validation scheme has."""
    return 1 if space.validation.scheme == "class_holdout" else space.validation.folds


def fit_share(space: SweepConfig) -> float:
    """The share of the train classes that a trial learns from."""
    validation = space.validation
    return 1 - (validation.fraction if validation.scheme == "class_holdout" else 1 / validation.folds)


def _ended(journal: Journal, key: str) -> bool:
    run = journal.runs.get(key)
    return run is not None and run.state != "running"


def _spec(
    space: SweepConfig, stage: Stage, key: str, *, arm: str, point: dict[str, object], trial: TrialSettings,
    folds: tuple[int, ...], seed_index: int,
) -> RunSpec:  # fmt: skip
    return RunSpec(
        key=key,
        stage=stage,
        arm=arm,
        point=point,
        trial=trial,
        validation=space.validation,
        folds=folds,
        seed_index=seed_index,
        seed=stage_seed(stage, seed_index),
    )
