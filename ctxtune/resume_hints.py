"""How a command that was stopped, or that was started before, says how to go on."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ctxtune.command_line import EXIT_INTERRUPTED, EXIT_STOPPED
from ctxtune.consoles import Console
from ctxtune.errors import ConfigError
from ctxtune.terminal import program
from ctxtune.tuning.callbacks import SweepStopped
from ctxtune.tuning.record.results_folder import StartedBefore, resume_command


def go_on_with(command: str) -> str:
    """How to go on with this process's sweep or ablation; ``command``: sweep or ablate."""
    return f"go on with: {shlex.quote(program('python'))} {resume_command(command, sys.argv[1:])}"


@contextmanager
def resume_hints_told(command: str, folder: Path) -> Iterator[None]:
    """Run a sweep or an ablation inside.

    Args:
        command: sweep or ablate.
        folder: its results.

    Raises:
        ConfigError: it was started before.
        SystemExit: it was stopped and can be resumed.
    """
    go_on = go_on_with(command)
    try:
        yield
    except StartedBefore as known:
        raise ConfigError(f"{known}\n{go_on}") from None
    except SweepStopped as stopped:
        _tell(f"stopped: {stopped}\n{go_on}")
        raise SystemExit(EXIT_INTERRUPTED if stopped.reason == "interrupted" else EXIT_STOPPED) from None
    except KeyboardInterrupt as interrupt:
        by = f" by {interrupt}" if str(interrupt) else ""
        journal = folder / "journal.jsonl"
        begun = journal.exists() and journal.stat().st_size > 0
        then = f"everything is saved\n{go_on}" if begun else "nothing was started yet; start it again as before"
        _tell(f"interrupted{by}: {then}")
        raise SystemExit(EXIT_INTERRUPTED) from None


def _tell(text: str) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(text)
