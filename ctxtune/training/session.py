"""Driving a run (or the runs of several folds, side by side) to its last epoch, one report at a time."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ctxtune.errors import CtxtuneError
from ctxtune.training.run import Progress, Run


@dataclass(frozen=True)
class Report:
    """What is known after an evaluation interval.

    Attributes:
        metrics: epoch, ``train/...``, ``time/...`` and, where it was scored, ``validation/...`` or ``test/...``.
        state: makes the state to resume from; called only where a checkpoint is wanted.
    """

    metrics: dict[str, float]
    state: Callable[[], dict[str, Any]]


class Session:
    """The runs of one configuration: one, or one a fold, which are then trained in turn and averaged.

    Args:
        runs: at least one, of equal length.
        score_at: "every" evaluation, or only the "last" (confirmations: the test classes are scored once).
        floor: also score the untrained model, as ``floor/...``.
    """

    def __init__(
        self, runs: Sequence[Run], *, score_at: Literal["every", "last"] = "every", floor: bool = False
    ) -> None:
        self.runs = runs
        self.score_at = score_at
        self._floor_wanted = floor
        self._floor: dict[str, float] = {}
        self._seconds_before = 0.0
        self._started = time.perf_counter()

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.runs[0].epoch

    @property
    def epochs(self) -> int:
        """Epochs in all."""
        return self.runs[0].epochs

    def run(self, on_report: Callable[[Report], None], on_epoch: Callable[[Progress], None] | None = None) -> None:
        """Train to the last epoch, with a report after every evaluation interval.

        Raises:
            RunFailed: the run cannot go on, with the reason.
        """
        if self._floor_wanted and not self._floor and self.epoch == 0:
            self._floor = _floor_names(_mean([run.evaluate() for run in self.runs]))
        while self.epoch < self.epochs:
            metrics = _mean([run.advance(on_epoch) for run in self.runs])
            last = self.epoch >= self.epochs
            if last or self.score_at == "every":
                metrics |= _mean([run.evaluate() for run in self.runs])
            if last:
                metrics |= _mean([{"train/recall_at_1": run.train_class_recall()} for run in self.runs]) | self._floor
            metrics |= {"epoch": float(self.epoch), "time/seconds": self.seconds}
            on_report(Report(metrics, self.state_dict))

    @property
    def seconds(self) -> float:
        """Wall seconds of work so far, of earlier processes too."""
        return self._seconds_before + time.perf_counter() - self._started

    def state_dict(self) -> dict[str, Any]:
        """The state to resume from: tensors and plain data only."""
        return {"runs": [run.state_dict() for run in self.runs], "floor": self._floor, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Raises:
            CtxtuneError: it belongs to another configuration, seed or number of folds.
        """
        if len(state["runs"]) != len(self.runs):
            raise CtxtuneError(f"the checkpoint holds {len(state['runs'])} folds, this run has {len(self.runs)}")
        for run, its_state in zip(self.runs, state["runs"], strict=True):
            run.load_state_dict(its_state)
        self._floor = state["floor"]
        self._seconds_before, self._started = state["seconds"], time.perf_counter()

    def close(self) -> None:
        """Let go of data and background readers."""
        for run in self.runs:
            run.close()


def _mean(each: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: sum(metrics[name] for metrics in each) / len(each) for name in each[0]}


def _floor_names(scores: dict[str, float]) -> dict[str, float]:
    return {f"floor/{name.partition('/')[2]}": value for name, value in scores.items()}
