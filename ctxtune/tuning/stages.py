"""The three stages of a sweep as lists of runs: search, selection, confirmation."""

from collections.abc import Sequence

from pydantic import ValidationError

from ctxtune.config import SweepConfig, TrialSettings, resolve_trial, stage_seed, start_points
from ctxtune.errors import ConfigError
from ctxtune.results.ranking import best
from ctxtune.results.runs import START, Stage
from ctxtune.results.selection import most_promising
from ctxtune.tuning.record.decisions import SearchEnd
from ctxtune.tuning.record.journal import Journal, RunRecord
from ctxtune.tuning.record.recorder import Recorder
from ctxtune.tuning.record.run_spec import RunSpec
from ctxtune.tuning.search.sampler import Sampler
from ctxtune.tuning.spending import LIMITS

MOST_UNRESOLVABLE = 20
"""So many suggestions in a row that no run can take are one too many."""


def next_trial(config: SweepConfig, recorder: Recorder, sampler: Sampler) -> RunSpec | None:
    """The trial to start now: one that an earlier process left unfinished, else what the sampler suggests; None: no more.

    All trials share one seed: they differ in their configuration alone, and the luck of the seed is taken out by
    selection and confirmation, which have seeds of their own.

    Raises:
        ConfigError: suggestion after suggestion cannot be run.
    """
    # Nothing is searched for among thousands where nothing is left.
    left = [] if recorder.all_under_way else recorder.journal.stage("search")
    for run in left:
        if recorder.may_start(run.key):
            return run.spec
    number = recorder.journal.asked_in("search")
    if number >= config.search.trials or sampler.exhausted:
        return None
    key = f"trial-{number:04d}"
    suggested = suggestion(config, sampler, key)
    if suggested is None:
        return None
    point, trial = suggested
    spec = _spec(
        config, "search", key, arm=key, point=point, trial=config.search_trial(trial), folds=config.validation.use,
        seed_index=0,
    )  # fmt: skip
    return spec.model_copy(update={"memory": sampler.memory(key)})


def suggestion(config: SweepConfig, sampler: Sampler, key: str) -> tuple[dict[str, object], TrialSettings] | None:
    """The sampler's next point that a run can take, with its full-length configuration; None: there are no more.

    Raises:
        ConfigError: suggestion after suggestion cannot be run.
    """
    refused = 0
    while not sampler.exhausted:
        point = sampler.ask(key)
        try:
            trial = resolve_trial(config, point)
            config.search_trial(trial)
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


def best_trial(config: SweepConfig, journal: Journal) -> RunRecord | None:
    """The best completed trial so far, by its last score."""
    return best(journal.completed("search"), config.search.objective.all)


def arm_count(config: SweepConfig) -> int:
    """How many configurations selection scores again, at most: the best trials, and the start."""
    return config.select.top + 1 if config.select else 0


def blocks(config: SweepConfig) -> list[tuple[int, int]]:
    """Seed and fold of each block that selection scores a configuration on, in this order."""
    if config.select is None:
        return []
    return [
        (index, fold) for index in range(config.select.seeds) for fold in config.select.folds_among(config.validation)
    ]


def candidates(config: SweepConfig, journal: Journal) -> list[str]:
    """The arms of the selection, the most promising first: the best full-length trials, and the start if not among them."""
    wanted = config.select.top if config.select else 1

    def identity(run: RunRecord) -> str:
        return configuration(config, journal, run.key)[1].hash()

    trials = most_promising(journal.completed("search"), config.search.objective.all, wanted, identity)
    start_is_among_them = start_configuration(config)[1].hash() in map(identity, trials)
    return [run.key for run in trials] + ([] if start_is_among_them else [START])


def selection_specs(config: SweepConfig, journal: Journal, arms: Sequence[str], block_count: int) -> list[RunSpec]:
    """Arms on the first blocks (fold and fresh seed), at full length; without the runs that have ended."""
    configurations = {arm: configuration(config, journal, arm) for arm in arms}
    return [
        _spec(config, "selection", key, arm=arm, point=point, trial=trial, folds=(fold,), seed_index=seed_index)
        for seed_index, fold in blocks(config)[:block_count]
        for arm, (point, trial) in configurations.items()
        if not _ended(journal, key := f"selection-{arm}-fold{fold}-seed{seed_index}")
    ]


def nothing_but_the_start(config: SweepConfig, journal: Journal) -> bool:
    """Whether the budget ended the search before any other configuration could show what it is worth."""
    start, _ = start_configuration(config)
    ended = journal.decisions.search_ended
    shown = (run for run in journal.stage("search") if run.state in ("completed", "pruned"))
    return isinstance(ended, SearchEnd) and ended.reason in LIMITS and all(run.spec.point == start for run in shown)


def confirmation_specs(config: SweepConfig, journal: Journal, chosen: str, seeds: int) -> list[RunSpec]:
    """The chosen configuration and the start point, over the same fresh seeds; without what has ended."""
    arms = {arm: configuration(config, journal, arm) for arm in confirmed_arms(config, journal, chosen)}
    shown = config.confirm.shown_queries if config.confirm else 0
    folds = config.confirmed_folds
    return [
        _spec(
            config, "confirmation", key, arm=arm, point=point, trial=trial, folds=folds, seed_index=seed_index,
            shown_queries=0 if seed_index else shown, concatenated=bool(folds),
        )
        for seed_index in range(seeds)
        for arm, (point, trial) in arms.items()
        if not _ended(journal, key := f"confirmation-{arm}-seed{seed_index}")
    ]  # fmt: skip


def confirmed_arms(config: SweepConfig, journal: Journal, chosen: str) -> list[str]:
    """The chosen configuration, and the start where it is asked for and another one."""
    if config.confirm is None:
        return []
    same = configuration(config, journal, chosen)[1].hash() == start_configuration(config)[1].hash()
    return [chosen] if same or START not in config.confirm.also else [chosen, START]


def configuration(config: SweepConfig, journal: Journal, arm: str) -> tuple[dict[str, object], TrialSettings]:
    """Point and full-length configuration of an arm."""
    if arm == START:
        return start_configuration(config)
    point = journal.runs[arm].spec.point
    return point, resolve_trial(config, point)


def start_configuration(config: SweepConfig) -> tuple[dict[str, object], TrialSettings]:
    """The first start point, unaltered; without one the trial of the file as it stands."""
    point = next(iter(start_points(config).values()), None)
    return (point, resolve_trial(config, point)) if point is not None else ({}, config.trial)


def _ended(journal: Journal, key: str) -> bool:
    run = journal.runs.get(key)
    return run is not None and run.state != "running"


def _spec(
    config: SweepConfig, stage: Stage, key: str, *, arm: str, point: dict[str, object], trial: TrialSettings,
    folds: tuple[int, ...], seed_index: int, shown_queries: int = 0, concatenated: bool = False,
) -> RunSpec:  # fmt: skip
    return RunSpec(
        key=key,
        stage=stage,
        arm=arm,
        point=point,
        trial=trial,
        validation=config.validation,
        folds=folds,
        concatenated=concatenated,
        seed_index=seed_index,
        seed=stage_seed(stage, seed_index),
        shown_queries=shown_queries,
    )
