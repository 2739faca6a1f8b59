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
from ctxtune.config.cell_search import own_space
from ctxtune.config.cells import ArmError, Cell
from ctxtune.config.inert_settings import effective_tree, unused_settings
from ctxtune.config.paths import get_path
from ctxtune.config.resolve import with_values
from ctxtune.config.trial import TrialSettings
from ctxtune.error_messages import in_words
from ctxtune.text import did_you_mean
from ctxtune.yaml_text import Tree

LONGEST_KEY = 120
MOST_CELLS = 2_000


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


def configuration_hash(cell: Cell) -> str:
    """Twelve hexadecimal digits that name what a cell runs."""
    return _digest(effective_tree(cell.trial))


def show_level(level: object) -> str:
    """A level as it stands in a cell's name."""
    return f"{level:.6g}" if isinstance(level, float) else str(level).lower() if isinstance(level, bool) else str(level)


def _levels(ablation: Ablation) -> Iterator[Tree]:
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


def _cause(ablation: Ablation, arm: str, settings: Mapping[str, object], location: str) -> tuple[str, ...]:
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
    if not settings or is_reference or ablation.design == "leave_one_out" or own_space(ablation, cell.arm):
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
        space = {path: dimension.model_dump() for path, dimension in own_space(ablation, cell.arm).items()}
        identity = _digest([effective_tree(cell.trial), space])
        if identity in seen:
            raise ArmError(
                _place(ablation, cell.arm),
                f"arm {cell.name} resolves to the same configuration as {seen[identity].name}: one run would be compared "
                "with itself",
            )
        seen[identity] = cell


def _place(ablation: Ablation, arm: str) -> tuple[str, ...]:
    return ("variants", arm) if arm in ablation.variants else ("variants",)


def _told(ablation: Ablation, levels: Mapping[str, object]) -> dict[str, object]:
    """The levels that a cell's name tells: of one factor at a time only the one that is not the reference's."""
    if ablation.design != "one_factor_at_a_time":
        return dict(levels)
    return {path: level for path, level in levels.items() if level != ablation.factors[path][0]}


def _cell_name(ablation: Ablation, arm: str, told: Mapping[str, object]) -> str:
    """``full, k=4``; without the arm where there is but one and a level tells the cells apart."""
    words = [f"{name}={show_level(level)}" for name, level in told.items()]
    alone = len(ablation.arms()) == 1 and words
    return ", ".join(words if alone else [arm, *words])


def _shown_factors(ablation: Ablation) -> dict[str, str]:
    """What factors are called in cell names: the last part of the path, or all of it where that is not unique."""
    last = {path: path.rpartition(".")[2] for path in ablation.factors}
    counts = Counter(last.values())
    return {path: name if counts[name] == 1 else path for path, name in last.items()}


def _own_level(tree: Mapping[str, object], path: str, levels: tuple[object, ...]) -> object:
    own = _value(tree, path)
    return next((level for level in levels if level == own), levels[0])


def _value(tree: Mapping[str, object], path: str) -> object:
    try:
        return get_path(tree, path)
    except (KeyError, TypeError):
        return None


def _key(name: str, before: list[Cell]) -> str:
    plain = re.sub(r"[^A-Za-z0-9_.=+-]+", "-", name)
    if len(plain) > LONGEST_KEY:  # files are called so
        plain = f"{plain[: LONGEST_KEY - 13]}-{_digest(name)}"
    taken = {cell.key for cell in before}
    return plain if plain not in taken else f"{plain}-{len(before)}"


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:12]
