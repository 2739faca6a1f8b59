"""What was run: the configuration that the arms of an ablation share, and in what several studies differ."""

from collections.abc import Mapping, Sequence
from typing import Any

from ctxtune.errors import TrackingError
from ctxtune.reporting.ablation.data import AblationData
from ctxtune.reporting.document import Table
from ctxtune.reporting.study import Study, read_file
from ctxtune.results.formatting import MISSING, setting
from ctxtune.yaml_text import Tree

_NOT_COMPARED = ("name", "tracking", "resources", "based_on", "max_concurrent")
_LEFT_OUT = ("root",)
"""Where data lies on the machine that it was run on."""


def setup_table(data: AblationData) -> Table | None:
    """The base configuration block by block, validation and tuning; None where the file is not among the artifacts."""
    tree = _file(data.study)
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


def differing_table(studies: Sequence[Study]) -> Table | None:
    """The settings that are not the same in all of several sweeps or ablations; None where nothing differs.

    What `--compare` puts side by side may differ in more than what it is about: epochs, trials, seeds.
    """
    trees = [dict(_leaves(_file(study))) for study in studies]
    paths = [
        path
        for path in dict.fromkeys(path for tree in trees for path in tree)
        if path.partition(".")[0] not in _NOT_COMPARED
    ]
    rows = [
        [path, *(_short(tree[path]) if path in tree else MISSING for tree in trees)]
        for path in paths
        if len({str(tree.get(path)) for tree in trees}) > 1
    ]
    header = ["setting", *(study.name for study in studies)]
    caption = "Settings that are not the same; more than one of them may be why results differ."
    return Table("differing", caption, header, rows, texts=header[1:]) if rows else None


def _file(study: Study) -> Tree:
    try:
        tree = read_file(study, "space.yaml" if study.parent.kind == "sweep" else "ablation.yaml")
    except TrackingError:
        return {}
    return tree if isinstance(tree, dict) else {}


def _listed(block: Mapping[str, object]) -> str:
    return ", ".join(f"{path} {_short(value)}" for path, value in _leaves(block))


def _leaves(tree: Mapping[str, object], above: str = "") -> list[tuple[str, object]]:
    found: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found += _leaves(value, f"{above}{key}.")
        elif value is not None and value != [] and key not in _LEFT_OUT:
            found.append((f"{above}{key}", value))
    return found


def _short(value: object) -> str:
    return "[" + ", ".join(map(_short, value)) + "]" if isinstance(value, list | tuple) else setting(value)
