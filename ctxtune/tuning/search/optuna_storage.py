"""`tracking.optuna`: a study of an Optuna storage kept in step with the search, for optuna-dashboard and the like.

Nothing reads it here: the sampler has a study of its own, in memory, and the journal is what a resumed sweep goes by. A thread
writes what the journal knows and the storage does not, so that a run that is written twice is there once, and a storage that
cannot be reached for a while has everything later.
"""

import math
import threading
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from ctxtune.config import Dimension, SweepConfig
from ctxtune.database_drivers import missing_driver
from ctxtune.errors import ConfigError
from ctxtune.redaction import redact, without_secrets
from ctxtune.results.formatting import setting
from ctxtune.text import counted, shortened
from ctxtune.tuning.record.journal import RunRecord
from ctxtune.tuning.search.multi_objective import told_scores

RUN, SWEEP = "ctxtune.run", "ctxtune.sweep_id"
"""User attributes of trials and of the study, by which they are found again."""
OPEN_SECONDS, RETRY_SECONDS, CLOSE_SECONDS = 30.0, 10.0, 20.0
_STATES = {
    "completed": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "killed": TrialState.FAIL,
}


@dataclass(frozen=True)
class _Change:
    """A run to look at; ``ended``: the sweep is over, so that what was killed will not go on."""

    run: RunRecord
    ended: bool = False


class StorageMirror:
    """The study of one sweep in an Optuna storage; without ``tracking.optuna`` it does nothing.

    Args:
        on_alert: told, once for each outage, that the storage cannot be written.

    Raises:
        ConfigError: the storage cannot be opened.
    """

    def __init__(self, config: SweepConfig, on_alert: Callable[[str], None]) -> None:
        self._config, self._on_alert = config, on_alert
        self._url = config.tracking.optuna
        self._changed: SimpleQueue[_Change | None] = SimpleQueue()
        self._opened = threading.Event()
        self._failure = ""
        self._waiting: dict[str, _Change] = {}
        self._sweep_id = ""
        self._trials: dict[str, int] = {}
        self._thread = threading.Thread(target=self._work, name="optuna storage", daemon=True)
        if self._url is None:
            return
        self._thread.start()
        if not self._opened.wait(OPEN_SECONDS):
            raise self._error(f"gives no answer within {OPEN_SECONDS:.0f} s")
        if self._failure:
            raise self._error(f"cannot be opened ({self._failure})")

    def __enter__(self) -> "StorageMirror":
        return self

    def __exit__(self, *_: object) -> None:
        if not self._thread.is_alive():
            return
        self._changed.put(None)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive() or self._waiting:
            count = counted(len(self._waiting), "trial") if self._waiting else "what came last"
            self._on_alert(f"tracking.optuna: {redact(self._url or '')} has not got {count}; --resume writes it")

    def begin(self, sweep_id: str, runs: Iterable[RunRecord]) -> None:
        """Say which sweep this is, and what its search has done in earlier processes."""
        self._sweep_id = sweep_id
        for run in runs:
            self.change(run)

    def change(self, run: RunRecord) -> None:
        """A run was started, reported or ended. Returns at once."""
        if self._url is not None and run.stage == "search":
            self._changed.put(_Change(run))

    def end(self, runs: Iterable[RunRecord]) -> None:
        """The sweep is over: what its budget killed will not go on."""
        for run in runs if self._url is not None else ():
            self._changed.put(_Change(run, ended=True))

    def _error(self, what: str) -> ConfigError:
        return ConfigError(
            f"tracking.optuna: {redact(self._url or '')} {what}; expected a database such as sqlite:///optuna.db, or null"
        )

    # ---------------------------------------------------------------- in the thread

    def _work(self) -> None:
        try:
            storage = _opened_storage(self._url or "")
        except Exception as error:  # noqa: BLE001 - SQLAlchemy, drivers and Optuna raise what they like
            self._failure = _reason(error)
            self._opened.set()
            return
        self._opened.set()
        study: int | None = None
        closing = False
        while not closing:
            closing = self._take(RETRY_SECONDS if self._waiting else None)
            if not self._waiting:
                continue
            try:
                study = self._study(storage) if study is None else study
                for change in list(self._waiting.values()):
                    self._write(storage, study, change.run, ended=change.ended)
                    self._waiting.pop(change.run.key)
                self._failure = ""
            except Exception as error:  # noqa: BLE001 - as above
                if not self._failure:
                    self._on_alert(
                        f"tracking.optuna: {redact(self._url or '')} cannot be written ({_reason(error)}); the sweep goes on, "
                        "and the storage gets everything once it can be"
                    )
                self._failure = _reason(error)
        storage.remove_session()

    def _take(self, timeout: float | None) -> bool:
        """Wait for a change and take all that there are; whether that was the last."""
        try:
            found = self._changed.get(timeout=timeout)
            while found is not None:
                self._waiting[found.run.key] = found
                found = self._changed.get_nowait()
        except Empty:
            return False
        return True

    def _study(self, storage: BaseStorage) -> int:
        """The sweep's study, made where it is missing: called as the sweep, or by its number too where that is taken."""
        sweep_id, name = self._sweep_id, self._config.name
        directions = [
            StudyDirection.MAXIMIZE if each.mode == "max" else StudyDirection.MINIMIZE
            for each in self._config.search.objective.all
        ]
        for called in (name, f"{name} {sweep_id}"):
            try:
                study = storage.create_new_study(directions, called)
            except optuna.exceptions.DuplicatedStudyError:
                study = storage.get_study_id_from_name(called)
            owned = SWEEP in storage.get_study_user_attrs(study)
            if not owned and not storage.get_n_trials(study):  # made just now, or before an outage or a kill
                storage.set_study_user_attr(study, SWEEP, sweep_id)
            if storage.get_study_user_attrs(study).get(SWEEP) == sweep_id:
                break
        names = [each.metric for each in self._config.search.objective.all]
        storage.set_study_system_attr(study, "study:metric_names", names)
        known = storage.get_all_trials(study, deepcopy=False)
        self._trials = {trial.user_attrs[RUN]: trial._trial_id for trial in known if RUN in trial.user_attrs}
        return study

    def _write(self, storage: BaseStorage, study: int, run: RunRecord, *, ended: bool) -> None:
        """Write what the storage does not know of a run."""
        if run.key not in self._trials:
            self._trials[run.key] = storage.create_new_trial(study, template_trial=self._template(run))
        number = self._trials[run.key]
        trial = storage.get_trial(number)
        if trial.state.is_finished():
            return
        metric = self._config.search.objective.metric
        for report in list(run.reports):
            value = report.metrics.get(metric)
            if value is not None and report.epoch not in trial.intermediate_values:
                storage.set_trial_intermediate_value(number, report.epoch, value)
        state = run.state
        if state == "running" or (state == "killed" and not ended):  # a larger budget lets it go on
            return
        told = told_scores(self._config, run)
        values = [told] if isinstance(told, float) else told
        outcome = _STATES[state]
        if values is None or not all(map(math.isfinite, values)):
            outcome = TrialState.FAIL
        if run.reason:
            storage.set_trial_user_attr(number, "reason", shortened(run.reason, 500))
        storage.set_trial_state_values(number, outcome, None if outcome == TrialState.FAIL else values)

    def _template(self, run: RunRecord) -> FrozenTrial:
        params, distributions, others = {}, {}, {}
        for path, value in run.spec.point.items():
            distribution, shown = _distribution(self._config.search.space[path]), _plain(value)
            if distribution is not None and distribution._contains(distribution.to_internal_repr(shown)):
                params[path], distributions[path] = shown, distribution
            else:  # a start point between two steps, say
                others[path] = shown
        return create_trial(
            state=TrialState.RUNNING,
            params=params,
            distributions=distributions,
            user_attrs={RUN: run.key, "config_hash": run.spec.trial.hash(), **others},
        )


def _opened_storage(url: str) -> BaseStorage:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if (missing := missing_driver(url)) is not None:
        raise ConfigError(missing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.storages.get_storage(url)


def _distribution(dimension: Dimension) -> BaseDistribution | None:
    """As the sampler suggests it; None for a value that is fixed."""
    if dimension.kind == "fixed":
        return None
    if dimension.kind == "choice":
        return CategoricalDistribution([_plain(choice) for choice in dimension.choices])
    low, high, step = dimension.low, dimension.high, dimension.step
    if dimension.kind in ("int", "logint"):
        return IntDistribution(int(low), int(high), log=dimension.kind == "logint", step=int(step or 1))
    return FloatDistribution(float(low), float(high), log=dimension.kind == "loguniform", step=step)


def _plain(value: object) -> CategoricalChoiceType:
    """A value as Optuna keeps it: blocks and lists as text."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else setting(value)


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error  # Optuna wraps what the database says
    lines = str(cause).strip().splitlines()
    return shortened(without_secrets(lines[0]), 200) if lines else type(cause).__name__
