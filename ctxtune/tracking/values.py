"""What MLflow takes as names, parameters and tags, made from plain settings."""

import json
import re
from collections.abc import Mapping
from functools import lru_cache

# MLflow 3 (mlflow/utils/validation.py); a server refuses what is longer.
MAX_NAME_LENGTH = 250
MAX_PARAMETER_LENGTH = 6000
MAX_TAG_LENGTH = 8000

_NOT_IN_NAMES = re.compile(r"[^\w\-./: ]", re.ASCII)


def flatten(mapping: Mapping[str, object]) -> dict[str, str | int | float]:
    """Nested settings as one level: `{"loss": {"k": 4}}` becomes `{"loss.k": 4}`.

    Numbers stay numbers; True, False and None become `true`, `false` and `null` as in YAML; lists and empty mappings
    become one line of JSON.
    """
    flat: dict[str, str | int | float] = {}
    for name, value in mapping.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{name}.{inner}": leaf for inner, leaf in flatten(value).items()}
        else:
            flat[str(name)] = _leaf(value)
    return flat


def _leaf(value: object) -> str | int | float:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | str):
        return value
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, default=str, ensure_ascii=False)
    return str(value)


@lru_cache(4096)  # a sweep's runs have the same names
def clean_name(name: str) -> str:
    """A metric, parameter or tag name that every MLflow store takes: others' characters become `_`."""
    cleaned = _NOT_IN_NAMES.sub("_", name)[:MAX_NAME_LENGTH]
    # MLflow refuses names that a path would simplify: "a//b", "./a", "../a", "a/".
    parts = [part for part in cleaned.split("/") if part not in ("", ".", "..")]
    return "/".join(parts) or "_"


def parameter_texts(parameters: Mapping[str, object]) -> dict[str, str]:
    """Parameters as MLflow stores them: flattened, as text, the overlong shortened with a note."""
    return {clean_name(name): shorten(str(value), MAX_PARAMETER_LENGTH) for name, value in flatten(parameters).items()}


def tag_texts(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags as MLflow stores them: as text, the overlong shortened with a note."""
    return {clean_name(name): shorten(str(value), MAX_TAG_LENGTH) for name, value in tags.items()}


def shorten(text: str, limit: int) -> str:
    """`text`, or its beginning and a note of its true length where it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    note = f" ... [cut; {len(text)} characters in all]"
    return text[: limit - len(note)] + note
