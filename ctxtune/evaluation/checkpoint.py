"""Checkpoints of `ctxtune.train` and of a sweep's runs, with the configuration and the folds they belong to."""

import copy
import json
import os
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ctxtune.checked_lines import DamagedLine, unsealed
from ctxtune.config import TrialSettings
from ctxtune.config.paths import Location
from ctxtune.config.source import Source, apply_overrides
from ctxtune.data import ValidationSettings
from ctxtune.error_messages import in_words
from ctxtune.errors import ConfigError, CtxtuneError
from ctxtune.models import EmbeddingModel
from ctxtune.training import CheckpointFolder, load_checkpoint
from ctxtune.training.checkpoints import STATE_FILE
from ctxtune.training.restoring import restored_model
from ctxtune.yaml_text import Tree

FIXED_BLOCKS = ("model", "loss", "regularizer", "sampler", "optimizer", "schedule")
RESULT_FILE = "result.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint and what is known of the run that wrote it.

    `runs`: the state of each of its runs (one a fold). `all_classes`: whether it was trained on all train classes, as the
    confirmation of a sweep is, and so has no validation fold.
    """

    path: Path
    trial: TrialSettings
    validation: ValidationSettings
    runs: list[Tree]
    folds: tuple[int, ...]
    all_classes: bool

    @property
    def epoch(self) -> int:
        """Epochs trained."""
        return int(self.runs[0]["epoch"])


def read_checkpoint(
    path: Path, overrides: list[str], data: list[str] | None = None, fold: int | None = None
) -> Checkpoint:
    """Read a checkpoint, its configuration, and, where it lies in a sweep's folder, which classes it was scored on.

    Raises:
        CtxtuneError: no file, no checkpoint, or a setting that cannot be.
    """
    state, path = _read_state(path)
    runs = state.get("runs")
    if not isinstance(runs, list) or not runs or not all(map(_is_run, runs)) or not _is_protocol(state.get("protocol")):
        raise CtxtuneError(f"{path}: not a checkpoint of ctxtune.train or of a sweep: it holds no runs")
    # Checkpoints of before carried no protocol: the journal of the sweep around them knows it.
    recipe = dict(state.get("protocol") or {}) or _asked_by_sweep(path)
    validation = recipe.get("validation") or ValidationSettings().model_dump(mode="json")
    if recipe.get("folds"):
        validation["use"] = recipe["folds"]
    elif len(runs) > 1:
        validation["use"] = list(range(len(runs)))
    trial, validated = _settings(path, runs[0]["config"], validation, overrides, data)
    all_classes = recipe.get("stage") == "confirmation" and not recipe.get("folds")
    checkpoint = Checkpoint(path, trial, validated, runs, validated.use, all_classes)
    if len(runs) != len(validated.use):
        raise ConfigError(
            f"{path} holds {len(runs)} run(s), but validation.use names {len(validated.use)} fold(s); say which with "
            "--set validation.use=[...]"
        )
    if fold is None:
        return checkpoint
    if fold not in validated.use:
        raise ConfigError(f"--fold {fold}: {path} holds the fold(s) {', '.join(map(str, validated.use))}")
    return replace(checkpoint, runs=[runs[validated.use.index(fold)]], folds=(fold,))


def _is_run(run: Any) -> bool:
    """Whether a run of a checkpoint has the form of one."""
    kinds = {"config": dict, "model": object, "epoch": int}
    return isinstance(run, dict) and all(key in run and isinstance(run[key], kind) for key, kind in kinds.items())


def _is_protocol(protocol: Any) -> bool:
    """Whether what a checkpoint says of how it was scored has the form of that; none is said by old ones."""
    if protocol is None:
        return True
    return isinstance(protocol, dict) and isinstance(protocol.get("validation") or {}, dict)


def restore_model(checkpoint: Checkpoint, index: int = 0) -> EmbeddingModel:
    """The embedding model of a checkpoint's run, on the CPU.

    Pretrained weights are fetched only where a part of them was frozen, and so is in no checkpoint.

    Raises:
        CtxtuneError: the stored weights do not fit the stored configuration, or what was frozen is not here as it was.
    """
    try:
        return restored_model(checkpoint.trial, {"runs": checkpoint.runs}, index)
    except ConfigError:
        raise
    except CtxtuneError as error:
        raise CtxtuneError(f"{checkpoint.path}: {error}") from None


def check_one_model(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint that holds a model for each of several folds. Raises ConfigError."""
    if len(checkpoint.runs) > 1:
        folds = ", ".join(map(str, checkpoint.folds))
        raise ConfigError(f"{checkpoint.path} holds a model for each of the folds {folds}; choose one with --fold")


def one_model(checkpoint: Checkpoint) -> EmbeddingModel:
    """The embedding model of a checkpoint that holds one. Raises as `check_one_model` and `restore_model` do."""
    check_one_model(checkpoint)
    return restore_model(checkpoint)


@dataclass(frozen=True)
class Record:
    """What `ctxtune.train` wrote beside a checkpoint: the metrics of its epoch, and the device they were taken on."""

    metrics: dict[str, float]
    device: str


def recorded_scores(checkpoint: Checkpoint) -> Record:
    """What result.json says of the epoch of this checkpoint; without metrics where there is none."""
    try:
        result = json.loads((checkpoint.path.parent / RESULT_FILE).read_text(encoding="utf-8"))
        history = {metrics["epoch"]: metrics for metrics in result["history"]}
        return Record(dict(history.get(checkpoint.epoch, {})), str(result["device"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Record({}, "")


def _read_state(path: Path) -> tuple[Tree, Path]:
    if os.path.isfile(path) and not zipfile.is_zipfile(path):  # noqa: PTH113  # Path raises for long names
        raise CtxtuneError(f"{path}: not a checkpoint")
    if not os.path.isdir(path):  # noqa: PTH112
        return load_checkpoint(path), path
    if (path / STATE_FILE).is_file():
        return load_checkpoint(path / STATE_FILE), path / STATE_FILE
    folder = CheckpointFolder(path)
    newest = folder.load_newest()
    if newest is None:
        raise CtxtuneError(f"{path}: the folder holds no checkpoint ({STATE_FILE} or epoch-NNNNN.pt)")
    return newest, folder.paths()[-1]


def _asked_by_sweep(path: Path) -> Tree:
    """What the journal of the sweep around a checkpoint says of its run; nothing for a run that is of no sweep."""
    parents = path.absolute().parents
    journal = next((each / "journal.jsonl" for each in parents if (each / "journal.jsonl").is_file()), None)
    if journal is None:
        return {}
    return _asked(journal, {each.name for each in parents})


def _asked(journal: Path, keys: set[str]) -> Tree:
    """The spec of the run with one of these keys; nothing where the journal knows none of them.

    Raises:
        CtxtuneError: it may be in a line that is damaged.
    """
    damaged = ""
    checked = False
    *lines, _torn = journal.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            text, has_checksum = unsealed(line, number, checked=checked)
            event = json.loads(text)
            checked = checked or (has_checksum and event["event"] == "format")
            if event["event"] == "asked" and event["key"] in keys:
                return dict(event["spec"])
        except (DamagedLine, ValueError, KeyError, TypeError) as error:
            damaged = damaged or f"{journal}:{number}: damaged ({error})"
    if damaged:
        raise CtxtuneError(
            f"{damaged}, and no other line says on which classes this checkpoint was scored; evaluate a copy of it outside of "
            "the sweep's folder, with --set validation.use=[...]"
        )
    return {}


def _settings(
    path: Path, trial: Tree, validation: Tree, overrides: list[str], data: list[str] | None
) -> tuple[TrialSettings, ValidationSettings]:
    """The stored settings with what the command line says on top."""
    source = Source(path, copy.deepcopy({"trial": trial, "validation": validation}), {(): str(path)})
    if data is not None:
        kept = trial["dataset"] if data[0] == trial["dataset"]["name"] else {}
        root = None if data[1] == "-" else str(Path(data[1]).expanduser().absolute())
        source.data["trial"]["dataset"] = {**kept, "name": data[0], "root": root}
    apply_overrides(source, overrides)
    changed: Any = source.data["trial"]
    if not isinstance(changed, dict):
        raise source.error(("trial",), f"expected a block of keys; found {changed!r}")
    for block in FIXED_BLOCKS:
        if source.data["trial"].get(block) != trial.get(block):
            raise ConfigError(
                f"--set trial.{block}...: the checkpoint was made with its own {block}; that cannot change"
            )
    if set(source.data) != {"trial", "validation"}:
        raise ConfigError("--set: paths begin with trial. or validation., for example trial.dataset.root=DIR")
    problems = []
    for block, model in (("trial", TrialSettings), ("validation", ValidationSettings)):
        try:
            source.data[block] = model.model_validate(source.data[block])
        except ValidationError as error:
            for item in error.errors():
                location: Location = (block, *item["loc"])
                problems.append(str(source.error(location, in_words([item], source.written.get(location)))))
    if problems:
        raise ConfigError("\n".join(problems))
    return source.data["trial"], source.data["validation"]
