"""The results folder of a sweep or an ablation: who may use it, and what lies in it."""

import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml

from ctxtune.config import SweepConfig, TrialFile
from ctxtune.config.paths import leaves
from ctxtune.errors import ConfigError
from ctxtune.locks import try_lock
from ctxtune.redaction import redact_argument

Resolved = TypeVar("Resolved", bound=TrialFile)
SWEEP_FILE, ABLATION_FILE = "space.yaml", "ablation.yaml"
SUMMARY_FORMAT = 1
"""Of summary.json: within a format fields are added, never renamed or removed."""
_KINDS = {SWEEP_FILE: "sweep", ABLATION_FILE: "ablation"}
_SWEEP_MAY_CHANGE = (
    "search.trials",
    "search.max_concurrent",
    "search.budget",
    "select",
    "confirm",
    "resources",
    "tracking",
)
"""What a resumed sweep may say differently; anything else would make it another sweep."""


class StartedBefore(ConfigError):
    """There is a sweep or ablation of this name, and it was not asked for to be resumed."""


class ResultsFolder(Generic[Resolved]):
    """``results/NAME``: journal, resolved file, tracking spool, checkpoints, outcome. One process at a time.

    Args:
        root: the folder of all results.
        settings: the resolved file.
        file: what it is called in the folder: `SWEEP_FILE` or `ABLATION_FILE`.
        may_change: beginnings of the paths that a resumed run may say differently.
        resume: go on with what lies there.

    Raises:
        ConfigError: another process is at work here; or there is something and it is not resumed; or it is resumed and
            does not exist, or its file has changed in what matters.
    """

    def __init__(
        self, root: Path, settings: Resolved, *, file: str, may_change: Sequence[str], resume: bool
    ) -> None:  # fmt: skip
        self.path = root / settings.name
        self.kind = _KINDS[file]
        self._may_change = tuple(may_change)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = (self.path / "lock").open("w")
        if not try_lock(self._lock):
            raise ConfigError(f"{self.path}: this {self.kind} is running in another process")
        self.file = self.path / file
        for other, kind in _KINDS.items():
            if other != file and (self.path / other).exists():
                raise ConfigError(f"{self.path}: holds a {kind} of this name; name this {self.kind} with --name NAME")
        known = self.file.exists()
        if known and not resume:
            raise StartedBefore(
                f"{self.path}: {_a(self.kind)} named {settings.name} was started here before; go on with it by --resume, "
                "start another with --name NAME, or delete the folder"
            )
        if resume and not known:
            raise ConfigError(f"{self.path}: there is no {self.kind} to resume; leave out --resume to start it")
        if known:
            self._check_unchanged(settings)
        else:
            self.file.write_text(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False), encoding="utf-8")

    @property
    def journal(self) -> Path:
        """The journal."""
        return self.path / "journal.jsonl"

    @property
    def spool(self) -> Path:
        """The tracking spool."""
        return self.path / "spool"

    @property
    def checkpoints(self) -> Path:
        """Where Ray keeps checkpoints, if no other storage is named."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The chosen configuration of a sweep."""
        return self.path / "best.yaml"

    @property
    def weights(self) -> Path:
        """The chosen configuration's checkpoint."""
        return self.path / "best.pt"

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write the outcome as JSON, with `SUMMARY_FORMAT` as ``format``; numbers that are none become null."""
        text = json.dumps(_strict({"format": SUMMARY_FORMAT, **summary}), indent=2, default=str, allow_nan=False)
        (self.path / "summary.json").write_text(text, encoding="utf-8")

    def close(self) -> None:
        """Let another process in."""
        self._lock.close()

    def _check_unchanged(self, settings: Resolved) -> None:
        try:
            stored = type(settings).model_validate(yaml.safe_load(self.file.read_text(encoding="utf-8")))
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(
                f"{self.file}: damaged, so that nobody can tell whether this is the same {self.kind} ({error}); "
                "start again with --name NAME"
            ) from None
        before, now = (dict(leaves(each.model_dump(mode="json"))) for each in (stored, settings))
        changed = sorted(
            path
            for path in before.keys() | now.keys()
            if before.get(path) != now.get(path) and not path.startswith(self._may_change)
        )
        if changed:
            path = changed[0]
            allowed = ", ".join(self._may_change)
            raise ConfigError(
                f"{self.path}: the {self.kind} was started with {path} = {before.get(path)!r}, now it is "
                f"{now.get(path)!r}; resumed, it may change only {allowed}. Start a new one with --name NAME"
            )


def sweep_folder(root: Path, space: SweepConfig, *, resume: bool) -> ResultsFolder[SweepConfig]:
    """The folder of a sweep.

    Raises:
        ConfigError: see `ResultsFolder`.
    """
    return ResultsFolder(root, space, file=SWEEP_FILE, may_change=_SWEEP_MAY_CHANGE, resume=resume)


def resume_command(command: str, arguments: list[str]) -> str:
    """What to hand to Python to go on with what ``command`` (such as ``sweep``) started with ``arguments``."""
    kept = [redact_argument(argument) for argument in arguments if argument != "--resume"]
    return f"-m ctxtune.{command} {shlex.join(kept)} --resume"


def _strict(value: Any) -> Any:
    """Plain data that every reader of JSON takes: NaN is Python's own."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
