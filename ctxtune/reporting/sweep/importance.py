"""How much each searched dimension mattered: fANOVA and PED-ANOVA by Optuna, on a study rebuilt from MLflow's trials.

Trials that were stopped early have no final score, and leaving them out keeps only what the scheduler liked. So there
are three answers to three questions, each sound for what it says:

- fANOVA over the completed trials' final scores: what moves the score among those that came through.
- fANOVA over all trials' scores at the first rung, which every trial reached: what moves the early score. No trial is
  left out, but an early score is not the final one.
- PED-ANOVA over all trials: in which dimensions the best tenth differs from all. It asks for the order only;
  stopped trials stand below the completed ones, by the rung that they reached and their score there, which is what the
  scheduler holds of them.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ctxtune.reporting.background import begin
from ctxtune.reporting.sweep.data import SearchedDimension, SweepData, Trial

if TYPE_CHECKING:
    import optuna
    from optuna.importance import BaseImportanceEvaluator

FEWEST_TRIALS = 8
MOST_TRIALS = 200
"""fANOVA's forest takes seconds for more; then a random part of them is taken."""
BEST_SHARE = 0.1
FEWEST_BEST = 5
_NODES = 6400
"""Of the forest, about: few trials make small trees, of which more are needed for a steady answer, and can be had."""


@dataclass(frozen=True)
class Importances:
    """Shares that add up to 1, by dimension.

    Attributes:
        title: the question that it answers; ``short``: the same for the head of a column.
        trials: how many trials it is based on.
    """

    name: str
    title: str
    short: str
    shares: dict[str, float]
    trials: int


def importances(data: SweepData, processes: int = 1) -> list[Importances]:
    """Every answer for which there are enough trials; dimensions that not all trials have are left out.

    `processes`: with 2, one of the answers is found by another one (see `background.begin`).
    """
    dimensions = [each for each in data.dimensions if all(each.path in trial.values for trial in data.trials)]
    if len(dimensions) < 2:
        return []
    final = begin(partial(_of_final_scores, data, dimensions), processes)
    early = _of_first_rung(data, dimensions)
    best = _ped_anova(dimensions, [(trial, float(-place)) for place, trial in enumerate(ordered(data))])
    return [each for each in (final(), early, best) if each is not None]


def _of_final_scores(data: SweepData, dimensions: Sequence[SearchedDimension]) -> Importances | None:
    completed = [(trial, data.sign * trial.score) for trial in data.completed]
    return _fanova("fanova_final", "fANOVA, final score of completed trials", "fANOVA, final", dimensions, completed)


def _of_first_rung(data: SweepData, dimensions: Sequence[SearchedDimension]) -> Importances | None:
    if not data.rungs:
        return None
    rung = data.rungs[0]
    scores = [(trial, data.sign * data.score_at(trial, rung)) for trial in data.trials]
    scores = [(trial, score) for trial, score in scores if math.isfinite(score)]
    title = f"fANOVA, score of all trials after epoch {rung}"
    return _fanova("fanova_first_rung", title, f"fANOVA, epoch {rung}", dimensions, scores)


def ordered(data: SweepData) -> list[Trial]:
    """Completed and stopped trials, the best first: completed ones by score, then by rung reached and score there."""
    stopped = [trial for trial in data.trials if trial.run.state == "pruned" and math.isfinite(trial.score)]
    return [*data.completed, *sorted(stopped, key=lambda trial: (-trial.run.epoch, -data.sign * trial.score))]


def rebuilt_study(dimensions: Sequence[SearchedDimension], scored: Sequence[tuple[Trial, float]]) -> "optuna.Study":
    """An Optuna study that holds these trials as completed, the greatest score as the least value."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="minimize")
    space = {dimension.path: _distribution(dimension, [trial for trial, _ in scored]) for dimension in dimensions}
    study.add_trials(
        [
            optuna.trial.create_trial(
                params={path: _inside(distribution, trial.values[path]) for path, distribution in space.items()},
                distributions=space,
                value=-score,
            )
            for trial, score in scored
        ]
    )
    return study


def _fanova(
    name: str, title: str, short: str, dimensions: Sequence[SearchedDimension], scored: Sequence[tuple[Trial, float]]
) -> Importances | None:
    import optuna

    scored = _part(_varied(scored))
    kept = _varying(dimensions, scored)
    if len(scored) < FEWEST_TRIALS or len(kept) < 2:
        return None
    evaluator = optuna.importance.FanovaImportanceEvaluator(
        n_trees=min(64, max(16, _NODES // len(scored))), max_depth=32, seed=0
    )
    return _evaluated((name, title, short), evaluator, kept, scored)


def _ped_anova(dimensions: Sequence[SearchedDimension], scored: Sequence[tuple[Trial, float]]) -> Importances | None:
    import optuna

    kept = _varying(dimensions, scored)
    if len(scored) < 3 * FEWEST_BEST or len(kept) < 2:
        return None
    best = max(FEWEST_BEST, round(BEST_SHARE * len(scored)))
    evaluator_class, share = optuna.importance.PedAnovaImportanceEvaluator, best / len(scored)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental
        try:
            evaluator = evaluator_class(target_quantile=share, evaluate_on_local=True)
        except TypeError:  # Optuna 4
            evaluator = evaluator_class(baseline_quantile=share, evaluate_on_local=True)  # type: ignore[call-arg]
        names = ("ped_anova", f"PED-ANOVA, best {best} of all trials", f"PED-ANOVA, best {best}")
        return _evaluated(names, evaluator, kept, scored)


def _evaluated(
    names: tuple[str, str, str],
    evaluator: "BaseImportanceEvaluator",
    dimensions: Sequence[SearchedDimension],
    scored: Sequence[tuple[Trial, float]],
) -> Importances | None:
    import optuna

    study = rebuilt_study(dimensions, scored)
    try:
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    except (RuntimeError, ValueError):  # scores without variance
        return None
    if not all(math.isfinite(share) for share in found.values()):
        return None
    return Importances(*names, {path: float(share) for path, share in found.items()}, len(scored))


def _distribution(dimension: SearchedDimension, trials: Sequence[Trial]) -> Any:
    """Bounds as searched, widened where a start point lies outside or a step took a value beyond."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    values = [trial.values[dimension.path] for trial in trials]
    if dimension.choices:
        return CategoricalDistribution(tuple(dict.fromkeys([*dimension.choices, *values])))
    low, high = min(dimension.low, *map(float, values)), max(dimension.high, *map(float, values))
    return FloatDistribution(low, high, log=dimension.logarithmic)


def _inside(distribution: Any, value: Any) -> Any:
    return value if hasattr(distribution, "choices") else float(value)


def _varied(scored: Sequence[tuple[Trial, float]]) -> Sequence[tuple[Trial, float]]:
    return scored if len({score for _, score in scored}) > 1 else []


def _varying(dimensions: Sequence[SearchedDimension], scored: Sequence[tuple[Trial, float]]) -> list[SearchedDimension]:
    return [each for each in dimensions if len({str(trial.values[each.path]) for trial, _ in scored}) > 1]


def _part(scored: Sequence[tuple[Trial, float]]) -> Sequence[tuple[Trial, float]]:
    if len(scored) <= MOST_TRIALS:
        return scored
    chosen = np.random.default_rng(0).choice(len(scored), MOST_TRIALS, replace=False)
    return [scored[index] for index in sorted(chosen)]
