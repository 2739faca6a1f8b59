"""Files into typed settings, with one clear error for whatever is wrong."""

import itertools
import os
import typing
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ctxtune.config.paths import Location, get_path, merge
from ctxtune.config.points import expression_problem
from ctxtune.config.resolve import dimension_order, resolve_trial, start_points
from ctxtune.config.source import Override, Source, apply_overrides, read_source
from ctxtune.config.sweep import SweepConfig, TrialFile
from ctxtune.error_messages import in_words
from ctxtune.errors import ConfigError, CtxtuneError
from ctxtune.losses.registry import option_names
from ctxtune.models.settings import is_weight_file
from ctxtune.recipes import load_recipe
from ctxtune.text import counted, did_you_mean, shortened
from ctxtune.yaml_text import Tree

_DOTTED_BLOCKS: tuple[Location, ...] = (("search", "space"), ("search", "conditions"), ("search", "ties"))
_SEARCH_BLOCKS = ("search", "select", "confirm")
MOST_PROBLEMS = 20
"""Wrong keys that are told, a line each."""
MOST_SAID = 1000
"""Characters of what is said of one of them."""
_ABLATION_BLOCKS = ("base", "variants", "factors", "tune_each", "compare")
Model = TypeVar("Model", bound=BaseModel)


def load_search_space(path: Path | str, overrides: Iterable[str | Override] = ()) -> SweepConfig:
    """Read a search-space file.

    Args:
        path: the YAML file.
        overrides: ``a.b=value`` texts, as given to ``--set``, with paths from the file's root.

    Raises:
        ConfigError: anything wrong in it, with file, line, key, what was found and what would be right.
    """
    source = _read(path, overrides)
    if "search" not in source.data:
        for key in source.data:
            if key not in SweepConfig.model_fields and get_close_matches(str(key).lower(), ["search"], cutoff=0.7):
                raise source.error((key,), 'unknown key; did you mean "search"?')
        whose = (
            "this is an ablation file; run it with ctxtune.ablate"
            if is_ablation(source.data)
            else "run one configuration with ctxtune.train instead"
        )
        raise ConfigError(f"{source.path}: there is no `search` block; {whose}")
    config = validated(SweepConfig, source)
    _check_points(config, source)
    return config


def load_trial_file(path: Path | str, overrides: Iterable[str | Override] = ()) -> TrialFile:
    """Read the one configuration of a file: `best.yaml`, or a search-space file without its search.

    Raises:
        ConfigError: as `load_search_space`.
    """
    source = _read(path, overrides)
    if is_ablation(source.data):
        raise ConfigError(f"{source.path}: this is an ablation file; run it with ctxtune.ablate")
    for block in _SEARCH_BLOCKS:
        source.data.pop(block, None)
    return validated(TrialFile, source)


def _read(path: Path | str, overrides: Iterable[str | Override]) -> Source:
    source = read_source(path)
    apply_overrides(source, overrides, _DOTTED_BLOCKS, {("search", "space"): ("search", "space")})
    fill_in(source)
    return source


def is_ablation(data: Mapping[str, object]) -> bool:
    """Whether a file says what only ablation files say."""
    return any(block in data for block in _ABLATION_BLOCKS)


def fill_in(source: Source) -> None:
    """Put a trial's recipe in place, and make its paths absolute.

    Raises:
        ConfigError: there is no such recipe.
    """
    trial = source.data.get("trial")
    if isinstance(trial, dict) and "recipe" in trial:
        source.data["trial"] = _with_recipe(trial, source)
    _make_absolute(source)


def _make_absolute(source: Source) -> None:
    """Paths count from the directory of the command; trials run elsewhere, on other machines perhaps."""
    trial = source.data.get("trial")
    if not isinstance(trial, dict):
        return
    dataset = trial.get("dataset")
    if isinstance(dataset, dict) and dataset.get("root") is None and dataset.get("file"):
        dataset["file"] = _absolute_files(dataset["file"])
    for block, key in (("dataset", "root"), ("model", "weights")):
        settings = trial.get(block)
        path = settings.get(key) if isinstance(settings, dict) else None
        if isinstance(settings, dict) and isinstance(path, str) and (key == "root" or is_weight_file(path)):
            try:
                settings[key] = str(Path(path).expanduser().absolute())
            except RuntimeError as error:  # ~ of somebody who is not there
                raise source.error(("trial", block, key), f"{path}: {error}") from None


def _absolute_files(files: object) -> object:
    """`dataset.file` without a root: from the directory of the command."""
    if isinstance(files, dict):
        return {name: _absolute_files(file) for name, file in files.items()}
    return os.path.abspath(os.path.expanduser(files)) if isinstance(files, str) else files  # noqa: PTH100, PTH111  # no error


def _with_recipe(trial: dict[str, object], source: Source) -> dict[str, object]:
    said = {key: value for key, value in trial.items() if key != "recipe"}
    try:
        recipe = load_recipe(str(trial["recipe"]))
    except CtxtuneError as error:
        raise source.error(("trial", "recipe"), str(error)) from None
    return laid_on(recipe, said)


def laid_on(base: Mapping[str, Any], said: Mapping[str, Any]) -> Tree:
    """A trial overridden by what is said; another loss drops the options of the loss before it."""
    own_loss, its_loss = said.get("loss") or {}, base.get("loss") or {}
    both = isinstance(own_loss, dict) and isinstance(its_loss, dict)
    if both and own_loss.get("name", its_loss.get("name")) != its_loss.get("name"):
        base = {**base, "loss": {}}
    return merge(base, said)


def validated(model: type[Model], source: Source) -> Model:
    """The data of a file as a model.

    Raises:
        ConfigError: every problem, a line each, with file, line and key.
    """
    try:
        return model.model_validate(source.data)
    except ValidationError as error:
        raise ConfigError("\n".join(_explained(model, source, error.errors()))) from None


def _explained(model: type[BaseModel], source: Source, problems: Iterable[Any]) -> list[str]:
    """A message for each wrong key: pydantic tells of each kind that a value might be, one by one."""
    by_key: dict[Location, list[Any]] = {}
    for problem in problems:
        # Pydantic appends the branch of a union ("int", "literal[...]") to the location: not a key of the file.
        keep = problem["type"] in ("extra_forbidden", "missing")
        by_key.setdefault(_known_part(source.data, tuple(problem["loc"]), keep_last=keep), []).append(problem)
    told = [
        str(source.error(location, shortened(_words(model, source, location, found), MOST_SAID)))
        for location, found in itertools.islice(by_key.items(), MOST_PROBLEMS)
    ]
    more = len(by_key) - len(told)
    return [*told, f"{source.path}: and {counted(more, 'problem')} more"] if more else told


def _words(model: type[BaseModel], source: Source, location: Location, problems: list[Any]) -> str:
    kinds = {problem["type"] for problem in problems}
    if "extra_forbidden" in kinds:
        return f"unknown key{did_you_mean(str(location[-1]), _fields_at(model, location[:-1]))}"
    return (
        "this key is needed and missing"
        if "missing" in kinds
        else in_words(problems, source.written.get(location), secret=location[:1] == ("notify",))
    )


def _known_part(data: Any, location: Location, *, keep_last: bool) -> Location:
    known: list[str | int] = []
    for part in location:
        inside = part in data if isinstance(data, dict) else isinstance(data, list) and part in range(len(data))
        if not inside:
            break
        data = data[part]  # type: ignore[index]
        known.append(part)
    if keep_last and len(known) < len(location):
        known.append(location[len(known)])
    return tuple(known)


def _fields_at(model: type[BaseModel], location: Location) -> list[str]:
    """The keys that the block at ``location`` knows."""
    for part in location:
        field = model.model_fields.get(str(part))
        inner = _model_in(field.annotation) if field else None
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, typing.get_args(annotation))), None)


def _check_points(config: SweepConfig, source: Source) -> None:
    """Every start point and the edges of every dimension must resolve: a bad one is found now, not at trial 40."""
    block: Location = ("search", "space")
    try:
        dimension_order(config)
        points = start_points(config)
    except ConfigError as error:
        raise ConfigError(f"{source.origin(('search',))}: {error}") from None
    if (problem := expression_problem(config)) is not None:
        raise source.error(*problem)
    for path, partner in config.search.ties.items():
        for each in (path, partner):
            if each.removeprefix("loss.") not in option_names():  # of another loss: the tie says nothing
                _check_path(config, each, source, ("search", "ties"))
    base = next(iter(points.values()), {})
    for name, point in points.items():
        _try(config, point, source, ("search", "start_from"), name)
    for path, dimension in config.search.space.items():
        _check_path(config, path, source)
        if path in config.search.conditions:
            continue  # what the edge resolves to depends on other dimensions
        for value in dimension.extremes():
            if path == "loss.name" and value != config.trial.loss.name:
                continue
            _try(config, {**base, path: value}, source, (*block, path), f"{value!r}")


def _check_path(config: SweepConfig, path: str, source: Source, block: Location = ("search", "space")) -> None:
    tree = config.trial.tree()
    parent, _, _ = path.rpartition(".")
    if path in config.search.conditions or (parent == "loss" and "loss.name" in config.search.space):
        return
    try:
        get_path(tree, path)
    except KeyError:
        try:
            siblings = [f"{parent}.{key}" for key in get_path(tree, parent)] if parent else list(tree)
        except (KeyError, TypeError):
            siblings = list(tree)
        raise source.error(
            (*block, path), f"the trial has no {path} (paths here start inside `trial`){did_you_mean(path, siblings)}"
        ) from None


def _try(config: SweepConfig, point: dict[str, object], source: Source, location: Location, what: str) -> None:
    try:
        resolve_trial(config, point)
    except ConfigError as error:
        raise source.error(location, f"{what} cannot be run: {error}") from None
