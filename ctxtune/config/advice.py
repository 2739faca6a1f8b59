"""What a file says that is allowed and seldom meant: a `k` that is not the number of images of a class in the batch.

In the paper's trainer the two are one number: the k nearest items of an image, itself included, can then be its class in the
batch and nothing else. With a larger k every neighborhood must hold other classes.
"""

import contextlib
import itertools
from collections.abc import Iterator

import numpy as np

from ctxtune.config.ablation import Ablation
from ctxtune.config.cell_search import search_of
from ctxtune.config.cells import Cell
from ctxtune.config.design import cells_of
from ctxtune.config.expressions import Expression
from ctxtune.config.points import random_point
from ctxtune.config.resolve import is_feasible, lookup, resolve_trial
from ctxtune.config.sweep import SweepConfig
from ctxtune.config.trial import TrialSettings
from ctxtune.errors import ConfigError

IMAGES_PER_CLASS = "sampler.images_per_class"
K_PATHS = ("loss.k", "loss.contextual.k")
MOST_TRIED = 1_000
POINTS_TRIED, POINTS_RESOLVED = 500, 100
TIE = f"--set 'search.ties={{{IMAGES_PER_CLASS}: loss.k}}'"
WHY = (
    "in the paper's trainer they are the same number: a neighborhood is then the images of one class in the batch, and a "
    "larger one must hold other classes"
)


def trial_advice(trial: TrialSettings) -> str | None:
    """What to say of one configuration; None where nothing is to be said."""
    differing = _differing(trial)
    if differing is None:
        return None
    path, k, images = differing
    return f"{path} is {k} and {IMAGES_PER_CLASS} {images}; {WHY}. To follow it, give both the same value"


def sweep_advice(config: SweepConfig) -> str | None:
    """What to say of a search space: some of its points have another k than images of a class."""
    if not {*K_PATHS, IMAGES_PER_CLASS} & set(config.search.space):
        return trial_advice(resolve_trial(config, {}))
    found = [each for trial in _neighborhoods(config) if (each := _differing(trial)) is not None]
    if not found:
        return None
    path = found[0][0]
    pairs = sorted({(k, images) for _, k, images in found})
    told = ", ".join(f"{k} at {images}" for k, images in pairs[:6]) + (", ..." if len(pairs) > 6 else "")
    remedy = TIE.replace("loss.k", path) if path in config.search.space else f"tie {path} to {IMAGES_PER_CLASS}"
    return f"the search takes {path} and {IMAGES_PER_CLASS} apart ({told}); {WHY}. To search them as one: {remedy}"


def search_advice(config: SweepConfig) -> list[str]:
    """What random points say of a search space: those that cannot be run, dimensions and constraints without effect."""
    random = np.random.default_rng(0)
    points = [point for _ in range(POINTS_TRIED) if is_feasible(config, point := random_point(config, random))]
    return [*_refused(config, points[:POINTS_RESOLVED]), *_without_effect(config, points)] if points else []


def _refused(config: SweepConfig, points: list[dict[str, object]]) -> Iterator[str]:
    reasons = []
    for point in points:
        try:
            resolve_trial(config, point)
        except ConfigError as error:
            reasons.append(str(error))
    if reasons:
        yield (
            f"of {len(points)} random points {len(reasons)} cannot be run; take their values out, or say by search.constraints "
            f"or search.ties what goes together. The first: {reasons[0]}"
        )


def _without_effect(config: SweepConfig, points: list[dict[str, object]]) -> Iterator[str]:
    for path, condition in config.search.conditions.items():
        if not any(path in point for point in points):
            yield (
                f"search.conditions: {path}: {condition!r} holds at none of {len(points)} random points; "
                f"{path} is not searched there"
            )
    for constraint in config.search.parsed_constraints():
        if not any(_applies(constraint, config, point) for point in points):
            yield (
                f"search.constraints: {constraint.text!r} compares what cannot be compared, at each of {len(points)} random "
                "points; it excludes nothing"
            )


def _applies(constraint: Expression, config: SweepConfig, point: dict[str, object]) -> bool:
    try:
        constraint(lookup(config, point))
    except (KeyError, TypeError):
        return False
    except ArithmeticError:
        pass
    return True


def ablation_advice(ablation: Ablation) -> str | None:
    """What to say of an ablation: the cells that have another k than images of a class."""
    found = [
        (cell.name, each)
        for cell in cells_of(ablation)
        for trial in _configurations(ablation, cell)
        if (each := _differing(trial)) is not None
    ]
    if not found:
        return None
    told = "; ".join(f"{name}: {path} {k} at {images}" for name, (path, k, images) in found[:6])
    more = f"; and {len(found) - 6} more" if len(found) > 6 else ""
    return (
        f"{found[0][1][0]} and {IMAGES_PER_CLASS} differ ({told}{more}); {WHY}. Where that is not the question, set both in "
        "the cell"
    )


def _differing(trial: TrialSettings) -> tuple[str, int, int] | None:
    """Path and value of k, and the images of a class, where they differ; classes that are not drawn evenly have none."""
    if trial.sampler.name == "random":
        return None
    options = trial.tree()["loss"]
    term = options.get("contextual")
    path = "loss.contextual.k" if isinstance(term, dict) else "loss.k"
    k = term["k"] if isinstance(term, dict) else options.get("k") if options["name"] == "contextual" else None
    images = trial.sampler.images_per_class
    return (path, k, images) if isinstance(k, int) and k != images else None


def _configurations(ablation: Ablation, cell: Cell) -> Iterator[TrialSettings]:
    """The cell's own, and those that its search may come to."""
    yield cell.trial
    if ablation.tune_each is not None:
        yield from _neighborhoods(search_of(ablation, cell))


def _neighborhoods(config: SweepConfig) -> Iterator[TrialSettings]:
    """The configurations of a space that differ in what decides about k, the rest as in the trial."""
    paths = [path for path in ("loss.name", *K_PATHS, IMAGES_PER_CLASS) if path in config.search.space]
    values = itertools.product(*(config.search.space[path].values() for path in paths))
    for point in itertools.islice(values, MOST_TRIED):
        with contextlib.suppress(ConfigError):  # told when it is suggested
            yield resolve_trial(config, dict(zip(paths, point, strict=True)))
