"""What the arms of an ablation share: the configuration that each changes, and how it was tuned and judged."""

from collections.abc import Mapping
from typing import Any

from ctxtune.errors import TrackingError
from ctxtune.reporting.ablation_data import AblationData
from ctxtune.reporting.document import Table
from ctxtune.reporting.numbers import setting
from ctxtune.reporting.study import read_file

_LEFT_OUT = ("root",)
"""Where data lies on the machine that it was run on."""


def setup_table(data: AblationData) -> Table | None:
    """The base configuration block by block, validation and tuning; None where the file is not among the artifacts."""
    try:
        tree = read_file(data.study, "ablation.yaml")
    except TrackingError:
        return None
    trial = tree.get("trial", {})
    plain = {key: value for key, value in trial.items() if not isinstance(value, Mapping)}
    blocks = {key: value for key, value in trial.items() if isinstance(value, Mapping)}
    blocks |= {"validation": tree.get("validation") or {}, "tuning": tree.get("tune_each") or {}}
    rows = [(name, _listed(block)) for name, block in [*blocks.items(), ("training", plain)] if _listed(block)]
    whole = {**trial, "validation": blocks["validation"], "tuning": blocks["tuning"]}
    if not rows:
        return None
    records = [{"setting": path, "value": value} for path, value in _leaves(whole)]
    return Table(
        "setup", "What all arms have, but for what each changes.", ["block", "settings"], rows, records, left=2
    )


def _listed(block: Mapping[str, Any]) -> str:
    return ", ".join(f"{path} {_short(value)}" for path, value in _leaves(block))


def _leaves(tree: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found += _leaves(value, f"{above}{key}.")
        elif value is not None and value != [] and key not in _LEFT_OUT:
            found.append((f"{above}{key}", value))
    return found


def _short(value: Any) -> str:
    return "[" + ", ".join(map(_short, value)) + "]" if isinstance(value, list | tuple) else setting(value)
