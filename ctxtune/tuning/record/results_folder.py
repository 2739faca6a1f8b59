"""The results folder of a sweep or an ablation: who may use it, and what lies in it."""

import json
import math
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import yaml

from ctxtune.config import SweepConfig, TrialFile
from ctxtune.config.paths import leaves
from ctxtune.durable_files import write_durably
from ctxtune.errors import ConfigError, CtxtuneError
from ctxtune.locks import open_lock, try_lock
from ctxtune.redaction import redact_argument
from ctxtune.text import counted
from ctxtune.tracking.spool import spooled_keys
from ctxtune.tuning.record.journal import DiskFullError, Journal, unwritable

Resolved = TypeVar("Resolved", bound=TrialFile)
SWEEP_FILE, ABLATION_FILE = "space.yaml", "ablation.yaml"
SUMMARY_FORMAT = 1
"""Of summary.json: within a format fields are added, never renamed or removed."""
_KINDS = {SWEEP_FILE: "sweep", ABLATION_FILE: "ablation"}
_PIECE = 2**20
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


class UnreadableCheckpoint(CtxtuneError):
    """A checkpoint that is to be kept cannot be read; what else was found stands."""


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

    Attributes:
        journal: what was written down so far.
        begun: whether anything was; a process that was killed before leaves a folder in which there is nothing to resume.

    Raises:
        ConfigError: another process is at work here, or no lock can be had; or there is something and it is not resumed;
            or it is resumed and does not exist, or its file has changed in what matters; or the journal is damaged, or does
            not know what others know of it.
    """

    def __init__(
        self, root: Path, settings: Resolved, *, file: str, may_change: Sequence[str], resume: bool
    ) -> None:  # fmt: skip
        self.path = root / settings.name
        self.kind = _KINDS[file]
        self._may_change = tuple(may_change)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ConfigError(
                f"{self.path}: it, or what it lies in, is no folder; name another with --results"
            ) from None
        self._require_files()
        self._lock = open_lock(self.path / "lock")
        if not try_lock(self._lock):
            raise ConfigError(f"{self.path}: this {self.kind} is running in another process")
        self.file = self.path / file
        for other, kind in _KINDS.items():
            if other != file and (self.path / other).exists():
                raise ConfigError(f"{self.path}: holds a {kind} of this name; name this {self.kind} with --name NAME")
        self.journal = Journal(self.path / "journal.jsonl")
        self.begun = self.journal.events > 0
        self._check_journal()
        if self.begun and not resume:
            raise StartedBefore(
                f"{self.path}: {_a(self.kind)} named {settings.name} was started here before; go on with it by --resume, "
                "start another with --name NAME, or delete the folder"
            )
        if resume and not self.begun and not self.file.exists():
            raise ConfigError(f"{self.path}: there is no {self.kind} to resume; leave out --resume to start it")
        if self.begun:
            self._check_unchanged(settings)
        else:
            text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
            self._write(self.file, text, begun=False)

    def _require_files(self) -> None:
        """Refuse what is no file where we read ours: to open a pipe waits for ever, and a device may have no end."""
        files = [self.path / name for name in ("lock", "journal.jsonl", *_KINDS)]
        wrong = [path for path in files if os.path.lexists(path) and not path.is_file()]
        spooled = self.spool.iterdir() if self.spool.is_dir() else [self.spool] if os.path.lexists(self.spool) else []
        wrong += [path for path in spooled if path == self.spool or not (path.is_file() or path.is_dir())]
        if wrong:
            raise ConfigError(f"{wrong[0]}: not what this {self.kind} would have left there; move it away")

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

    @property
    def summary(self) -> Path:
        """The outcome."""
        return self.path / "summary.json"

    def write_best(self, text: str) -> None:
        """Write `best.yaml`, whole or not at all. Raises DiskFullError."""
        self._write(self.best, text)

    def keep_weights(self, checkpoint: Path) -> None:
        """Copy a checkpoint to `best.pt`, whole or not at all.

        Raises:
            UnreadableCheckpoint: the checkpoint cannot be read.
            DiskFullError: the copy cannot be written.
        """
        try:
            write_durably(self.weights, _pieces(checkpoint))
        except OSError as error:
            raise DiskFullError(unwritable(self.weights, error)) from None

    def write_summary(self, summary: dict[str, object]) -> None:
        """Write the outcome as JSON, with `SUMMARY_FORMAT` as ``format``; numbers that are none become null.

        Raises:
            DiskFullError: it cannot be written; what was there before is unchanged.
        """
        text = json.dumps(_strict({"format": SUMMARY_FORMAT, **summary}), indent=2, default=str, allow_nan=False)
        self._write(self.summary, text)

    def close(self) -> None:
        """Let another process in."""
        self._lock.close()

    def _write(self, path: Path, text: str, *, begun: bool = True) -> None:
        try:
            write_durably(path, [text.encode()])
        except OSError as error:
            raise DiskFullError(unwritable(path, error, begun=begun)) from None

    def _check_journal(self) -> None:
        """That the journal knows every run that tracking or the folder knows.

        Each run is written into the journal before tracking is told of it: what only tracking knows, the journal has lost.
        """
        tracked = spooled_keys(self.spool)
        if not self.begun:
            left = [path.name for path in (self.best, self.weights, self.summary) if path.exists()]
            if tracked or left:
                raise ConfigError(self._lost("no event", [_short(key) for key in tracked] or left))
            return
        sweep_id = self.journal.decisions.sweep_id
        known = {sweep_id, *(f"{sweep_id}/{key}" for key in self.journal.runs)}
        unknown = [_short(key) for key in tracked if key not in known]
        if unknown:
            raise ConfigError(self._lost(counted(len(self.journal.runs), "run"), unknown))

    def _lost(self, found: str, others: list[str]) -> str:
        journal = self.journal.path
        state = "is not there" if not journal.exists() else f"holds {found}"
        names = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        return (
            f"{self.path}: {journal.name} {state}, but this {self.kind} has begun: the folder and its tracking know {names}. "
            "The journal was lost, in whole or in part; gone on with, its runs would be run and tracked a second time. Nothing "
            f"was changed. Restore {journal.name} from a copy and use --resume; or start again under another name (--name "
            "NAME); or delete the folder to start over under this name (what was tracked stays in MLflow)"
        )

    def _check_unchanged(self, settings: Resolved) -> None:
        copy = f"MLflow keeps a copy, the artifact {self.file.name} of the {self.kind}'s own run: put that back"
        if not self.file.exists():
            raise ConfigError(f"{self.file}: is not there, though the journal is, and --resume needs it. {copy}")
        try:
            stored = type(settings).model_validate(yaml.safe_load(self.file.read_text(encoding="utf-8")))
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(
                f"{self.file}: damaged, so that nobody can tell whether this is the same {self.kind} ({_first_line(error)}). "
                f"{copy}, or start again with --name NAME"
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


def sweep_folder(root: Path, config: SweepConfig, *, resume: bool) -> ResultsFolder[SweepConfig]:
    """The folder of a sweep.

    Raises:
        ConfigError: see `ResultsFolder`.
    """
    return ResultsFolder(root, config, file=SWEEP_FILE, may_change=_SWEEP_MAY_CHANGE, resume=resume)


def resume_command(command: str, arguments: list[str]) -> str:
    """What to hand to Python to go on with what ``command`` (such as ``sweep``) started with ``arguments``."""
    kept = [redact_argument(argument) for argument in arguments if argument != "--resume"]
    return f"-m ctxtune.{command} {shlex.join(kept)} --resume"


def _strict(value: object) -> object:
    """Plain data that every reader of JSON takes: NaN is Python's own."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _pieces(checkpoint: Path) -> Iterator[bytes]:
    """The content of a checkpoint. Raises UnreadableCheckpoint."""
    try:
        with checkpoint.open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece
    except OSError as error:
        raise UnreadableCheckpoint(error.strerror or str(error)) from None


def _short(key: str) -> str:
    """A run's key in tracking without that of its sweep."""
    return key.partition("/")[2] or key


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
