"""Child processes as a user starts them: their environment, ports of their own, and waiting for what they do."""

from __future__ import annotations

import contextlib
import io
import os
import random
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

BIN = Path(sys.executable).parent
"""Where the commands of the test's own Python environment are."""
PORTS = range(20_000, 32_000)
"""Below the range from which Linux takes ports of its own accord, above the one from which Ray gives its workers'."""

PATIENCE = 600.0
"""Seconds after which a child hangs, however slow and busy the machine is."""

T = TypeVar("T")


def environment(repository: Path, **variables: str) -> dict[str, str]:
    """The variables of a command that uses this checkout, with the given ones added."""
    return {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1", "COLUMNS": "160", **variables}


def run_here(main: Callable[[], int | None], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command's ``main`` in this process, which has imported everything already: for what ends before Ray is asked."""
    from ctxtune.command_line import run_command

    before, argv, variables = Path.cwd(), sys.argv, dict(os.environ)
    output, errors, status = io.StringIO(), io.StringIO(), 0
    try:
        os.chdir(folder)
        os.environ["COLUMNS"] = "160"
        sys.argv = [main.__module__, *arguments]
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors), warnings.catch_warnings():
            run_command(main)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    finally:
        os.chdir(before)
        sys.argv = argv
        os.environ.clear()
        os.environ.update(variables)
    return subprocess.CompletedProcess([main.__module__, *arguments], status, output.getvalue(), errors.getvalue())


def free_port() -> int:
    """A port of the loopback on which nothing listens, chosen at random so that two processes do not get the same."""
    while True:
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", random.SystemRandom().choice(PORTS)))
            return int(listener.getsockname()[1])


def listens(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def wait_for(condition: Callable[[], T], seconds: float, what: str, step: float = 0.05) -> T:
    """The first true value of ``condition()``.

    Raises:
        TimeoutError: it was false for so long.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(step)
    raise TimeoutError(f"{what}: not within {seconds:.0f} s")


def command_lines() -> list[str]:
    """Of all processes of this machine whose command line can be read."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found
