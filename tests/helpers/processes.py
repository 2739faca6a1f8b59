"""Child processes as a user starts them: their environment, ports of their own, and waiting for what they do."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

BIN = Path(sys.executable).parent
"""Where the commands of the test's own Python environment are."""
PORTS = range(20_000, 32_000)
"""Below the range from which Linux takes ports of its own accord, above the one from which Ray gives its workers'."""

T = TypeVar("T")


def environment(repository: Path, **variables: str) -> dict[str, str]:
    """The variables of a command that uses this checkout, with the given ones added."""
    return {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1", "COLUMNS": "160", **variables}


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
