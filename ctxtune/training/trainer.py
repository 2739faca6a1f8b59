"""Driving a run (or the runs of several folds, side by side) to its last epoch, one report at a time."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ctxtune.errors import CtxtuneError
from ctxtune.retrieved_images import ShownQuery
from ctxtune.training.by_class import ClassSums, joined
from ctxtune.training.checkpoints import State
from ctxtune.training.evaluating import Evaluation
from ctxtune.training.fold_trainer import FoldTrainer
from ctxtune.training.progress import Progress

BEST_BY = "validation/map_at_r"
"""The score that says which checkpoint is kept as the best."""


@dataclass(frozen=True)
class Report:
    """What is known after an evaluation interval.

    Attributes:
        metrics: epoch, ``train/...``, ``time/...`` and, where it was scored, ``validation/...`` or ``test/...``.
        state: makes the state to resume from; called only where a checkpoint is wanted.
        best: whether the validation score is the best so far (for information; what counts is the last epoch's).
        by_class: what each class adds to the last scores, where the trainer keeps that.
        shown: what the first run retrieves at last for a few queries, with pictures, where the trainer keeps that.
    """

    metrics: dict[str, float]
    state: Callable[[], State]
    best: bool = False
    by_class: ClassSums | None = None
    shown: tuple[ShownQuery, ...] = ()


class Trainer:
    """The runs of one configuration: one, or one a fold, which are then trained in turn and averaged.

    Args:
        runs: at least one, of equal length.
        score_at: "every" evaluation, or only the "last" (confirmations: the test classes are scored once).
        score_untrained: also score the model before training; these scores are named ``floor/...``.
        protocol: plain data that goes into each checkpoint: ``stage``, ``validation`` and ``folds``, so that whoever
            opens it knows which classes the run has seen.
        by_class: whether the last report says what each class adds to the scores.
        shown_queries: for so many queries the last report also has what is retrieved, with pictures.
        concatenated: whether the runs are scored together, by their concatenated embeddings; all score the same split.
    """

    def __init__(
        self,
        runs: Sequence[FoldTrainer],
        *,
        score_at: Literal["every", "last"] = "every",
        score_untrained: bool = False,
        protocol: Mapping[str, object] | None = None,
        by_class: bool = False,
        shown_queries: int = 0,
        concatenated: bool = False,
    ) -> None:
        self.runs = runs
        self._concatenated = concatenated
        self.protocol = dict(protocol or {})
        self.score_at = score_at
        self._by_class_wanted = by_class
        self._shown_queries = shown_queries
        self._score_untrained = score_untrained
        self._untrained: dict[str, float] = {}
        self._reported = 0
        self._best: dict[str, float] = {}
        self.history: list[dict[str, float]] = []
        self._seconds_before = 0.0
        self._started = time.perf_counter()

    @property
    def epoch(self) -> int:
        """Epochs done by all runs."""
        return min(run.epoch for run in self.runs)

    @property
    def epochs(self) -> int:
        """Epochs in all."""
        return self.runs[0].epochs

    @property
    def best(self) -> dict[str, float]:
        """``epoch`` and ``score`` of the best validation score so far; empty where nothing was scored."""
        return dict(self._best)

    @property
    def run_epochs(self) -> int:
        """Epochs done, those of all runs added up: grows by one with every call of `on_checkpoint`."""
        return sum(run.epoch for run in self.runs)

    def run(
        self,
        on_report: Callable[[Report], None],
        on_progress: Callable[[Progress], None] | None = None,
        on_checkpoint: Callable[[], None] | None = None,
    ) -> None:
        """Train to the last epoch, with a report after every evaluation interval.

        Args:
            on_report: takes the scores.
            on_progress: for a display.
            on_checkpoint: called after every epoch of each run; `state_dict` may be saved then.

        Raises:
            RunFailed: the run cannot go on, with the reason.
        """
        if self._score_untrained and not self._untrained and self.run_epochs == 0:
            self._untrained = _named_untrained(self._scores())
        every = self.runs[0].trial.evaluation.every
        while self._reported < self.epochs:
            target = min((self._reported // every + 1) * every, self.epochs)
            metrics = _mean([run.advance(on_progress, until=target, on_epoch=on_checkpoint) for run in self.runs])
            last = target >= self.epochs
            by_class: ClassSums | None = None
            shown: tuple[ShownQuery, ...] = ()
            if last or self.score_at == "every":
                scored = self._evaluations(self._shown_queries if last else 0)
                metrics |= _mean([each.metrics for each in scored])
                by_class = joined([each.by_class for each in scored]) if last and self._by_class_wanted else None
                shown = scored[0].shown
            if last:
                metrics |= _mean([run.train_class_recall() for run in self.runs]) | self._untrained
                metrics |= _mean([run.data_record() for run in self.runs])
            metrics |= {"epoch": float(target), "time/seconds": self.seconds}
            self._reported = target
            self.history.append(metrics)
            on_report(Report(metrics, self.state_dict, self._is_best(metrics), by_class, shown))

    def _scores(self) -> dict[str, float]:
        """Of all runs, without what only reports need."""
        if self._concatenated:
            found = self._evaluations(0)[0].metrics
            return {name: value for name, value in found.items() if name.startswith("test/")}
        return _mean([run.evaluate() for run in self.runs])

    def _evaluations(self, shown_queries: int) -> list[Evaluation]:
        """One of each run, or one of all together."""
        if self._concatenated:
            return [self.runs[0].evaluate_concatenated(self.runs[1:], shown_queries)]
        return [run.evaluate_in_full(shown_queries) for run in self.runs]

    def _is_best(self, metrics: dict[str, float]) -> bool:
        score = metrics.get(BEST_BY)
        if score is None or score <= self._best.get("score", -1.0):
            return False
        self._best = {"epoch": metrics["epoch"], "score": score}
        return True

    @property
    def seconds(self) -> float:
        """Wall seconds of work so far, of earlier processes too."""
        return self._seconds_before + time.perf_counter() - self._started

    def state_dict(self) -> dict[str, object]:
        """The state to resume from: tensors and plain data only."""
        return {
            "runs": [run.state_dict() for run in self.runs],
            "protocol": self.protocol,
            "reported": self._reported,
            "best": self._best,
            "history": self.history,
            "floor": self._untrained,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: State) -> None:
        """Go on from a state.

        Raises:
            CtxtuneError: it belongs to another configuration, seed or number of folds.
        """
        if len(state["runs"]) != len(self.runs):
            raise CtxtuneError(f"the checkpoint holds {len(state['runs'])} folds, this run has {len(self.runs)}")
        for run, its_state in zip(self.runs, state["runs"], strict=True):
            run.load_state_dict(its_state)
        self._reported = state.get("reported", self.epoch)
        self._best, self.history = dict(state.get("best", {})), list(state.get("history", []))
        self._untrained = state["floor"]
        self._seconds_before, self._started = state["seconds"], time.perf_counter()

    def close(self) -> None:
        """Let go of data and background readers."""
        for run in self.runs:
            run.close()


def _mean(each: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(sum(metrics[name] for metrics in each) / len(each)) for name in each[0]}


def _named_untrained(scores: dict[str, float]) -> dict[str, float]:
    return {f"floor/{name.partition('/')[2]}": value for name, value in scores.items()}
