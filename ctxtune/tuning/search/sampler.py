"""The sampler: Optuna, asked and told, over a define-by-run search space."""

import itertools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from ctxtune.config import Dimension, SweepConfig, start_points
from ctxtune.config.resolve import dimension_order, is_active, is_feasible
from ctxtune.tuning.record.journal import RunRecord
from ctxtune.tuning.search.multi_objective import told_scores
from ctxtune.tuning.search.rounding import RoundingSampler

MOST_REJECTIONS = 200
"""Suggestions that may break a constraint before we draw at random among the feasible."""

_ASKED = "asked"
_TOLD = {"completed": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


class Sampler:
    """Suggests points of a search space and learns from their scores.

    Start points come first, unaltered. A suggestion depends on the seed, its number and what was told before, on
    nothing else: a sampler rebuilt from the journal goes on as the first one would have.
    """

    def __init__(self, space: SweepConfig) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space = space
        self._order = dimension_order(space)
        self._starts = list(start_points(space).values())
        self._study = optuna.create_study(
            directions=["maximize" if each.mode == "max" else "minimize" for each in space.search.objective.all],
            sampler=self._fresh_sampler(0),
        )
        self._several = bool(space.search.objective.beside)
        self._open: dict[str, optuna.Trial] = {}
        self._asked = 0
        self._grid = _grid(space) if space.search.sampler.name == "grid" else None

    @property
    def exhausted(self) -> bool:
        """Whether there is nothing left to suggest (a grid comes to its end)."""
        return self._grid is not None and self._asked >= len(self._starts) + len(self._grid)

    def ask(self, key: str) -> dict[str, Any]:
        """The next point; ``key`` names its run when its score is told."""
        number, self._asked = self._asked, self._asked + 1
        self._study.sampler = self._fresh_sampler(number)
        self._forget_parents()
        if number < len(self._starts):
            return self._suggest_fixed(key, self._starts[number])
        if self._grid is not None:
            return self._suggest_fixed(key, self._grid[number - len(self._starts)])
        for _ in range(MOST_REJECTIONS):
            trial = self._study.ask()
            point = self._suggest(trial)
            if is_feasible(self._space, point):
                self._open[key] = trial
                return point
            self._study.tell(trial, state=TrialState.FAIL)
        return self._suggest_fixed(key, self._random_feasible(number))

    def memory(self, key: str) -> dict[str, Any]:
        """What to know again of an open suggestion, for `replay`: how many there had been, those that no run can take among
        them, and what the sampler noted (generations of nsga-ii and cma-es)."""
        attributes = self._open[key].storage.get_trial_system_attrs(self._open[key]._trial_id)
        return {_ASKED: self._asked, **{name: value for name, value in attributes.items() if name != "fixed_params"}}

    def report(self, key: str, epoch: int, score: float) -> None:
        """An evaluation of a running trial. With several objectives nothing is learned before the end."""
        if not self._several:
            self._open[key].report(score, epoch)

    def tell(self, key: str, state: str, score: float | Sequence[float] | None) -> None:
        """How a trial ended: completed or pruned with its last score (all scores, of several objectives), or failed.

        A score that is not finite is told as a failure: the sampler never sees a NaN.
        """
        trial = self._open.pop(key)
        told = _TOLD[state]
        if score is None or not np.isfinite(score).all() or (self._several and told == TrialState.PRUNED):
            told = TrialState.FAIL
        # Of a pruned trial Optuna takes the value that was reported last.
        self._study.tell(trial, score if told == TrialState.COMPLETE else None, state=told)

    def replay(self, runs: Iterable[RunRecord], metric: str) -> None:
        """Take in the trials of an earlier process, in their order."""
        self._study.sampler = optuna.samplers.RandomSampler(seed=0)  # it only has to let the known values pass
        for run in runs:
            point = run.spec.point
            memory = dict(run.spec.memory)
            self._asked = memory.pop(_ASKED, self._asked + 1)
            self._suggest_fixed(run.key, point)
            self._remember(run.key, memory)
            for report in run.reports:
                if metric in report.metrics:
                    self.report(run.key, report.epoch, report.metrics[metric])
            if run.state != "running":
                state = run.state if run.state in _TOLD else "failed"
                self.tell(run.key, state, told_scores(self._space, run))

    def _forget_parents(self) -> None:
        """Let nsga-ii choose parents anew each time: its cache is kept in another order than it is first used in."""
        storage, number = self._study._storage, self._study._study_id
        for name in storage.get_study_system_attrs(number):
            if ":parent:" in name:
                storage.set_study_system_attr(number, name, None)

    def _remember(self, key: str, memory: Mapping[str, Any]) -> None:
        trial = self._open[key]
        for name, value in memory.items():
            trial.storage.set_trial_system_attr(trial._trial_id, name, value)

    def _suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        point: dict[str, Any] = {}
        for path in self._order:
            if is_active(self._space, path, point):
                point[path] = _suggest_one(trial, path, self._space.search.space[path])
        return point

    def _suggest_fixed(self, key: str, point: Mapping[str, Any]) -> dict[str, Any]:
        self._study.enqueue_trial(dict(point))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a start point between two steps of a quantised dimension is as meant
            trial = self._study.ask()
            for path in point:
                _suggest_one(trial, path, self._space.search.space[path])
        self._open[key] = trial
        return dict(point)

    def _random_feasible(self, number: int) -> dict[str, Any]:
        random = RoundingSampler(optuna.samplers.RandomSampler(seed=self._seed(number)))
        study = optuna.create_study(sampler=random)
        for _ in range(100_000):
            point = self._suggest(study.ask())
            if is_feasible(self._space, point):
                return point
        raise ValueError(f"no point of the space meets the constraints {list(self._space.search.constraints)}")

    def _seed(self, number: int) -> int:
        return int(np.random.SeedSequence([self._space.search.sampler.seed, number]).generate_state(1)[0])

    def _fresh_sampler(self, number: int) -> optuna.samplers.BaseSampler:
        return RoundingSampler(self._unrounded_sampler(number))

    def _unrounded_sampler(self, number: int) -> optuna.samplers.BaseSampler:
        settings = self._space.search.sampler
        seed = self._seed(number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if settings.name == "tpe":
                # constant_liar: trials that still run count as poor, so that parallel suggestions keep apart.
                return optuna.samplers.TPESampler(
                    seed=seed,
                    multivariate=True,
                    group=True,
                    constant_liar=True,
                    n_startup_trials=settings.startup_trials,
                )
            if settings.name == "gp":
                return optuna.samplers.GPSampler(seed=seed, n_startup_trials=settings.startup_trials)
            if settings.name == "cma-es":
                return optuna.samplers.CmaEsSampler(seed=seed)
            if settings.name == "nsga-ii":
                return optuna.samplers.NSGAIISampler(seed=seed, population_size=settings.startup_trials)
        return optuna.samplers.RandomSampler(seed=seed)


def _suggest_one(trial: optuna.Trial, path: str, dimension: Dimension) -> Any:
    if dimension.kind == "fixed":
        return dimension.choices[0]
    if dimension.kind == "choice":
        return trial.suggest_categorical(path, list(dimension.choices))
    if dimension.kind in ("int", "logint"):
        whole = [int(number) for number in (dimension.low, dimension.high, dimension.step or 1)]
        return trial.suggest_int(path, whole[0], whole[1], step=whole[2], log=dimension.kind == "logint")
    low, high = float(dimension.low), float(dimension.high)
    if dimension.kind == "quniform":
        return trial.suggest_float(path, low, high, step=dimension.step)
    return trial.suggest_float(path, low, high, log=dimension.kind == "loguniform")


def _grid(space: SweepConfig) -> list[dict[str, Any]]:
    """Every feasible point of a finite space, in a seeded order (so that a part of the grid is a fair sample)."""
    points: list[dict[str, Any]] = []
    seen: set[tuple[tuple[str, Any], ...]] = set()
    order = dimension_order(space)
    for values in itertools.product(*(_values(space.search.space[path]) for path in order)):
        point: dict[str, Any] = {}
        for path, value in zip(order, values, strict=True):
            if is_active(space, path, point):
                point[path] = value
        if tuple(point.items()) not in seen and is_feasible(space, point):
            seen.add(tuple(point.items()))
            points.append(point)
    shuffle = np.random.default_rng(space.search.sampler.seed).permutation(len(points))
    return [points[index] for index in shuffle]


def _values(dimension: Dimension) -> list[Any]:
    if dimension.kind in ("choice", "fixed"):
        return list(dimension.choices)
    if dimension.kind == "quniform":
        count = int((dimension.high - dimension.low) / (dimension.step or 1) + 1e-9) + 1
        return [float(dimension.low + index * (dimension.step or 1)) for index in range(count)]
    return list(range(int(dimension.low), int(dimension.high) + 1, int(dimension.step or 1)))
