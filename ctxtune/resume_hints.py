"""How a command that was stopped, or that was started before, says how to go on."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from ctxtune.command_line import EXIT_INTERRUPTED, EXIT_STOPPED
from ctxtune.errors import ConfigError
from ctxtune.terminal import program
from ctxtune.tuning.callbacks import SweepStopped
from ctxtune.tuning.record.results_folder import StartedBefore, resume_command


@contextmanager
def resume_hints_told(command: str) -> Iterator[None]:
    """Run a sweep or an ablation inside.

    Args:
        command: sweep or ablate.

    Raises:
        ConfigError: it was started before.
        SystemExit: it was stopped and can be resumed.
    """
    go_on = f"go on with: {program('python')} {resume_command(command, sys.argv[1:])}"
    try:
        yield
    except StartedBefore as known:
        raise ConfigError(f"{known}\n{go_on}") from None
    except SweepStopped as stopped:
        errors = Console(stderr=True, soft_wrap=True, highlight=False)
        errors.print(f"stopped: {stopped}\n{go_on}", markup=False)
        raise SystemExit(EXIT_INTERRUPTED if stopped.reason == "interrupted" else EXIT_STOPPED) from None
