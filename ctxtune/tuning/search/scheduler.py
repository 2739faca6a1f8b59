"""The scheduler: which running trial is stopped early. Rules go by our run keys, so that they survive a resume."""

import zlib
from collections.abc import Sequence
from typing import Any, Protocol

from ctxtune.config import SweepConfig
from ctxtune.tuning.record.journal import RunRecord
from ctxtune.tuning.search.median_stopping import MedianStopping
from ctxtune.tuning.search.successive_halving import SuccessiveHalving

HYPERBAND_BRACKETS = 3


class StoppingRule(Protocol):
    """What decides by the reports that it was shown, and by nothing else."""

    def stops(self, key: str, epoch: float, score: float) -> bool:
        """Whether a trial stops with this report."""


class Scheduler:
    """Asks a stopping rule, one for each loss, whether a trial goes on.

    A rule's whole memory is the sequence of reports that it was shown, so `replay` rebuilds the rungs of an earlier
    process exactly. With ``loss.name`` in the space each loss has its own rungs.
    """

    def __init__(self, config: SweepConfig) -> None:
        self._config = config
        self._rules: dict[str, StoppingRule] = {}

    def stops(self, key: str, loss: str, result: dict[str, Any]) -> bool:
        """The rule's decision on one report; a report without the metric decides nothing."""
        metric, epoch = self._config.search.objective.metric, result["epoch"]
        if metric not in result:
            return False
        poor = self._rule(loss, key).stops(key, epoch, result[metric])
        return poor and epoch < self._config.search_epochs  # at the last one it ends by itself, and counts as completed

    def replay(self, runs: Sequence[RunRecord]) -> list[str]:
        """Show the rules the reports of an earlier process, in their order.

        Returns:
            The keys of running trials that were to be stopped when that process died.
        """
        shown = [
            (order, run, report) for run in runs for order, report in zip(run.order, run.reports, strict=True)
        ]  # fmt: skip
        last: dict[str, bool] = {}
        for _, run, report in sorted(shown, key=lambda item: item[0]):
            last[run.key] = self.stops(run.key, run.spec.trial.loss.name, report.plain())
        return [run.key for run in runs if run.state == "running" and last.get(run.key)]

    def _rule(self, loss: str, key: str) -> StoppingRule:
        # Hyperband's brackets differ in their grace: each trial belongs to one, by its key.
        settings = self._config.search.scheduler
        bracket = zlib.crc32(key.encode()) % HYPERBAND_BRACKETS if settings.name == "hyperband" else 0
        name = f"{loss}/{bracket}"
        if name not in self._rules:
            self._rules[name] = self._build(bracket)
        return self._rules[name]

    def _build(self, bracket: int) -> StoppingRule:
        objective, settings = self._config.search.objective, self._config.search.scheduler
        schedule = self._config.search_trial(self._config.trial).schedule
        grace = settings.grace_epochs * settings.reduction_factor**bracket + schedule.head_warmup_epochs
        if settings.name == "median":
            return MedianStopping(mode=objective.mode, grace_epochs=grace)
        return SuccessiveHalving(
            mode=objective.mode,
            grace_epochs=min(grace, schedule.epochs),
            max_epochs=schedule.epochs,
            reduction_factor=settings.reduction_factor,
        )


def build_scheduler(config: SweepConfig) -> Scheduler | None:
    """The scheduler of a search space, if it has one."""
    return None if config.search.scheduler.name == "none" else Scheduler(config)
