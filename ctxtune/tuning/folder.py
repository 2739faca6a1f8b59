"""The results folder of a sweep: who may use it, and what lies in it."""

import fcntl
import json
import shlex
from pathlib import Path
from typing import Any

import yaml

from ctxtune.config import SearchSpace
from ctxtune.config.paths import leaves
from ctxtune.errors import ConfigError

_MAY_CHANGE = ("search.trials", "search.max_concurrent", "search.budget", "select", "confirm", "resources", "tracking")
"""What a resumed sweep may say differently; anything else would make it another sweep."""


class SweepFolder:
    """``results/NAME``: journal, resolved space, tracking spool, checkpoints, outcome. One process at a time.

    Raises:
        ConfigError: another process is at work here; or the sweep exists and is not resumed; or is resumed and does not
            exist, or its file has changed in what matters.
    """

    def __init__(self, root: Path, space: SearchSpace, *, resume: bool) -> None:
        self.path = root / space.name
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = (self.path / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"{self.path}: this sweep is running in another process") from None
        known = self.space_file.exists()
        if known and not resume:
            raise ConfigError(
                f"{self.path}: a sweep named {space.name} was started here before; go on with it by --resume, start another "
                "with --name NAME, or delete the folder"
            )
        if resume and not known:
            raise ConfigError(f"{self.path}: there is no sweep to resume; leave out --resume to start it")
        if known:
            self._check_unchanged(space)
        else:
            self.space_file.write_text(yaml.safe_dump(space.model_dump(mode="json"), sort_keys=False), encoding="utf-8")

    @property
    def space_file(self) -> Path:
        """The resolved search space."""
        return self.path / "space.yaml"

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
        """The chosen configuration."""
        return self.path / "best.yaml"

    @property
    def weights(self) -> Path:
        """The chosen configuration's checkpoint."""
        return self.path / "best.pt"

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write the outcome as JSON."""
        (self.path / "summary.json").write_text(json.dumps(summary, indent=2, default=str), encoding="utf-8")

    def close(self) -> None:
        """Let another process in."""
        self._lock.close()

    def _check_unchanged(self, space: SearchSpace) -> None:
        try:
            stored = SearchSpace.model_validate(yaml.safe_load(self.space_file.read_text(encoding="utf-8")))
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(
                f"{self.space_file}: damaged, so that nobody can tell whether this is the same sweep ({error}); "
                "start again with --name NAME"
            ) from None
        before, now = (dict(leaves(each.model_dump(mode="json"))) for each in (stored, space))
        changed = sorted(
            path
            for path in before.keys() | now.keys()
            if before.get(path) != now.get(path) and not path.startswith(_MAY_CHANGE)
        )
        if changed:
            path = changed[0]
            raise ConfigError(
                f"{self.path}: the sweep was started with {path} = {before.get(path)!r}, now it is {now.get(path)!r}; a "
                "resumed sweep may change only trials, budget, select, confirm, resources and tracking. Start a new one "
                "with --name NAME"
            )


def resume_command(arguments: list[str]) -> str:
    """What to hand to Python to go on with the sweep that was started with ``arguments``."""
    kept = [argument for argument in arguments if argument != "--resume"]
    return f"-m ctxtune.sweep {shlex.join(kept)} --resume"
