"""The scheduler: which running trial is stopped early. Rules are keyed by our run keys, so that they survive."""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import MedianStoppingRule, TrialScheduler

from ctxtune.config import SweepConfig
from ctxtune.tuning.record.journal import RunRecord
from ctxtune.tuning.search.successive_halving import SuccessiveHalving

HYPERBAND_BRACKETS = 3


@dataclass(frozen=True)
class _KeyedTrial:
    """What Ray's rules need of a trial: an identity. Ray's own ids change when a sweep is resumed, our keys do not."""

    trial_id: str


class _NoWaitingTrials:
    """What the median rule asks its controller for: whether another trial waits for the place of this one. None does."""

    def get_live_trials(self) -> list[object]:
        return []


class RungScheduler:
    """Asks a stopping rule, successive halving or Ray's median rule, one for each loss, whether a trial goes on.

    A rule's whole memory is the sequence of reports that it was shown, so `replay` rebuilds the rungs of an earlier
    process exactly. With ``loss.name`` in the space each loss has its own rungs.
    """

    def __init__(self, config: SweepConfig) -> None:
        self._config = config
        self._rules: dict[str, SuccessiveHalving | MedianStoppingRule] = {}

    def decide(self, key: str, loss: str, result: dict[str, Any]) -> str:
        """The rule's decision on one report; a report without the metric decides nothing."""
        metric = self._config.search.objective.metric
        if metric not in result:
            return TrialScheduler.CONTINUE
        if result["epoch"] >= self._config.search_epochs:
            self._show(loss, key, result)
            return TrialScheduler.CONTINUE  # the run ends by itself, and counts as completed
        return self._show(loss, key, result)

    def replay(self, runs: Iterable[RunRecord]) -> list[str]:
        """Show the rules the reports of an earlier process, in their order.

        Returns:
            The keys of running trials that were to be stopped when that process died.
        """
        shown = [
            (order, run, report) for run in runs for order, report in zip(run.order, run.reports, strict=True)
        ]  # fmt: skip
        decisions: dict[str, str] = {}
        running = set()
        for _, run, report in sorted(shown, key=lambda item: item[0]):
            decisions[run.key] = self.decide(run.key, run.spec.trial.loss.name, report.plain())
            if run.state == "running":
                running.add(run.key)
        return [key for key in decisions if key in running and decisions[key] == TrialScheduler.STOP]

    def _show(self, loss: str, key: str, result: dict[str, Any]) -> str:
        rule = self._rule(loss, key)
        if isinstance(rule, SuccessiveHalving):
            stops = rule.stops(key, result["epoch"], result[self._config.search.objective.metric])
            return TrialScheduler.STOP if stops else TrialScheduler.CONTINUE
        return rule.on_trial_result(_NoWaitingTrials(), _KeyedTrial(key), result)  # type: ignore[arg-type]

    def _rule(self, loss: str, key: str) -> SuccessiveHalving | MedianStoppingRule:
        # Hyperband's brackets differ in their grace: each trial belongs to one, by its key.
        settings = self._config.search.scheduler
        bracket = zlib.crc32(key.encode()) % HYPERBAND_BRACKETS if settings.name == "hyperband" else 0
        name = f"{loss}/{bracket}"
        if name not in self._rules:
            self._rules[name] = self._build(bracket)
        return self._rules[name]

    def _build(self, bracket: int) -> SuccessiveHalving | MedianStoppingRule:
        objective, settings = self._config.search.objective, self._config.search.scheduler
        schedule = self._config.search_trial(self._config.trial).schedule
        grace = settings.grace_epochs * settings.reduction_factor**bracket + schedule.head_warmup_epochs
        if settings.name == "median":
            return MedianStoppingRule(
                time_attr="epoch", metric=objective.metric, mode=objective.mode, grace_period=grace
            )
        return SuccessiveHalving(
            mode=objective.mode,
            grace_epochs=min(grace, schedule.epochs),
            max_epochs=schedule.epochs,
            reduction_factor=settings.reduction_factor,
        )


def build_scheduler(config: SweepConfig) -> RungScheduler | None:
    """The scheduler of a search space, if it has one."""
    return None if config.search.scheduler.name == "none" else RungScheduler(config)
