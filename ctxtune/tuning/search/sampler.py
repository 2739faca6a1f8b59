"""The sampler: Optuna, asked and told, over a define-by-run search space."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import optuna
from optuna.trial import TrialState

from ctxtune.config import Dimension, SweepConfig, start_points
from ctxtune.config.points import MOST_ENUMERATED, all_points, point_key, random_point
from ctxtune.config.resolve import dimension_order, is_active, is_feasible
from ctxtune.errors import ConfigError
from ctxtune.tuning.record.journal import RunRecord
from ctxtune.tuning.search.learning_curves import CurveSampler
from ctxtune.tuning.search.multi_objective import told_scores
from ctxtune.tuning.search.rounding import RoundingSampler, rounded
from ctxtune.tuning.search.tree_parzen import TreeParzenSampler, TrialHistory
from ctxtune.yaml_text import Tree

MOST_REFUSED = 10
"""Suggestions that may break a constraint or have been made before, until what the constraints name is drawn at random.

With a thousand runs at work nearly all break one: TPE takes those as poor, so that the place without any, which no run can
take, seems best to it.
"""
MOST_DRAWS = 20_000

_ASKED, _REFUSED = "asked", "refused"
_TOLD = {"completed": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


class Sampler:
    """Suggests points of a search space and learns from their scores.

    Start points come first, unaltered. A suggestion depends on the seed, its number and what was told before, on
    nothing else: a sampler rebuilt from the journal goes on as the first one would have. No point is suggested twice: all
    trials share one seed, so the same point is the same run. A finite space comes to its end.
    """

    def __init__(self, config: SweepConfig) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._config = config
        self._order = dimension_order(config)
        self._starts = list({point_key(point): point for point in start_points(config).values()}.values())
        self._several = bool(config.search.objective.beside)
        self._history = TrialHistory()
        self._study = optuna.create_study(
            directions=["maximize" if each.mode == "max" else "minimize" for each in config.search.objective.all],
            sampler=self._fresh_sampler(0),
        )
        self._open: dict[str, optuna.Trial] = {}
        self._asked = 0
        self._tried: set[tuple[object, ...]] = set()
        self._refused: list[dict[str, object]] = []
        self._pending: dict[str, dict[str, object]] = {}
        self._untried = _shuffled(config)

    @property
    def exhausted(self) -> bool:
        """Whether there is nothing left to suggest: every point of a finite space has been."""
        return self._untried is not None and self._asked >= len(self._starts) and not self._untried

    def ask(self, key: str) -> Tree:
        """The next point; ``key`` names its run when its score is told."""
        number, self._asked = self._asked, self._asked + 1
        self._study.sampler = self._fresh_sampler(number)
        self._forget_parents()
        if number < len(self._starts):
            return self._suggest_fixed(key, self._starts[number])
        if self._untried is not None and self._config.search.sampler.name == "grid":
            return self._suggest_fixed(key, next(iter(self._untried.values())))
        point: dict[str, object] = {}
        for _ in range(MOST_REFUSED):
            trial = self._study.ask()
            point = self._suggest(trial)
            if point_key(point) not in self._tried and is_feasible(self._config, point):
                self._note(key, trial, point)
                return point
            self._study.tell(trial, state=TrialState.FAIL)
        return self._suggest_fixed(key, self._random_untried(number, point))

    def _note(self, key: str, trial: optuna.Trial, point: dict[str, object]) -> None:
        self._open[key] = trial
        self._pending[key] = point
        self._try(point)

    def _try(self, point: dict[str, object]) -> None:
        self._tried.add(point_key(point))
        if self._untried is not None:
            self._untried.pop(point_key(point), None)

    def memory(self, key: str) -> Tree:
        """What to know again of an open suggestion, for `replay`: how many there had been, those that no run can take among
        them, and what the sampler noted (generations of nsga-ii and cma-es)."""
        attributes = self._open[key].storage.get_trial_system_attrs(self._open[key]._trial_id)
        refused, self._refused = self._refused, []
        self._pending.pop(key, None)
        return {
            _ASKED: self._asked,
            **({_REFUSED: refused} if refused else {}),
            **{name: value for name, value in attributes.items() if name != "fixed_params"},
        }

    def report(self, key: str, epoch: int, score: float) -> None:
        """An evaluation of a running trial. With several objectives nothing is learned before the end."""
        if not self._several:
            self._open[key].report(score, epoch)

    def tell(self, key: str, state: str, score: float | Sequence[float] | None) -> None:
        """How a trial ended: completed or pruned with its last score (all scores, of several objectives), or failed.

        A score that is not finite is told as a failure: the sampler never sees a NaN.
        """
        trial = self._open.pop(key)
        if key in self._pending and state == "failed":  # nobody asked for its memory: no run could take it
            self._refused.append(self._pending.pop(key))
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
            for refused in memory.pop(_REFUSED, ()):
                self._try(refused)
            self._suggest_fixed(run.key, point)
            self._pending.pop(run.key, None)
            self._remember(run.key, memory)
            for report in run.reports:
                if metric in report.metrics:
                    self.report(run.key, report.epoch, report.metrics[metric])
            if run.state != "running":
                state = run.state if run.state in _TOLD else "failed"
                self.tell(run.key, state, told_scores(self._config, run))

    def _forget_parents(self) -> None:
        """Let nsga-ii choose parents anew each time: its cache is kept in another order than it is first used in."""
        storage, number = self._study._storage, self._study._study_id
        for name in storage.get_study_system_attrs(number):
            if ":parent:" in name:
                storage.set_study_system_attr(number, name, None)

    def _remember(self, key: str, memory: Mapping[str, object]) -> None:
        trial = self._open[key]
        for name, value in memory.items():
            trial.storage.set_trial_system_attr(trial._trial_id, name, cast(Any, value))  # from JSON, and so it is

    def _suggest(self, trial: optuna.Trial) -> dict[str, object]:
        point: Tree = {}
        for path in self._order:
            if is_active(self._config, path, point):
                point[path] = _suggest_one(trial, path, self._config.search.space[path])
        return point

    def _suggest_fixed(self, key: str, point: Mapping[str, object]) -> dict[str, object]:
        self._study.enqueue_trial(dict(point))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a start point between two steps of a quantized dimension is as meant
            trial = self._study.ask()
            for path in point:
                _suggest_one(trial, path, self._config.search.space[path])
        self._note(key, trial, dict(point))
        return dict(point)

    def _random_untried(self, number: int, suggested: Mapping[str, object]) -> dict[str, object]:
        """A point that was not suggested before; of a space so large that none is found, one that was.

        As it was last suggested, but for what the constraints name, if that can be; else wholly at random.

        Raises:
            ConfigError: no point meets the constraints.
        """
        random = np.random.default_rng(self._seed(number))
        if self._untried is not None:
            return list(self._untried.values())[int(random.integers(len(self._untried)))]
        constrained = {path for each in self._config.search.parsed_constraints() for path in each.paths}
        repeated: dict[str, object] | None = None
        for draw in range(MOST_DRAWS):
            point = self._rounded(random_point(self._config, random))
            if constrained and draw < MOST_DRAWS // 10 and point.keys() == suggested.keys():
                point = {path: point[path] if path in constrained else suggested[path] for path in point}
            if is_feasible(self._config, point):
                if point_key(point) not in self._tried:
                    return point
                repeated = point
        if repeated is None:
            raise ConfigError(
                f"search.constraints: none of {MOST_DRAWS:,} random points of the space meets "
                f"{list(self._config.search.constraints)}; loosen them"
            )
        return repeated

    def _rounded(self, point: Tree) -> Tree:
        dimensions = self._config.search.space
        return {
            path: rounded(value, float(dimensions[path].low), float(dimensions[path].high))
            if dimensions[path].count() is None
            else value
            for path, value in point.items()
        }

    def _seed(self, number: int) -> int:
        return int(np.random.SeedSequence([self._config.search.sampler.seed, number]).generate_state(1)[0])

    def _fresh_sampler(self, number: int) -> optuna.samplers.BaseSampler:
        return RoundingSampler(self._unrounded_sampler(number))

    def _unrounded_sampler(self, number: int) -> optuna.samplers.BaseSampler:
        settings = self._config.search.sampler
        seed = self._seed(number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if settings.name == "tpe":
                # constant_liar: trials that still run count as poor, so that parallel suggestions keep apart. Each dimension by
                # itself: with few trials the joint model stays with the choices that it began with (benchmarks/search.py).
                startup = settings.startup_trials
                if self._several:
                    return optuna.samplers.TPESampler(
                        seed=seed, multivariate=False, group=False, constant_liar=True, n_startup_trials=startup
                    )
                return TreeParzenSampler(self._history, seed=seed, startup_trials=startup)
            if settings.name == "gp":
                process = optuna.samplers.GPSampler(seed=seed, n_startup_trials=settings.startup_trials)
                # By itself it learns from complete trials only, of which there are few where trials are stopped.
                return process if self._config.search.scheduler.name == "none" else CurveSampler(process)
            if settings.name == "cma-es":
                return optuna.samplers.CmaEsSampler(seed=seed)
            if settings.name == "nsga-ii":
                return optuna.samplers.NSGAIISampler(seed=seed, population_size=settings.startup_trials)
        return optuna.samplers.RandomSampler(seed=seed)


def _suggest_one(trial: optuna.Trial, path: str, dimension: Dimension) -> object:
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


def _shuffled(config: SweepConfig) -> dict[tuple[object, ...], dict[str, object]] | None:
    """Every feasible point of a finite space by its key, in a seeded order: a part of a grid is a fair sample. None: endless.

    Raises:
        ConfigError: a grid has too many points.
    """
    points = all_points(config)
    if points is None:
        if config.search.sampler.name == "grid":
            raise ConfigError(
                f"search.sampler: a grid has {MOST_ENUMERATED:,} points at most; take sampler random or tpe"
            )
        return None
    shuffle = np.random.default_rng(config.search.sampler.seed).permutation(len(points))
    return {point_key(points[index]): points[index] for index in shuffle}
