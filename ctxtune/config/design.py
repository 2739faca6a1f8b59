"""From an ablation to its cells: every arm at every level that the design asks for, and what is compared with what."""

import hashlib
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from ctxtune.config.ablation import Ablation
from ctxtune.config.dimensions import Dimension
from ctxtune.config.inert_settings import effective_tree, unused_settings
from ctxtune.config.paths import get_path
from ctxtune.config.resolve import resolve_trial, start_points, with_values
from ctxtune.config.search import ObjectiveSettings, SchedulerSettings, SearchSamplerSettings, SearchSettings
from ctxtune.config.sweep import SweepConfig
from ctxtune.config.trial import TrialSettings
from ctxtune.error_messages import in_words
from ctxtune.errors import ConfigError
from ctxtune.text import did_you_mean

LONGEST_KEY = 120
MOST_CELLS = 2_000


class ArmError(ConfigError):
    """An arm that cannot be run or says nothing; ``location`` is the key of the file that it comes from."""

    def __init__(self, location: tuple[str, ...], message: str) -> None:
        super().__init__(message)
        self.location = location


@dataclass(frozen=True)
class Cell:
    """One configuration of an ablation.

    Attributes:
        name: the arm's, with the levels of the factors: ``full, label_noise=0.2``.
        key: the same for file names and tracking keys; unique in the ablation.
        arm: the variant.
        levels: the level of each factor, by path.
        settings: all that is set in the trial, by path; levels included.
        trial: the resolved configuration, before any tuning.
    """

    name: str
    key: str
    arm: str
    levels: dict[str, Any]
    settings: dict[str, Any]
    trial: TrialSettings


@dataclass(frozen=True)
class Contrast:
    """Two cells that are compared, by name: ``cell`` minus ``against``."""

    cell: str
    against: str


def cells_of(ablation: Ablation) -> list[Cell]:
    """The cells in the order of the file: arms first, within them the levels.

    Raises:
        ArmError: an arm that cannot be resolved, changes nothing or what is not read, or is the same as another.
    """
    cells: list[Cell] = []
    _check_size(ablation)
    shown = _shown_factors(ablation)
    for arm, settings in ablation.arms().items():
        for path in settings:
            if path in ablation.factors:
                raise ArmError(
                    (*_place(ablation, arm), path), f"{path} is a factor, too: which of the two is to set it?"
                )
        for levels in _levels(ablation):
            name = _cell_name(ablation, arm, {shown[path]: level for path, level in _told(ablation, levels).items()})
            trial = _resolved(ablation, arm, name, {**settings, **levels})
            cells.append(Cell(name, _key(name, cells), arm, levels, {**settings, **levels}, trial))
    for cell in cells:
        _check_effect(ablation, cell)
    _check_distinct(ablation, cells)
    return cells


def _check_size(ablation: Ablation) -> None:
    levels = [len(each) for each in ablation.factors.values()]
    combinations = math.prod(levels) if ablation.design != "one_factor_at_a_time" else 1 + sum(levels) - len(levels)
    if (count := len(ablation.arms()) * combinations) > MOST_CELLS:
        raise ArmError(("factors",), f"{count:,} cells are too many; {MOST_CELLS:,} at most")


def reference_cell(ablation: Ablation, cells: list[Cell]) -> Cell:
    """The cell that is compared with all others, or its arm's cell at the reference levels.

    A factor's reference level is the trial's own value where that is among its levels, else the first.

    Raises:
        ArmError: `reference` names neither an arm nor a cell.
    """
    wanted = ablation.reference or cells[0].arm
    named = next((cell for cell in cells if cell.name == wanted), None)
    if named is not None:
        return named
    tree = ablation.trial.tree()
    own = {path: _own_level(tree, path, levels) for path, levels in ablation.factors.items()}
    if ablation.design == "one_factor_at_a_time":
        own = {path: levels[0] for path, levels in ablation.factors.items()}
    found = next((cell for cell in cells if cell.arm == wanted and cell.levels == own), None)
    if found is None:
        known = {cell.arm for cell in cells} | {cell.name for cell in cells}
        raise ArmError(("reference",), f"there is no variant or cell {wanted!r}{did_you_mean(wanted, known)}")
    return found


def contrasts_of(ablation: Ablation, cells: list[Cell]) -> list[Contrast]:
    """What is compared: each arm with the reference arm at the same levels; with one arm, each cell with the reference."""
    reference = reference_cell(ablation, cells)
    if len(ablation.arms()) == 1:
        return [Contrast(cell.name, reference.name) for cell in cells if cell is not reference]
    at_levels = {tuple(cell.levels.items()): cell for cell in cells if cell.arm == reference.arm}
    return [
        Contrast(cell.name, at_levels[tuple(cell.levels.items())].name) for cell in cells if cell.arm != reference.arm
    ]


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
            ties={path: partner for path, partner in tune.ties.items() if _has(cell.trial, path)},
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


def _read_elsewhere(search: SweepConfig, start: Mapping[str, Any], path: str) -> bool:
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


def configuration_hash(cell: Cell) -> str:
    """Twelve hexadecimal digits that name what a cell runs."""
    return _digest(effective_tree(cell.trial))


def show_level(level: Any) -> str:
    """A level as it stands in a cell's name."""
    return f"{level:.6g}" if isinstance(level, float) else str(level).lower() if isinstance(level, bool) else str(level)


def _levels(ablation: Ablation) -> Iterator[dict[str, Any]]:
    factors = ablation.factors
    if ablation.design != "one_factor_at_a_time":
        for combination in itertools.product(*factors.values()):
            yield dict(zip(factors, combination, strict=True))
        return
    first = {path: levels[0] for path, levels in factors.items()}
    yield first
    for path, levels in factors.items():
        for level in levels[1:]:
            yield {**first, path: level}


def _resolved(ablation: Ablation, arm: str, name: str, settings: Mapping[str, Any]) -> TrialSettings:
    for path in settings:
        _check_path(ablation, arm, path, settings)
    try:
        return with_values(ablation.trial, settings)
    except ValidationError as error:
        problems = [problem for problem in error.errors() if problem["loc"] == error.errors()[0]["loc"]]
        location = ".".join(map(str, problems[0]["loc"]))
        place = _cause(ablation, arm, settings, location)
        raise ArmError(place, f"arm {name} cannot be run: {location}: {in_words(problems)}") from None


def _check_path(ablation: Ablation, arm: str, path: str, settings: Mapping[str, Any]) -> None:
    """The path must lead somewhere; options of the loss are left to the loss."""
    if path.startswith("loss."):
        return
    try:
        get_path(ablation.trial.tree(), path)
    except KeyError:
        parent = path.rpartition(".")[0]
        tree = ablation.trial.tree()
        try:
            known = [f"{parent}.{key}" for key in get_path(tree, parent)]
        except (KeyError, TypeError):
            known = list(tree)
        place = ("factors", path) if path in ablation.factors else (*_place(ablation, arm), path)
        raise ArmError(
            place, f"the trial has no {path} (paths here start inside `trial`){did_you_mean(path, known)}"
        ) from None


def _cause(ablation: Ablation, arm: str, settings: Mapping[str, Any], location: str) -> tuple[str, ...]:
    """The key of the file that most likely caused an error at a location of the trial."""
    near = [
        path for path in settings if path == location or path.startswith(f"{location}.") or location.startswith(path)
    ]
    for path in near or list(settings):
        return ("factors", path) if path in ablation.factors else (*_place(ablation, arm), path)
    return _place(ablation, arm)


def _check_effect(ablation: Ablation, cell: Cell) -> None:
    own = ablation.trial
    unused, before = unused_or_error(ablation, cell), own.tree()
    for path, value in cell.settings.items():
        if path in unused and _value(before, path) != value:
            place = ("factors", path) if path in cell.levels else (*_place(ablation, cell.arm), path)
            raise ArmError(place, f"arm {cell.name}: {path} has no effect: {unused[path]}")
    settings = ablation.arms()[cell.arm]
    is_reference = cell.arm == reference_arm(ablation)
    if not settings or is_reference or ablation.design == "leave_one_out" or _own_space(ablation, cell.arm):
        return
    if effective_tree(with_values(own, settings)) == effective_tree(own):
        raise ArmError(_place(ablation, cell.arm), f"variant {cell.arm} changes nothing: the trial has these values")


def unused_or_error(ablation: Ablation, cell: Cell) -> dict[str, str]:
    """`unused_settings` of a cell, with what cannot be weighted said as an error of the arm."""
    try:
        return unused_settings(cell.trial)
    except ValueError as error:
        raise ArmError(_place(ablation, cell.arm), f"arm {cell.name} cannot be run: {error}") from None


def reference_arm(ablation: Ablation) -> str:
    """The arm of the reference: named by itself or as the beginning of a cell's name."""
    arms = list(ablation.arms())
    wanted = ablation.reference or arms[0]
    if wanted in arms or len(arms) > 1:
        return wanted if wanted in arms else wanted.split(",")[0].strip()
    return arms[0]


def _check_distinct(ablation: Ablation, cells: list[Cell]) -> None:
    seen: dict[str, Cell] = {}
    for cell in cells:
        space = {path: dimension.model_dump() for path, dimension in _own_space(ablation, cell.arm).items()}
        identity = _digest([effective_tree(cell.trial), space])
        if identity in seen:
            raise ArmError(
                _place(ablation, cell.arm),
                f"arm {cell.name} resolves to the same configuration as {seen[identity].name}: one run would be compared "
                "with itself",
            )
        seen[identity] = cell


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


def _own_space(ablation: Ablation, arm: str) -> dict[str, Dimension]:
    return ablation.tune_each.space_of(arm) if ablation.tune_each else {}


def _dimension_place(ablation: Ablation, arm: str, path: str) -> tuple[str, ...]:
    own = ablation.tune_each is not None and path in ablation.tune_each.spaces.get(arm, {})
    return ("tune_each", "spaces", arm, path) if own else ("tune_each", "space", path)


def _place(ablation: Ablation, arm: str) -> tuple[str, ...]:
    return ("variants", arm) if arm in ablation.variants else ("variants",)


def _told(ablation: Ablation, levels: Mapping[str, Any]) -> dict[str, Any]:
    """The levels that a cell's name tells: of one factor at a time only the one that is not the reference's."""
    if ablation.design != "one_factor_at_a_time":
        return dict(levels)
    return {path: level for path, level in levels.items() if level != ablation.factors[path][0]}


def _cell_name(ablation: Ablation, arm: str, told: Mapping[str, Any]) -> str:
    """``full, k=4``; without the arm where there is but one and a level tells the cells apart."""
    words = [f"{name}={show_level(level)}" for name, level in told.items()]
    alone = len(ablation.arms()) == 1 and words
    return ", ".join(words if alone else [arm, *words])


def _shown_factors(ablation: Ablation) -> dict[str, str]:
    """What factors are called in cell names: the last part of the path, or all of it where that is not unique."""
    last = {path: path.rpartition(".")[2] for path in ablation.factors}
    counts = Counter(last.values())
    return {path: name if counts[name] == 1 else path for path, name in last.items()}


def _own_level(tree: Mapping[str, Any], path: str, levels: tuple[Any, ...]) -> Any:
    own = _value(tree, path)
    return next((level for level in levels if level == own), levels[0])


def _value(tree: Mapping[str, Any], path: str) -> Any:
    try:
        return get_path(tree, path)
    except (KeyError, TypeError):
        return None


def _has(trial: TrialSettings, path: str) -> bool:
    try:
        get_path(trial.tree(), path)
    except KeyError:
        return False
    return True


def _key(name: str, before: list[Cell]) -> str:
    plain = re.sub(r"[^A-Za-z0-9_.=+-]+", "-", name)
    if len(plain) > LONGEST_KEY:  # files are called so
        plain = f"{plain[: LONGEST_KEY - 13]}-{_digest(name)}"
    taken = {cell.key for cell in before}
    return plain if plain not in taken else f"{plain}-{len(before)}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:12]
