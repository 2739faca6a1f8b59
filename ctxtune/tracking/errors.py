"""Errors of the tracking room."""

from ctxtune.errors import TrackingError


class SpoolFullError(TrackingError):
    """The disk that holds the spool is full: what comes next would be lost, so the sweep must stop and be resumed."""


class Unreachable(Exception):
    """The tracking server cannot take this now; the same request may succeed later. Never leaves this room.

    `answered`: a server is there and had trouble with this very request; others may go through. `waited`: it gave no
    answer in the time that a request has, so that the same request is not worth another try at once.
    """

    def __init__(self, message: str, *, answered: bool = False, waited: bool = False) -> None:
        super().__init__(message)
        self.answered = answered
        self.waited = waited


class ExperimentLost(Unreachable):
    """The tracking server no longer has what it once had, for now at least: look it up again before the next try."""


class Refused(Exception):
    """The tracking server answered and will never take this request. Never leaves this room."""


class RequestTooLarge(Refused):
    """A request is larger than the server, or a proxy before it, takes."""
