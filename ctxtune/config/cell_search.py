"""The small search that each cell of an ablation is tuned by, equal in budget for all."""

from collections.abc import Mapping

from pydantic import ValidationError

from ctxtune.config.ablation import Ablation
from ctxtune.config.cells import ArmError, Cell
from ctxtune.config.dimensions import Dimension
from ctxtune.config.inert_settings import unused_settings
from ctxtune.config.paths import get_path
from ctxtune.config.resolve import resolve_trial, start_points
from ctxtune.config.search import ObjectiveSettings, SchedulerSettings, SearchSamplerSettings, SearchSettings
from ctxtune.config.sweep import SweepConfig
from ctxtune.config.trial import TrialSettings
from ctxtune.errors import ConfigError
from ctxtune.text import did_you_mean


def search_of(ablation: Ablation, cell: Cell) -> SweepConfig:
    """The search that a cell is tuned by.

    Raises:
        ArmError: a dimension that the cell does not have, does not read, or that the ablation sets itself.
    """
    tune = ablation.tune_each
    if tune is None:
        raise ValueError("this ablation tunes nothing")
    space = tune.space_of(cell.arm)
    for path, dimension in space.items():
        _check_dimension(ablation, cell, path, dimension)
    try:
        search = SearchSettings(
            objective=ObjectiveSettings(metric=ablation.compare.metric, mode=ablation.compare.mode),
            space=space,
            constraints=tune.constraints,
            conditions={path: text for path, text in tune.conditions.items() if path in space},
            ties={
                path: partner
                for path, partner in tune.ties.items()
                if _has(cell.trial, path) and (partner in space or _has(cell.trial, partner))
            },
            start_from=("trial",),
            sampler=SearchSamplerSettings(name=tune.sampler, seed=tune.seed, startup_trials=tune.startup_trials),
            scheduler=SchedulerSettings(name="none"),
            trials=tune.trials,
            max_concurrent=ablation.max_concurrent,
        )
        return SweepConfig(
            name=ablation.name,
            trial=cell.trial,
            validation=ablation.validation,
            search=search,
            select=None,
            confirm=None,
        )
    except ValidationError as error:
        raise ArmError(
            ("tune_each",), f"arm {cell.name}: {error.errors()[0]['msg'].removeprefix('Value error, ')}"
        ) from None


def check_search(ablation: Ablation, cell: Cell) -> None:
    """Resolve the start of a cell's search and the edges of its dimensions: what cannot be run is found now.

    Raises:
        ArmError: which dimension, and why.
    """
    search = search_of(ablation, cell)
    try:
        start = next(iter(start_points(search).values()))
    except ConfigError as error:
        text = str(error).removeprefix("search.start_from.0 (trial): ")
        raise ArmError(
            ("tune_each",), f"arm {cell.name}: its own configuration starts its search, but {text}"
        ) from None
    unused = unused_settings(cell.trial)
    for path, dimension in search.search.space.items():
        if path in search.search.conditions:
            continue
        for value in dimension.extremes():
            try:
                resolve_trial(search, {**start, path: value})
            except ConfigError as error:
                location = _dimension_place(ablation, cell.arm, path)
                raise ArmError(location, f"arm {cell.name}: {value!r} cannot be run: {error}") from None
        if path in unused and not _read_elsewhere(search, start, path):
            location = _dimension_place(ablation, cell.arm, path)
            raise ArmError(
                location, f"arm {cell.name}: {path} has no effect ({unused[path]}); nothing is to be searched"
            )


def _read_elsewhere(search: SweepConfig, start: Mapping[str, object], path: str) -> bool:
    """Whether a dimension that the start does not read is read where another one has another value."""
    for other, dimension in search.search.space.items():
        for value in dimension.extremes():
            try:
                trial = resolve_trial(search, {**start, other: value})
            except ConfigError:
                continue
            if path not in unused_settings(trial):
                return True
    return False


def own_space(ablation: Ablation, arm: str) -> dict[str, Dimension]:
    """The dimensions that an arm searches; none where the ablation tunes nothing."""
    return ablation.tune_each.space_of(arm) if ablation.tune_each else {}


def _check_dimension(ablation: Ablation, cell: Cell, path: str, dimension: Dimension) -> None:
    location = _dimension_place(ablation, cell.arm, path)
    if path in cell.levels or path in ablation.arms()[cell.arm]:
        what = "factor" if path in cell.levels else f"variant {cell.arm}"
        raise ArmError(location, f"{path} is set by the {what}; it cannot be searched as well")
    if path.startswith(("schedule.epochs", "evaluation.", "dataset.")):
        raise ArmError(location, f"{path} cannot be tuned: it would change what the arms are judged by")
    if not _has(cell.trial, path) and path not in (ablation.tune_each.conditions if ablation.tune_each else {}):
        parent = path.rpartition(".")[0]
        known = [f"{parent}.{key}" for key in get_path(cell.trial.tree(), parent)] if _has(cell.trial, parent) else []
        raise ArmError(
            location,
            f"arm {cell.name} has no {path}{did_you_mean(path, known)}; take it out of this variant's search with "
            f"tune_each.spaces.{cell.arm}: {{{path}: null}}",
        )


def _dimension_place(ablation: Ablation, arm: str, path: str) -> tuple[str, ...]:
    own = ablation.tune_each is not None and path in ablation.tune_each.spaces.get(arm, {})
    return ("tune_each", "spaces", arm, path) if own else ("tune_each", "space", path)


def _has(trial: TrialSettings, path: str) -> bool:
    try:
        get_path(trial.tree(), path)
    except KeyError:
        return False
    return True
