"""When a search has spent enough."""

import time

from ctxtune.config import SweepConfig
from ctxtune.tuning import costs, stages
from ctxtune.tuning.backend.cluster import RunResources
from ctxtune.tuning.record.recorder import Recorder

CHECK_SECONDS = 1.0
"""Between two looks at the clock: Ray asks many times a second."""


class Budget:
    """Hours, GPU-hours and patience: whichever is spent first ends the search, with selection and confirmation paid."""

    def __init__(self, space: SweepConfig, recorder: Recorder, resources: RunResources) -> None:
        self._space, self._recorder, self._resources = space, recorder, resources
        worked = sum(run.seconds for run in recorder.journal.runs.values())
        self._hours_before = worked / resources.concurrent / 3600
        self._started = time.monotonic()
        self._looked_at = self._started - CHECK_SECONDS
        self._ended = -1

    def check(self) -> None:
        """Ask the recorder to stop the search where a limit is met: patience at every end of a run, hours once a second."""
        self._check_patience()
        if time.monotonic() - self._looked_at >= CHECK_SECONDS:
            self._looked_at = time.monotonic()
            self._check_hours()

    def _check_patience(self) -> None:
        patience = self._space.search.budget.no_improvement_for
        if patience is None or self._recorder.journal.ended_runs == self._ended:
            return
        self._ended = self._recorder.journal.ended_runs
        if self._trials_since_best() >= patience:
            self._stop("no_improvement", f"the search ends: no better trial in the last {patience}")

    def _check_hours(self) -> None:
        budget = self._space.search.budget
        if budget.hours is not None:
            spent = self._hours_before + (time.monotonic() - self._started) / 3600
            reserve = self._reserve_hours() / self._resources.concurrent
            if spent + reserve >= budget.hours:
                self._stop("hours", f"the search ends: {spent:.2f} h spent, {reserve:.2f} h kept for what follows")
        if budget.gpu_hours is not None and self._resources.gpus:
            worked = costs.spent(self._recorder.journal.runs.values()).gpu_hours
            reserve = self._reserve_hours() * self._resources.gpus
            if worked + reserve >= budget.gpu_hours:
                self._stop("gpu_hours", f"the search ends: {worked:.2f} GPU-hours spent, {reserve:.2f} kept")

    def _stop(self, reason: str, message: str) -> None:
        self._recorder.request_stop(reason, message, resumable=False)

    def _reserve_hours(self) -> float:
        """Hours of work that selection and confirmation will take, from the trials that ran to the end."""
        full = [run.seconds for run in self._recorder.journal.completed("search")]
        if not full:
            return 0.0
        select, confirm = self._space.select, self._space.confirm
        runs = 0.0
        if select:
            folds = stages.fold_count(self._space) if select.folds == "all" else len(select.folds)
            runs += (select.top + 1) * folds * select.seeds / len(self._space.validation.use)
        if confirm:
            of_a_fold = stages.fit_share(self._space) * len(self._space.validation.use)  # confirmation has all classes
            runs += (1 + len(confirm.also)) * confirm.seeds / of_a_fold
        return runs * sum(full) / len(full) / 3600

    def _trials_since_best(self) -> int:
        best = stages.best_trial(self._space, self._recorder.journal)
        ended = [run.key for run in self._recorder.journal.stage("search") if run.state != "running"]
        return len(ended) - 1 - ended.index(best.key) if best else 0
