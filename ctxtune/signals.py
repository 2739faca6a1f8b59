"""Signals end a command with one line and a status, from its first import to its last."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

EXIT_INTERRUPTED = 130
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Ctrl-C, what ends a process, and a terminal that is closed."""
AGAIN_SECONDS = 0.05
_HAS_TIMER = hasattr(signal, "setitimer")
"""Not on Windows: there a signal is raised at once."""
_received: list[str] = []


class Interrupted(KeyboardInterrupt):  # as its base, which by itself Python answers by ending with SIGINT
    """A signal has come; its name is the message."""


def _is_command() -> bool:
    """Whether this process is one of our commands: `python -m ctxtune.NAME`, whose package is being imported, or `ctxtune`."""
    if sys.argv[:1] == ["-m"]:  # until Python has found the module that it is to run
        named = sys.orig_argv[-len(sys.argv)].removeprefix("-m")
        return named.partition(".")[0] == "ctxtune"
    return [os.path.basename(name) for name in sys.argv[:1]] == ["ctxtune"]  # noqa: PTH119  # pathlib takes time to import


_OURS = _is_command()


def end_at_once() -> None:
    """From now on a signal ends a command by one line, and nothing else is done: nothing was begun, or all is done.

    Signals of a program that only imports the package are its own.
    """
    if _received:
        _raise_again(0)
    for number in ending_signals() if _OURS else ():
        signal.signal(number, _end)


def need_working_directory() -> None:
    """End a command whose working directory was deleted: torch ends a process there while it is imported, by a wrong reason."""
    try:
        os.getcwd()  # noqa: PTH109  # pathlib takes time to import
    except FileNotFoundError:
        if _OURS:
            with suppress(OSError):  # nobody to tell
                os.write(2, b"error: the working directory was deleted; change into one that is there\n")
            os._exit(2)


def interrupt() -> None:
    """From now on a signal raises Interrupted with its name: what was begun is closed in order."""
    _received.clear()
    sys.unraisablehook = _raised_where_nothing_can_be
    if _HAS_TIMER:
        signal.signal(signal.SIGALRM, _again)
    for number in ending_signals():
        signal.signal(number, _interrupt)


@contextmanager
def signals_for_this_process() -> Iterator[None]:
    """Start a process that this one ends itself: Ctrl-C and a closed terminal, which every process is told, are not for it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_signals_to_parent() -> None:
    """In a forked process, which its parent ends by SIGTERM: Ctrl-C and a closed terminal are told to all, and not for it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def received() -> str | None:
    """The name of the signal that has interrupted this command, if one has: an import may make another error of it."""
    return _received[-1] if _received else None


def ending_signals() -> tuple[signal.Signals, ...]:
    """The signals that end this process: Ctrl-C, SIGTERM, and SIGHUP unless it was started by nohup."""
    return tuple(
        number for number in ENDING if number.name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN
    )


def _end(number: int, frame: FrameType | None) -> None:
    _leave("" if _received else signal.Signals(number).name)


def _leave(name: str) -> NoReturn:
    if name:
        with suppress(OSError):  # nobody to tell
            os.write(2, f"interrupted by {name}\n".encode())
    os._exit(EXIT_INTERRUPTED)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _received.append(signal.Signals(number).name)
    if _OURS and len(_received) > 1 and _importing(frame):
        _leave(_received[0])
    _again(number, frame)


def _again(number: int, frame: FrameType | None) -> None:
    """Raise, once no module is being imported: libraries in C++ end the process where an import raises what they expect not."""
    if _HAS_TIMER and _importing(frame):
        _raise_again(AGAIN_SECONDS)
    elif _received:
        raise Interrupted(_received[-1])


def _raise_again(seconds: float) -> None:
    """After so long; 0: no more."""
    if _HAS_TIMER:
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _raised_where_nothing_can_be(unraisable: "sys.UnraisableHookArgs") -> None:
    """An interrupt that met a destructor is lost there: it is raised again a moment later."""
    if isinstance(unraisable.exc_value, Interrupted):
        _raise_again(AGAIN_SECONDS)
    else:
        sys.__unraisablehook__(unraisable)
