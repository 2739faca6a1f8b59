"""The searches that `benchmarks/search.py` compares: who suggests points, and decides at each report whether to go on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from search_table import DIMENSIONS, EPOCHS, METRIC, search_space

from ctxtune.tuning.search.rounding import RoundingSampler
from ctxtune.tuning.search.sampler import Sampler
from ctxtune.tuning.search.scheduler import Scheduler

GRACE, REDUCTION = 1, 3


class Search(Protocol):
    """Suggests points and stops trials."""

    def ask(self, key: str) -> dict[str, Any]: ...
    def goes_on(self, key: str, epoch: int, score: float) -> bool: ...
    def end(self, key: str, state: str, epoch: int, score: float | None) -> None: ...


class Ours:
    """This package's sampler and rungs, driven as its recorder drives them.

    Args:
        seed: of the sampler.
        sampler, scheduler: their names in a file.
        told: of a trial that was stopped, what the sampler is told: that it was pruned, or (as Ray's OptunaSearch does)
            that it is complete with its last score.
        optuna_sampler: another sampler of Optuna's in place of the file's.
    """

    def __init__(
        self,
        seed: int,
        *,
        sampler: str = "tpe",
        scheduler: str = "asha",
        told: Literal["pruned", "completed"] = "pruned",
        optuna_sampler: Callable[[int], BaseSampler] | None = None,
    ) -> None:
        space = search_space(
            "photographs",
            trials=10**6,
            sampler={"name": sampler, "seed": seed},
            scheduler={"name": scheduler, "grace_epochs": GRACE, "reduction_factor": REDUCTION},
        )
        self._sampler = Sampler(space) if optuna_sampler is None else _Replaced(space, optuna_sampler)
        self._rungs = Scheduler(space) if scheduler != "none" else None
        self._told = told

    def ask(self, key: str) -> dict[str, Any]:
        return self._sampler.ask(key)

    def goes_on(self, key: str, epoch: int, score: float) -> bool:
        self._sampler.report(key, epoch, score)
        return self.passes(key, epoch, score)

    def passes(self, key: str, epoch: int, score: float) -> bool:
        """Whether the rungs let a trial go on."""
        if self._rungs is None:
            return True
        return not self._rungs.stops(key, "contextual", {"epoch": float(epoch), METRIC: score})

    def end(self, key: str, state: str, epoch: int, score: float | None) -> None:
        self._sampler.tell(key, self._told if state == "pruned" else state, score)


class _Replaced(Sampler):
    """Our sampler with another of Optuna's inside."""

    def __init__(self, space: Any, make: Callable[[int], BaseSampler]) -> None:
        self._make = make
        super().__init__(space)

    def _fresh_sampler(self, number: int) -> BaseSampler:
        return RoundingSampler(self._make(self._seed(number)))


@dataclass
class StockTrial:
    """What ASHAScheduler looks at in a trial."""

    trial_id: str
    config: dict[str, Any] = field(default_factory=dict)


class Stock:
    """OptunaSearch and ASHAScheduler, called as Tune's loop calls them. It knows nothing of constraints."""

    def __init__(self, seed: int) -> None:
        from ray import tune
        from ray.tune.schedulers import ASHAScheduler
        from ray.tune.search.optuna import OptunaSearch

        kinds = {"uniform": tune.uniform, "loguniform": tune.loguniform}
        space = {
            name: tune.choice(arguments) if kind == "choice" else kinds[kind](*arguments)
            for name, dimension in DIMENSIONS.items()
            for kind, arguments in dimension.items()
        }
        logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it advises another way to hand it the same space
        self._searcher = OptunaSearch(space, metric=METRIC, mode="max", seed=seed)
        self._scheduler = ASHAScheduler(
            metric=METRIC, mode="max", max_t=EPOCHS, grace_period=GRACE, reduction_factor=REDUCTION
        )

    def ask(self, key: str) -> dict[str, Any]:
        self._scheduler.on_trial_add(None, StockTrial(key))
        return self._searcher.suggest(key)

    def goes_on(self, key: str, epoch: int, score: float) -> bool:
        result = {"training_iteration": epoch, METRIC: score}
        self._searcher.on_trial_result(key, result)
        decision = self._scheduler.on_trial_result(None, StockTrial(key), result)
        return decision != "STOP" or epoch >= EPOCHS

    def end(self, key: str, state: str, epoch: int, score: float | None) -> None:
        result = {"training_iteration": epoch, METRIC: score}
        if state == "failed":
            self._searcher.on_trial_complete(key, error=True)
            return
        if state == "completed":
            self._scheduler.on_trial_complete(None, StockTrial(key), result)
        self._searcher.on_trial_complete(key, result=result)


def tpe(seed: int, **options: Any) -> BaseSampler:
    """Optuna's TPE as this package has it, but for ``options``."""
    return optuna.samplers.TPESampler(
        seed=seed, **{"multivariate": False, "group": False, "constant_liar": True, "n_startup_trials": 10, **options}
    )


def mixed(seed: int, share: float) -> BaseSampler:
    """Of the suggestions a share at random, by the seed of each; the others TPE's."""
    if np.random.default_rng(seed).random() < share:
        return optuna.samplers.RandomSampler(seed=seed)
    return tpe(seed)


def gaussian_process(seed: int) -> BaseSampler:
    """Optuna's GP sampler; it learns from completed trials only."""
    return optuna.samplers.GPSampler(seed=seed, n_startup_trials=10, warn_independent_sampling=False)


def cma_es(seed: int) -> BaseSampler:
    """Optuna's CMA-ES, which draws choices at random."""
    return optuna.samplers.CmaEsSampler(seed=seed, consider_pruned_trials=True, warn_independent_sampling=False)
