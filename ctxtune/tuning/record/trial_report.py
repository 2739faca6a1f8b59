"""What a run tells the driver: the scores of an epoch, or why it cannot go on.

Workers send a report through Ray as a flat mapping, for Ray's schedulers look for epoch and metric at its top; `plain` makes
that mapping and `read_report` is the one place that takes it apart.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ctxtune.retrieved_images import ShownQuery, from_json, to_json
from ctxtune.training.by_class import ClassSums

EPOCH, _FAILURE, _MESSAGE, _BY_CLASS, _SHOWN = "epoch", "failure", "message", "by_class", "shown_queries"
DISK_FULL, NO_GPU = "disk_full", "no_gpu"
MACHINE_FAILURES = {DISK_FULL: "a disk is full or cannot be written", NO_GPU: "a GPU cannot be used"}
"""Failures of a machine, by reason: they stop the sweep, not the run."""


@dataclass(frozen=True)
class TrialReport:
    """The scores of one epoch.

    Attributes:
        epoch: epochs trained so far.
        metrics: by name, such as ``train/loss`` and ``validation/map_at_r``; finite values only.
        by_class: what each class adds to the scores, at the end of runs that keep that.
        shown: what is retrieved for a few queries, with pictures, at the end of runs that keep that.
    """

    epoch: int
    metrics: dict[str, float]
    by_class: ClassSums | None = None
    shown: tuple[ShownQuery, ...] = ()

    def plain(self) -> dict[str, Any]:
        """The report as it travels."""
        by_class = {} if self.by_class is None else {_BY_CLASS: self.by_class}
        shown = {_SHOWN: to_json(self.shown)} if self.shown else {}
        return {EPOCH: float(self.epoch), **self.metrics, **by_class, **shown}


@dataclass(frozen=True)
class TrialFailure:
    """A run cannot go on.

    Attributes:
        epoch: epochs trained before.
        reason: a short code, such as ``non_finite`` or one of `MACHINE_FAILURES`.
        message: for the user.
    """

    epoch: int
    reason: str
    message: str

    def plain(self) -> dict[str, Any]:
        """The failure as it travels."""
        return {EPOCH: float(self.epoch), _FAILURE: self.reason, _MESSAGE: self.message}


def tells_failure(result: Mapping[str, object]) -> bool:
    """Whether what came through Ray is a `TrialFailure`."""
    return _FAILURE in result


def read_report(result: Mapping[str, Any]) -> TrialReport | TrialFailure:
    """What came through Ray as a run sent it, without Ray's own entries (pid, hostname, timestamps, config)."""
    epoch = int(result[EPOCH])
    if tells_failure(result):
        return TrialFailure(epoch, str(result[_FAILURE]), str(result[_MESSAGE]))
    metrics = {name: float(value) for name, value in result.items() if _is_metric(name, value)}
    shown = from_json(result[_SHOWN]) if _SHOWN in result else ()
    return TrialReport(epoch, metrics, result.get(_BY_CLASS), shown)


def _is_metric(name: str, value: Any) -> bool:
    if "/" not in name or name.startswith("config/"):
        return False
    return isinstance(value, (int, float)) and math.isfinite(value)
