"""Starting a search from what an earlier one found."""

from collections.abc import Iterable
from typing import Any

from ctxtune.config import SweepConfig, start_points
from ctxtune.config.dimensions import Dimension
from ctxtune.config.search import WarmStart
from ctxtune.errors import ConfigError, TrackingError
from ctxtune.tracking import TrackedRun, best_runs
from ctxtune.tuning.record.journal import Journal
from ctxtune.yaml_text import Tree, YamlError, parse_value


def check_warm_starts(config: SweepConfig) -> None:
    """Ask for all warm starts, so that what is wrong with them is said before anything is started.

    Raises:
        ConfigError: an earlier sweep is not there, has no completed trial, or one that lies outside this space.
    """
    _started(config, _found(config))


def with_warm_starts(config: SweepConfig, journal: Journal) -> SweepConfig:
    """The sweep with each ``{best_of: SWEEP, count: n}`` of `start_from` replaced by explicit points.

    They are asked for once and kept in the journal: a resumed sweep starts from the same points.

    Raises:
        ConfigError: as `check_warm_starts`.
    """
    if not any(isinstance(item, WarmStart) for item in config.search.start_from):
        return config
    found = journal.decisions.warm_starts
    if found is None:
        found = _found(config)
        journal.decided("warm_starts", found)
    return _started(config, found)


def _started(config: SweepConfig, found: Iterable[list[Tree]]) -> SweepConfig:
    """The sweep with the points that were found for each warm start, in their order."""
    waiting = iter(found)
    items: list[Any] = []
    for item in config.search.start_from:
        items += next(waiting) if isinstance(item, WarmStart) else [item]
    search = config.search.model_copy(update={"start_from": tuple(items)})
    started = config.model_copy(update={"search": search})
    start_points(started)
    return started


def _found(config: SweepConfig) -> list[list[dict[str, object]]]:
    return [_points(config, item) for item in config.search.start_from if isinstance(item, WarmStart)]


def _points(config: SweepConfig, warm_start: WarmStart) -> list[dict[str, object]]:
    objective = config.search.objective
    try:
        runs = best_runs(config.tracking.uri, warm_start.best_of, objective.metric, objective.mode, warm_start.count)
    except TrackingError as error:
        raise ConfigError(f"search.start_from: best_of: {error}") from None
    if not runs:
        raise ConfigError(
            f"search.start_from: best_of: the sweep {warm_start.best_of} has no completed trial with {objective.metric}"
        )
    return [searched_values(config, run) for run in runs]


def searched_values(config: SweepConfig, run: TrackedRun) -> dict[str, object]:
    """The point of the space that a tracked run had."""
    return {
        path: _value(dimension, run.params[path])
        for path, dimension in config.search.space.items()
        if path in run.params
    }


def _value(dimension: Dimension, text: str) -> object:
    """What a parameter's text means to a dimension: one of its choices as it is written, else what YAML reads."""
    for choice in dimension.choices:
        if isinstance(choice, str) and choice == text:
            return choice
    try:
        return parse_value(text)
    except YamlError:
        return text
