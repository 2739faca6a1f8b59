"""Processes of tracking's own, so that neither MLflow's imports nor its requests cost their caller time or memory."""

import os
import sys
from pathlib import Path

import ctxtune


def tracking_command(*arguments: str) -> list[str]:
    """`python -m ctxtune.tracking ARGUMENTS`, with this Python."""
    return [sys.executable, "-m", "ctxtune.tracking", *arguments]


def process_environment() -> dict[str, str]:
    """The environment in which such a process finds the same ctxtune."""
    environment = dict(os.environ)
    source = Path(ctxtune.__file__).resolve().parents[1]
    # ctxtune may have been found by the working directory
    if source.name not in ("site-packages", "dist-packages"):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(source), environment.get("PYTHONPATH")]))
    return environment
