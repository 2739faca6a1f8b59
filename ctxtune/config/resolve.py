"""From a point of the search space to the configuration of one run."""

import contextlib
import itertools
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from ctxtune.config.expressions import parse
from ctxtune.config.paths import get_path, leaves, set_path
from ctxtune.config.search import WarmStart
from ctxtune.config.sweep import SweepConfig
from ctxtune.config.trial import TrialSettings
from ctxtune.error_messages import in_words
from ctxtune.errors import ConfigError
from ctxtune.losses.registry import loss_entry
from ctxtune.models.settings import ModelSettings
from ctxtune.recipes import load_recipe, published_recipe
from ctxtune.text import did_you_mean
from ctxtune.yaml_text import Tree

Point = Mapping[str, Any]


def with_values(trial: TrialSettings, values: Point) -> TrialSettings:
    """``trial`` with dotted paths set to ``values``.

    Another ``loss.name`` drops the options of the loss before it: they mean nothing to the new one.

    Raises:
        pydantic.ValidationError: a value is refused by its block.
    """
    tree = trial.tree()
    if values.get("loss.name", tree["loss"]["name"]) != tree["loss"]["name"]:
        tree["loss"] = {"name": values["loss.name"]}
    for path, value in values.items():
        set_path(tree, path, value)
    return TrialSettings.model_validate(tree)


def changed_values(trial: TrialSettings, values: Point) -> Tree:
    """Those of ``values`` that differ from what ``trial`` has; of another loss all options."""
    tree = trial.tree()
    other_loss = values.get("loss.name", tree["loss"]["name"]) != tree["loss"]["name"]
    own = dict(leaves(tree))
    return {
        path: value
        for path, value in values.items()
        if path not in own or own[path] != value or (other_loss and path.startswith("loss."))
    }


def apply_ties(config: SweepConfig, point: Point) -> Tree:
    """The point with every tied path set to its partner's value (``ties: {loss.k: sampler.images_per_class}``).

    A tie of an option that the loss does not have says nothing.
    """
    values = dict(point)
    tree = config.trial.tree()
    for path, partner in config.search.ties.items():
        if _loss_takes(path, values, tree) and _loss_takes(partner, values, tree):
            values[path] = values[partner] if partner in values else get_path(tree, partner)
    return values


def _loss_takes(path: str, values: Point, tree: Mapping[str, Any]) -> bool:
    """Whether a path is no option of a loss, or one of the loss that a point comes to."""
    block, _, option = path.partition(".")
    name = values.get("loss.name", tree["loss"]["name"])
    if block != "loss" or path in values:
        return True
    if name == tree["loss"]["name"]:
        return option.partition(".")[0] in tree["loss"]
    return ":" not in name and option in loss_entry(name).options.model_fields


def resolve_trial(config: SweepConfig, point: Point) -> TrialSettings:
    """The configuration of one run at a point of the space.

    Raises:
        ConfigError: the point asks for something that a block refuses.
    """
    try:
        return with_values(config.trial, apply_ties(config, point))
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{dict(point)}: {'.'.join(map(str, first['loc']))}: {in_words([first])}") from None


def searched_models(config: SweepConfig) -> list[ModelSettings]:
    """The `model` blocks that runs of a sweep may have, as far as backbone and weights tell them apart."""
    searched = [path for path in ("model.backbone", "model.weights") if path in config.search.space]
    models = [config.trial.model]
    for values in itertools.product(*(config.search.space[path].values() for path in searched)):
        with contextlib.suppress(ConfigError):  # told when it is suggested
            models.append(resolve_trial(config, dict(zip(searched, values, strict=True))).model)
    return models


def is_active(config: SweepConfig, path: str, point: Point) -> bool:
    """Whether the condition of a dimension holds at a point (true where it has none).

    One that reads what has no value there, or cannot be calculated, does not hold.
    """
    text = config.search.conditions.get(path)
    try:
        return text is None or parse(text)(lookup(config, point))
    except (KeyError, TypeError, ArithmeticError):
        return False


def is_feasible(config: SweepConfig, point: Point) -> bool:
    """Whether a point meets every constraint.

    One that names a path without value, or compares null with a number, does not apply; one that divides by zero is not met.
    """
    find = lookup(config, point)
    for constraint in config.search.parsed_constraints():
        try:
            if not constraint(find):
                return False
        except (KeyError, TypeError):
            continue
        except ArithmeticError:
            return False
    return True


def lookup(config: SweepConfig, point: Point) -> Any:
    """A function from dotted path to the value it has at the point, else in the trial.

    It raises KeyError for a path that exists in neither.
    """
    own_loss = config.trial.loss.name

    def find(path: str) -> Any:
        if path in point:
            return point[path]
        if path.startswith("loss.") and point.get("loss.name", own_loss) != own_loss:
            raise KeyError(path)
        return _standing(config.trial, path)

    return find


def _standing(trial: TrialSettings, path: str) -> Any:
    """The value at a dotted path of the trial. Raises KeyError where nothing stands."""
    node: Any = trial
    for part in path.split("."):
        inner = node.__dict__ | (node.__pydantic_extra__ or {}) if isinstance(node, BaseModel) else node
        if not isinstance(inner, Mapping) or part not in inner:
            raise KeyError(path)
        node = inner[part]
    return list(node) if isinstance(node, tuple) else node


def start_points(config: SweepConfig) -> dict[str, Tree]:
    """The points to run first, unaltered, by name: `trial` (the file's own values), recipes, explicit points.

    The best trials of an earlier sweep (`WarmStart`) are left out: they are known only when tracking is asked.

    Raises:
        ConfigError: an unknown recipe, a path that is not searched, or a value outside its dimension.
    """
    points: dict[str, Tree] = {}
    for index, item in enumerate(config.search.start_from):
        if isinstance(item, WarmStart):
            continue
        if isinstance(item, str):
            name, values = item, _recipe_values(config, item)
        else:
            name, values = f"point {index}", dict(item)
            for path in values:
                if path not in config.search.space:
                    raise ConfigError(
                        f"search.start_from.{index}: {path} is not searched{did_you_mean(path, config.search.space)}"
                    )
        points[name] = _complete(config, values, f"search.start_from.{index} ({name})")
    return points


def _recipe_values(config: SweepConfig, name: str) -> Tree:
    if name == "trial":
        return {}
    recipe = name
    if name == "published":
        found = published_recipe(config.trial.dataset.name)
        if found is None:
            raise ConfigError(
                f"search.start_from: no published recipe for data set {config.trial.dataset.name}; write trial (the "
                "values of this file), a recipe's name or an explicit point"
            )
        recipe = found
    values = dict(leaves(load_recipe(recipe)))
    return {path: values[path] for path in config.search.space if path in values}


def _complete(config: SweepConfig, values: Tree, where: str) -> Tree:
    tree = config.trial.tree()
    other_loss = values.get("loss.name", tree["loss"]["name"]) != tree["loss"]["name"]
    point: Tree = {}
    for path, dimension in _by_dependency(config):
        if not is_active(config, path, point):
            continue
        if path in values:
            value = values[path]
        elif dimension.kind == "fixed":
            value = dimension.choices[0]
        elif other_loss and path.startswith("loss."):
            continue
        else:
            try:
                value = get_path(tree, path)
            except KeyError:
                continue
        if not dimension.contains(value):
            raise ConfigError(f"{where}: {path} = {value!r} lies outside {dimension.model_dump()}; widen the dimension")
        point[path] = value
    if not is_feasible(config, point):
        raise ConfigError(f"{where}: {point} breaks a constraint of {list(config.search.constraints)}")
    return point


def _by_dependency(config: SweepConfig) -> list[tuple[str, Any]]:
    return [(path, config.search.space[path]) for path in dimension_order(config)]


def dimension_order(config: SweepConfig) -> list[str]:
    """The dimensions, each after those that its condition reads.

    Raises:
        ConfigError: conditions that wait for each other.
    """
    conditions = config.search.parsed_conditions()
    order: list[str] = []
    waiting = list(config.search.space)
    while waiting:
        ready = [
            path for path in waiting if path not in conditions or not (conditions[path].paths & (set(waiting) - {path}))
        ]
        if not ready:
            raise ConfigError(f"search.conditions: {', '.join(waiting)} wait for each other")
        order += ready
        waiting = [path for path in waiting if path not in ready]
    return order
