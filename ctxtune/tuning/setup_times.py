"""What runs take beside what they report: their process, their data, their last scores."""

from collections.abc import Iterable
from statistics import median

from ctxtune.tuning.record.journal import RunRecord


class SetupTimes:
    """Seconds of each run that its reports do not tell of: from when it was first seen at work to when it had ended."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, float]] = {}
        self._setups: dict[str, float] = {}

    @property
    def seconds(self) -> float:
        """Of a run in the middle of them; 0 as long as none has ended."""
        return median(self._setups.values()) if self._setups else 0.0

    def watch(self, runs: Iterable[RunRecord], now: float) -> None:
        """Look at the runs; to be called once a second or so, or at every change."""
        for run in runs:
            if run.state == "running":
                self._seen.setdefault(run.key, (now, run.seconds))
            elif run.key in self._seen:
                began, before = self._seen.pop(run.key)
                self._setups[run.key] = max(0.0, now - began - (run.seconds - before))
