"""Standard output and standard error of a command: they may be closed, full, or read by nobody any more."""

import errno
import io
import os
import select
import sys
import threading
from typing import TextIO

EXIT_OUTPUT_LOST = 74
"""EX_IOERR of sysexits.h."""
EXIT_PIPE_CLOSED = 141
"""What a shell reports of a program that wrote to a pipe which nobody reads."""


class _StandardStream(io.FileIO):
    """A standard stream that never raises OSError: what cannot be written is dropped.

    Attributes:
        lost: why it could not be written.
        needed: whether the command ends there and then.
    """

    def __init__(self, descriptor: int, *, needed: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.lost: OSError | None = None
        self.needed = needed

    def write(self, data, /) -> int:  # type: ignore[no-untyped-def,override]  # any buffer
        """Write what can be written.

        Raises:
            SystemExit: it could not be, and the command has no other purpose.
        """
        if self.lost is None:
            try:
                written = super().write(data)
                while written is None:  # a terminal or pipe that somebody else made non-blocking
                    select.select([], [self], [])
                    written = super().write(data)
                return written
            except OSError as error:
                self.lost = error
        if self.needed and threading.current_thread() is threading.main_thread():
            raise SystemExit(_status(self.lost))
        return memoryview(data).nbytes


def open_closed_streams() -> None:
    """Give a standard stream that is closed to /dev/null: the next file that is opened would get its place."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def guard_streams() -> None:
    """Have standard output and standard error take any text, and never raise OSError."""
    sys.stdout, sys.stderr = _guarded(sys.stdout, needed=True), _guarded(sys.stderr, needed=False)


def go_on_without_output() -> None:
    """Whatever happens to standard output from now on, the command goes on: its purpose is another."""
    stream = _raw(sys.stdout)
    if stream is not None:
        stream.needed = False


def status_with_output(status: int) -> tuple[int, str]:
    """What is still to be written is written; a command's status, and why not all of its output was ("" if it was)."""
    stream = _raw(sys.stdout)
    if stream is None:
        return status, ""
    stream.needed = False
    sys.stdout.flush()
    if stream.lost is None:
        return status, ""
    status = status or _status(stream.lost)
    return status, "" if status == EXIT_PIPE_CLOSED else stream.lost.strerror or str(stream.lost)


def _guarded(stream: TextIO, *, needed: bool) -> TextIO:
    """The stream itself where it is none of the system's, as in tests; names may hold what its encoding does not."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    if isinstance(_raw(stream), _StandardStream) or not isinstance(
        getattr(stream.buffer, "raw", stream.buffer), io.FileIO
    ):
        stream.reconfigure(errors="backslashreplace")
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_StandardStream(stream.fileno(), needed=needed)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _raw(stream: TextIO) -> _StandardStream | None:
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, _StandardStream) else None


def _status(lost: OSError) -> int:
    return EXIT_PIPE_CLOSED if lost.errno == errno.EPIPE else EXIT_OUTPUT_LOST
