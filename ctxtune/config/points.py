"""The points of a search space: drawn at random, all of a finite one, and whether there are any."""

import itertools
import math
from typing import Any

import numpy as np

from ctxtune.config.dimensions import Dimension
from ctxtune.config.expressions import Expression
from ctxtune.config.paths import Location, get_path, leaves
from ctxtune.config.resolve import dimension_order, is_active, is_feasible
from ctxtune.config.sweep import SweepConfig
from ctxtune.text import did_you_mean
from ctxtune.yaml_text import Tree

MOST_ENUMERATED = 20_000
"""Points of a space that is taken for finite; a larger one is as good as endless."""
DRAWS = 5_000
"""Random points, none of which meets the constraints of a space that is taken for empty."""


def all_points(config: SweepConfig) -> list[dict[str, object]] | None:
    """Every feasible point of a finite space, in the order of its dimensions; None where it is not finite, or too large."""
    order = dimension_order(config)
    dimensions = [config.search.space[path] for path in order]
    counts = [dimension.count() for dimension in dimensions]
    if None in counts or math.prod(count for count in counts if count is not None) > MOST_ENUMERATED:
        return None
    points: dict[tuple[Any, ...], Tree] = {}
    for values in itertools.product(*(dimension.values() for dimension in dimensions)):
        point: dict[str, object] = {}
        for path, value in zip(order, values, strict=True):
            if is_active(config, path, point):
                point[path] = value
        if point_key(point) not in points and is_feasible(config, point):
            points[point_key(point)] = point
    return list(points.values())


def point_key(point: dict[str, object]) -> tuple[object, ...]:
    """What two points share exactly if they are the same; numbers that differ by rounding only are."""
    return tuple(
        (path, isinstance(value, bool), float(f"{value:.12g}") if isinstance(value, (int, float)) else value)
        for path, value in sorted(point.items())
    )


def random_point(config: SweepConfig, random: np.random.Generator) -> dict[str, object]:
    """A point drawn uniformly along every dimension that is active; it may break a constraint."""
    point: Tree = {}
    for path in dimension_order(config):
        if is_active(config, path, point):
            point[path] = random_value(config.search.space[path], random)
    return point


def random_value(dimension: Dimension, random: np.random.Generator) -> object:
    """A value of one dimension."""
    if (count := dimension.count()) is not None and dimension.kind != "logint":
        return dimension.value(int(random.integers(count)))
    low, high = float(dimension.low), float(dimension.high)
    if dimension.kind == "uniform":
        return float(random.uniform(low, high))
    drawn = min(max(math.exp(random.uniform(math.log(low), math.log(high))), low), high)
    return round(drawn) if dimension.kind == "logint" else drawn


def expression_problem(config: SweepConfig) -> tuple[Location, str] | None:
    """What is wrong with constraints and conditions, and where: a path that is not there, or no point that is left."""
    tree = config.trial.tree()
    known = {*config.search.space, *(path for path, _ in leaves(tree))}
    places: list[tuple[Location, Expression]] = [
        *((("search", "constraints", index), each) for index, each in enumerate(config.search.parsed_constraints())),
        *((("search", "conditions", path), each) for path, each in config.search.parsed_conditions().items()),
    ]
    for place, expression in places:
        for path in sorted(expression.paths):
            other_loss = path.startswith("loss.") and "loss.name" in config.search.space
            if path not in known and not other_loss and not _stands(tree, path):
                hint = did_you_mean(path, known)
                return place, f"the trial has no {path} (paths here start inside `trial`){hint}"
    if config.search.sampler.name == "grid" and all_points(config) is None:
        return ("search", "sampler"), f"a grid has {MOST_ENUMERATED:,} points at most; take sampler random or tpe"
    if config.search.constraints and not _has_a_point(config):
        return ("search", "constraints"), (
            f"no point was found that meets {list(config.search.constraints)} (of a finite space all are tried, of another "
            f"{DRAWS:,} at random); loosen them, or tie the dimensions that they bind together (`ties`)"
        )
    return None


def _stands(tree: dict[str, object], path: str) -> bool:
    try:
        get_path(tree, path)
    except KeyError:
        return False
    return True


def _has_a_point(config: SweepConfig) -> bool:
    points = all_points(config)
    if points is not None:
        return bool(points)
    random = np.random.default_rng(0)
    return any(is_feasible(config, random_point(config, random)) for _ in range(DRAWS))
