"""Errors that a user can correct. Commands print their message, without a traceback, and exit with status 2."""

import difflib
from pathlib import Path

NEIGHBORS_NAMED = 12
"""Files that an error names in full."""


class CtxtuneError(Exception):
    """Something the user can correct; the message says what was found, where, and what would be right."""


class ConfigError(CtxtuneError):
    """A YAML file, an override or a combination of settings is wrong."""


def no_such_file(path: Path) -> ConfigError:
    """The error for a YAML file that is missing, with those that lie beside it: of many, those of a like name."""
    try:
        there = sorted(item.name for item in path.parent.iterdir() if item.suffix in {".yaml", ".yml"})
    except OSError:
        there = []
    if len(there) > NEIGHBORS_NAMED:
        there = difflib.get_close_matches(path.name, there, n=3)
    return ConfigError(f"{path}: no such file" + (f"; in {path.parent} there are {', '.join(there)}" if there else ""))


class DataError(CtxtuneError):
    """A data set is missing, unreadable or not in a layout that we know."""


class TrackingError(CtxtuneError):
    """The tracking server or its spool cannot be used."""


class RunFailed(CtxtuneError):
    """One run cannot go on (non-finite loss, collapse, out of memory). The sweep around it does."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.reason, str(self))
