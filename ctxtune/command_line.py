"""How every command ends: one message instead of a traceback, and an exit status that scripts can use."""

import argparse
import errno
import os
import platform
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from ctxtune import signals
from ctxtune.consoles import Console, printable_lines
from ctxtune.durable_files import NO_ROOM
from ctxtune.errors import CtxtuneError
from ctxtune.redaction import redact_addresses, redact_argument, without_secrets
from ctxtune.signals import EXIT_INTERRUPTED as EXIT_INTERRUPTED
from ctxtune.standard_streams import (
    EXIT_OUTPUT_LOST,
    EXIT_PIPE_CLOSED,
    guard_streams,
    open_closed_streams,
    status_with_output,
)
from ctxtune.text import shortened, with_short_words

EXIT_STOPPED = 1
EXIT_USER_ERROR = 2
EXIT_INCOMPLETE = 3
"""Done, but tracking has not everything, or a file is missing."""
EXIT_PROGRAM_ERROR = 70
"""EX_SOFTWARE of sysexits.h."""
SWEEP_PACKAGES = ("cmaes", "mlflow", "optuna", "ray", "statsmodels")
"""What the extra `sweep` installs: who wants only losses and scores does without."""
_COMMAND = "-m ctxtune."
"""Of a line to copy, in which nothing may be cut."""
LARGEST_ARGUMENT = 1_000_000_000
_OF_A_PATH = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM,
    errno.EROFS,
}  # fmt: skip
OTHER_EXITS = (
    f"{EXIT_PROGRAM_ERROR} an error that nobody foresaw, its traceback in the log file that the message names; "
    f"{EXIT_OUTPUT_LOST} standard output could not be written; {EXIT_INTERRUPTED} interrupted (Ctrl-C, SIGTERM, SIGHUP); "
    f"{EXIT_PIPE_CLOSED} nobody read the output to its end"
)
"""Of every command."""


def program_name(command: str) -> str:
    """How the user has called a command, for its help: `ctxtune sweep` or `python -m ctxtune.sweep`."""
    called = f"ctxtune {command}"
    return called if sys.argv[0] == called else f"python -m ctxtune.{command}"


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command's body and leave the process.

    Exit status: 0 done; 2 something that the user can correct, said in one message; 70 any other error, said in one message,
    its traceback in a log file; 74 standard output could not be written; 130 interrupted; 141 nobody reads the output.
    """
    warnings.showwarning = _show_warning
    open_closed_streams()
    guard_streams()
    if os.environ.get("COLUMNS", "").strip() == "0":
        del os.environ["COLUMNS"]  # of a terminal that is none; Rich would print lines of no width
    signals.interrupt()
    status, lost = status_with_output(_status(main))
    signals.end_at_once()
    if lost:
        _say(f"error: standard output cannot be written ({lost})")
    sys.exit(status)


def _status(main: Callable[[], int | None]) -> int:
    """Run the body; its exit status, when all is said that is to be said."""
    try:
        return main() or 0
    except SystemExit as left:
        if isinstance(left.code, str):
            _say(left.code)
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    except CtxtuneError as error:
        _say(f"error: {error}")
        return EXIT_USER_ERROR
    except KeyboardInterrupt as interrupt:
        _say(f"interrupted by {interrupt}" if str(interrupt) else "interrupted")
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - whatever it is, the user gets a message and not a traceback
        return _told(error)


def _told(error: Exception) -> int:
    """Say what none of our own messages says; the exit status."""
    if signals.received():  # an import has made another error of it
        _say(f"interrupted by {signals.received()}")
        return EXIT_INTERRUPTED
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in SWEEP_PACKAGES:
        _say(f"error: this needs {error.name}, which is not installed: pip install 'ctxtune[sweep]'")
        return EXIT_USER_ERROR
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        _say(f"error: {error.filename or 'a file'}: {error.strerror}; make room and start again")
        return EXIT_USER_ERROR
    if isinstance(error, OSError) and _about_a_named_file(error):
        _say(f"error: {error.filename}: {error.strerror}")
        return EXIT_USER_ERROR
    _say(_unforeseen(error))
    return EXIT_PROGRAM_ERROR


def _say(text: str) -> None:
    lines = printable_lines(redact_addresses(text)).split("\n")
    lines = [line if _COMMAND in line else with_short_words(line) for line in lines]
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print("\n".join(lines), style="red")


def _about_a_named_file(error: OSError) -> bool:
    """Whether an error is about a file or folder of the command line, or in it, and of a kind that the user can mend."""
    if error.errno not in _OF_A_PATH or not isinstance(error.filename, str):
        return False
    values = [argument.rpartition("=")[2] for argument in sys.argv[1:]]
    about = Path(os.path.abspath(error.filename))  # noqa: PTH100
    return any(value and about.is_relative_to(os.path.abspath(value)) for value in values)  # noqa: PTH100


def _unforeseen(error: Exception) -> str:
    """The message for an error of any kind, its traceback written to a log file."""
    lines = [without_secrets(line) for line in str(error).strip().splitlines()]
    what = shortened(lines[0], 300) if lines else ""
    if isinstance(error, OSError) and error.strerror:
        what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif isinstance(error, MemoryError):
        what = "the memory of this machine is not enough"
    name = "" if isinstance(error, (OSError, MemoryError)) else f"{type(error).__name__}: "
    try:
        where = f"The traceback is in {_log(error)}; a report with that file is welcome."
    except OSError as failure:
        where = f"No log could be written ({failure.strerror or failure})."
    return f"error: {name}{what}\n{where}"


def _log(error: Exception) -> Path:
    """Write what is needed to understand an error, without secrets, into the working directory or the temporary one."""
    command = " ".join(redact_argument(argument) for argument in sys.argv)
    text = "".join(traceback.format_exception(error))
    content = f"{command}\nPython {platform.python_version()}, {platform.platform()}\n\n{without_secrets(text)}"
    name = f"ctxtune-error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    for folder in (Path(), Path(tempfile.gettempdir())):
        try:
            # Nobody but the user may read what a traceback holds.
            handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as failure:
            refused = failure
            continue
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(content)
        return folder / name
    raise refused


def whole_number(text: str) -> int:
    """The type of arguments that count something: beyond what any library takes for a number is a slip.

    Raises:
        argparse.ArgumentTypeError: it is none, or too large.
    """
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number; found {shortened(text)!r}") from None
    if abs(number) > LARGEST_ARGUMENT:
        raise argparse.ArgumentTypeError(f"expected a number of at most {LARGEST_ARGUMENT}; found {shortened(text)!r}")
    return number


def positive_number(text: str) -> int:
    """The type of arguments of which there is at least one.

    Raises:
        argparse.ArgumentTypeError: it is no whole number, too large, or below 1.
    """
    number = whole_number(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1; found {number}")
    return number


def advise(advice: str | None) -> None:
    """Say what a file seldom means, where there is something to say; nothing is changed by it."""
    if advice is not None:
        warnings.warn(advice, stacklevel=2)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning in words, without the line of code that gave it; what libraries say to developers is left out."""
    if not issubclass(category, (DeprecationWarning, FutureWarning, PendingDeprecationWarning)):
        Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(
            f"warning: {redact_addresses(str(message))}", style="yellow"
        )
