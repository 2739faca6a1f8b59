"""JSON schemas of the YAML files, for editors: made from the settings models, and by hand where a model reads its own way.

    python -m ctxtune.config.schema schemas      # write them anew

An editor that knows the schema completes keys, shows what they mean and marks what is wrong. What only the loader can see
(values that do not fit each other, files that are missing) it does not mark.
"""

import argparse
import copy
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ctxtune.config.ablation import Ablation, BestOf
from ctxtune.config.sweep import SweepConfig, TrialFile
from ctxtune.config.trial import TrialSettings
from ctxtune.data.settings import DATASETS
from ctxtune.losses.miners import MINERS
from ctxtune.losses.registry import loss_entry, loss_names
from ctxtune.recipes import recipe_names

Schema = dict[str, Any]
REF = "#/$defs/{model}"
FILES: dict[str, type[BaseModel]] = {
    "search_space.json": SweepConfig,
    "ablation.json": Ablation,
    "trial.json": TrialFile,
}
"""File name to the model of the files that it describes."""
ENVIRONMENT: Schema = {"type": "string", "pattern": r"\$\{[A-Za-z_]"}
"""`${NAME:-default}` may stand for any number or truth value."""
OWN_CLASS: Schema = {"type": "string", "pattern": r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"}
"""A class of one's own, `package.module:Class`."""
COMMON_OF_LOSSES = ("name", "miner", "contextual", "memory", "noise_filter")


def file_schema(name: str) -> Schema:
    """The schema of one of `FILES`."""
    model = FILES[name]
    schema = model.model_json_schema(mode="validation", ref_template=REF)
    definitions = schema["$defs"]
    _add_losses(definitions)
    _add_trial(definitions, partial=model is Ablation)
    if "Dimension" in definitions:
        definitions["Dimension"] = _dimension()
        for space in _spaces(definitions, schema):
            _name_paths(space, {"anyOf": [{"$ref": REF.format(model="Dimension")}, {"type": "null"}]})
    for objective in ("ObjectiveSettings", "CompareSettings"):
        if objective in definitions:
            _take_lists(definitions, objective)
    if model is Ablation:
        _add_base(schema)
    schema = _with_environment(schema)
    first = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"ctxtune: {name.removesuffix('.json')}",
    }
    return {**first, **{key: value for key, value in schema.items() if key != "title"}}


def schema_text(name: str) -> str:
    """The content of the shipped file."""
    return json.dumps(file_schema(name), indent=1, ensure_ascii=False) + "\n"


def _options_of(model: type[BaseModel], definitions: Schema) -> Schema:
    """The properties of a model; what it refers to is put among the definitions."""
    schema = model.model_json_schema(mode="validation", ref_template=REF)
    for key, definition in schema.pop("$defs", {}).items():
        definitions.setdefault(key, definition)
    properties: Schema = schema.get("properties", {})
    return properties


def _chosen(options: Mapping[str, Schema | None], common: Mapping[str, Schema]) -> list[Schema]:
    """By `name`: the options of what is chosen. Without a name (a recipe or base says it): those of any. None: whatever."""
    rules = []
    free: Schema = dict.fromkeys(common, True)
    for name, own in options.items():
        if own is None:
            continue
        told = {"properties": {"name": {"const": name}}, "required": ["name"]}
        rules.append({"if": told, "then": {"properties": {**free, **own}, "additionalProperties": False}})
    every: Schema = {key: True for own in options.values() for key in own or {}}
    unnamed = {"properties": {**free, **every}, "additionalProperties": False}
    return [*rules, {"if": {"not": {"required": ["name"]}}, "then": unnamed}]


def _add_losses(definitions: Schema) -> None:
    loss = definitions["LossSettings"]
    names = loss_names()
    common = loss["properties"]
    options = {name: _options_of(loss_entry(name).options, definitions) for name in names}
    common["name"] = {"anyOf": [{"enum": list(names)}, OWN_CLASS], "description": "docs/losses.md"}
    loss.pop("additionalProperties", None)
    loss["allOf"] = _chosen(options, {key: common[key] for key in COMMON_OF_LOSSES})
    miner = definitions["MinerSettings"]
    miners = {name: _options_of(entry.options, definitions) for name, entry in MINERS.items()}
    by_name = {"enum": list(miners)}
    block = {
        "type": "object",
        "properties": {"name": by_name},
        "required": ["name"],
        "allOf": _chosen(miners, {"name": by_name})[:-1],
    }
    definitions["MinerSettings"] = {"description": miner.get("description", ""), "anyOf": [by_name, block]}


def _add_trial(definitions: Schema, *, partial: bool) -> None:
    trial = definitions["TrialSettings"]
    definitions["DatasetSettings"]["properties"]["name"] = {"enum": list(DATASETS), "description": "docs/data.md"}
    if partial:  # on a base
        definitions["DatasetSettings"].pop("required", None)
        trial.pop("required", None)
    else:
        trial["required"] = ["dataset"]
    recipe = {"enum": list(recipe_names()), "description": "a published recipe, for what is not said; docs/recipes.md"}
    trial["properties"]["recipe"] = recipe


def _dimension() -> Schema:
    number: Schema = {"type": "number"}

    def numbers(least: int, most: int) -> Schema:
        return {"type": "array", "items": number, "minItems": least, "maxItems": most}

    kinds: dict[str, tuple[Schema, str]] = {
        "uniform": (numbers(2, 2), "[low, high]"),
        "loguniform": (numbers(2, 2), "[low, high], above 0"),
        "quniform": (numbers(3, 3), "[low, high, step]"),
        "int": (numbers(2, 3), "[low, high] or [low, high, step]"),
        "logint": (numbers(2, 2), "[low, high], above 0"),
        "choice": (
            {"type": "array", "minItems": 1, "items": {"type": ["string", "number", "boolean", "null"]}},
            "values",
        ),
        "fixed": ({"type": ["string", "number", "boolean", "null"]}, "one value"),
    }
    properties = {kind: {**schema, "description": text} for kind, (schema, text) in kinds.items()}
    return {
        "description": "One searched dimension: its kind, and what that takes. Bounds are inclusive.",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
    }


def _spaces(definitions: Schema, schema: Schema) -> Iterator[Schema]:
    """Every block whose keys are paths of the trial and whose values are dimensions."""
    if "SearchSettings" in definitions:
        yield definitions["SearchSettings"]["properties"]["space"]
    if "TuneEachSettings" in definitions:
        tune = definitions["TuneEachSettings"]["properties"]
        yield tune["space"]
        own: Schema = {"type": "object"}
        tune["spaces"]["additionalProperties"] = {"anyOf": [own, {"type": "null"}]}
        yield own


def trial_paths() -> list[str]:
    """The dotted paths of a trial's numbers and names, with the options of every loss: what can be searched and varied."""
    paths = {f"loss.{option}" for name in loss_names() for option in loss_entry(name).options.model_fields}
    for block, field in TrialSettings.model_fields.items():
        model = field.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            paths |= set(_paths_of(model, block))
        else:
            paths.add(block)
    return sorted(paths)


def _paths_of(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _paths_of(inner, f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}"


def _name_paths(block: Schema, value: Schema) -> None:
    """Let the keys of a block be paths of the trial: the known ones for completion, and whatever lies deeper."""
    blocks = "|".join(TrialSettings.model_fields)
    block.pop("additionalProperties", None)
    block["properties"] = dict.fromkeys(trial_paths(), value)
    block["patternProperties"] = {rf"^({blocks})(\.[A-Za-z_0-9]+)*$": value}
    block["additionalProperties"] = False


def _take_lists(definitions: Schema, name: str) -> None:
    """An objective is a block, or a list of several. `beside` is how the model holds the further ones."""
    block = definitions[name]
    block["properties"].pop("beside")
    item = f"{name}Item"
    definitions[item] = {**block, "type": "object"}
    definitions[name] = {
        "description": block.get("description", ""),
        "anyOf": [
            {"$ref": REF.format(model=item)},
            {
                "type": "array",
                "minItems": 1,
                "prefixItems": [{"$ref": REF.format(model=item)}],
                "items": {"$ref": REF.format(model="FurtherObjective")},
            },
        ],
    }


def _add_base(schema: Schema) -> None:
    properties = schema["properties"]
    schema["$defs"]["BestOf"] = BestOf.model_json_schema(mode="validation")
    properties["base"] = {
        "description": "a file (its path counted from this one), the name of a shipped file, or the best of a sweep",
        "anyOf": [
            {"type": "string"},
            {
                "type": "object",
                "properties": {"best_of": {"type": "string"}},
                "required": ["best_of"],
                "additionalProperties": False,
            },
        ],
    }
    schema["required"] = ["name"]
    schema["anyOf"] = [{"required": ["base"]}, {"required": ["trial"]}]
    any_value: Schema = {}
    variant: Schema = {"type": "object"}
    _name_paths(variant, any_value)
    properties["variants"] = {
        "type": ["object", "null"],
        "description": "by name, the paths that a variant changes in the trial",
        "additionalProperties": {"anyOf": [variant, {"type": "null"}]},
    }
    levels = {"type": ["array", "null"], "minItems": 2, "items": {"type": ["string", "number", "boolean", "null"]}}
    factors: Schema = {"type": ["object", "null"], "description": "by path, its levels"}
    _name_paths(factors, levels)
    properties["factors"] = factors


def _with_environment(node: Any) -> Any:
    """The schema with `${NAME}` allowed where a number or a truth value is asked for."""
    if isinstance(node, list):
        return [_with_environment(item) for item in node]
    if not isinstance(node, dict):
        return node
    done = {key: _with_environment(value) for key, value in node.items()}
    if done.get("type") in ("integer", "number", "boolean"):
        outside = {key: done.pop(key) for key in ("default", "description", "title") if key in done}
        return {**outside, "anyOf": [done, copy.deepcopy(ENVIRONMENT)]}
    return done


def main() -> int:
    """Write the schemas into the folder that is named."""
    parser = argparse.ArgumentParser(prog="python -m ctxtune.config.schema", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(exist_ok=True)
    for name in FILES:
        (folder / name).write_text(schema_text(name), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
