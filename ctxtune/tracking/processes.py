"""Processes of tracking's own, so that neither MLflow's imports nor its requests cost their caller time or memory."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import ctxtune

_set_here: dict[str, str] = {}
"""The variables that this process has put into its own environment."""


def set_defaults(variables: Mapping[str, str]) -> None:
    """Set environment variables of this process that its user has not set; the values may differ from call to call."""
    for name, value in variables.items():
        if name not in os.environ or os.environ[name] == _set_here.get(name):
            os.environ[name] = _set_here[name] = value


def tracking_command(*arguments: str) -> list[str]:
    """`python -m ctxtune.tracking ARGUMENTS`, with this Python."""
    return [sys.executable, "-m", "ctxtune.tracking", *arguments]


def process_environment() -> dict[str, str]:
    """The environment in which such a process finds the same ctxtune."""
    environment = {name: value for name, value in os.environ.items() if value != _set_here.get(name)}
    source = Path(ctxtune.__file__).resolve().parents[1]
    # ctxtune may have been found by the working directory
    if source.name not in ("site-packages", "dist-packages"):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(source), environment.get("PYTHONPATH")]))
    return environment
