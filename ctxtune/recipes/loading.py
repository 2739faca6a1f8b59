"""Recipes by name: YAML files of this package, which may extend one another."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from ctxtune.errors import ConfigError
from ctxtune.text import did_you_mean
from ctxtune.yaml_text import Tree

_RESULTS = "published_results"


@dataclass(frozen=True)
class RecipeNotes:
    """What is known about a recipe beside its values.

    `tuned_on_test`: its authors chose these values by scores on the test classes, so a comparison that starts from
    them is not blind. `caveat`: what to know before its numbers are compared with others', or "".
    """

    description: str
    source: str
    tuned_on_test: bool
    caveat: str = ""


def recipe_names() -> tuple[str, ...]:
    """The names that `load_recipe` takes, sorted."""
    stems = (entry.name.removesuffix(".yaml") for entry in files(__package__).iterdir() if entry.name.endswith(".yaml"))
    return tuple(sorted(stem for stem in stems if not stem.startswith("_") and stem != _RESULTS))


def load_recipe(name: str) -> dict[str, object]:
    """The `trial` tree of a recipe as plain data, without `dataset`; what it leaves unsaid has its block's default.

    Raises ConfigError for an unknown name.
    """
    tree = _resolved(name)
    del tree["about"]
    return tree


def recipe_notes(name: str) -> RecipeNotes:
    """Where a recipe comes from, and whether it was tuned on the test classes. Raises ConfigError as `load_recipe`."""
    return RecipeNotes(**_resolved(name)["about"])


def published_recipe(dataset_name: str) -> str | None:
    """The name of the contextual loss's recipe for a data set: 224 px where the authors give one, else 256 px."""
    known = recipe_names()
    dataset = "inaturalist" if dataset_name.startswith("inaturalist") else dataset_name
    candidates = (f"contextual_{dataset}_{pixels}" for pixels in (224, 256))
    return next((name for name in candidates if name in known), None)


def published_results() -> Tree:
    """The published scores, by table, data set and loss (see the comments in published_results.yaml)."""
    return _copy(_read(_RESULTS))


def _resolved(name: str) -> Tree:
    known = recipe_names()
    if name not in known:
        raise ConfigError(f"unknown recipe {name!r}{did_you_mean(name, known, most=3)}")
    return _extended(name)


def _extended(stem: str) -> Tree:
    """The file's tree, which overrides those that it extends, the later of these over the earlier."""
    own = dict(_read(stem))
    bases = own.pop("extends", [])
    tree: Tree = {}
    for base in [bases] if isinstance(bases, str) else bases:
        tree = _merged(tree, _extended(base))
    return _merged(tree, own)


@cache
def _read(stem: str) -> Tree:
    return yaml.safe_load(files(__package__).joinpath(f"{stem}.yaml").read_text(encoding="utf-8"))


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> Tree:
    merged = _copy(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = (
            _merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else _copy(value)
        )
    return merged


def _copy(value: Any) -> Any:
    """A deep copy of plain data, so that no caller can change what is cached."""
    if isinstance(value, Mapping):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value
