"""What a suggestion of TPE costs: ours and Optuna's own, of one study, by the trials that there have been.

    python benchmarks/suggestions.py [--trials 50 300 1000 3000] [--running 4] [--repeats 30]

Six dimensions: two uniform, two logarithmic, one whole number, one choice. A third of the trials ended whole, the others were
stopped. Both suggest the same (counted: the points that agree to 1e-6), as far as both learn from all trials. Printed: the
best of three rounds, milliseconds of processor time for each suggestion with what Optuna's study does around it.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from ctxtune.tuning.search.tree_parzen import TreeParzenSampler, TrialHistory

STARTUP = 10
ROUNDS = 3
Point = dict[str, float]


def suggest(trial: optuna.Trial) -> Point:
    """A point; a choice as its place."""
    return {
        "rate": trial.suggest_float("rate", 1e-5, 1e-1, log=True),
        "decay": trial.suggest_float("decay", 1e-6, 1e-2, log=True),
        "weight": trial.suggest_float("weight", 0, 1),
        "margin": trial.suggest_float("margin", 0, 1),
        "neighbors": trial.suggest_int("neighbors", 1, 20),
        "loss": "abc".index(str(trial.suggest_categorical("loss", ["a", "b", "c"]))),
    }


def study_of(trials: int, running: int) -> optuna.Study:
    """A study of random trials."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    noise = np.random.default_rng(0)
    for number in range(trials):
        trial = study.ask()
        point = suggest(trial)
        score = -abs(np.log10(point["rate"]) + 3) - abs(point["margin"] - 0.3) + 0.1 * noise.normal()
        epochs = 1 + number % 3
        for epoch in range(epochs):
            trial.report(score, epoch)
        study.tell(
            trial, score if epochs == 3 else None, state=TrialState.COMPLETE if epochs == 3 else TrialState.PRUNED
        )
    for _ in range(running):
        suggest(study.ask())
    return study


def suggestions(study: optuna.Study, sampler: Callable[[int], BaseSampler], repeats: int) -> tuple[float, list[Point]]:
    """Milliseconds of processor time a suggestion, and what was suggested."""
    points = []
    began = time.process_time()
    for seed in range(repeats):
        study.sampler = sampler(seed)
        trial = study.ask()
        points.append(suggest(trial))
        study.tell(trial, state=TrialState.FAIL)
    return (time.process_time() - began) / repeats * 1e3, points


def optunas(seed: int) -> BaseSampler:
    """As the default search had it before it had an estimator of its own."""
    return optuna.samplers.TPESampler(
        seed=seed, multivariate=False, group=False, constant_liar=True, n_startup_trials=STARTUP
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[50, 300, 1000, 3000])
    parser.add_argument("--running", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=30)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print("| trials | ours, ms | Optuna's, ms | ours / Optuna's | the same point |\n|---|---|---|---|---|")
    for trials in arguments.trials:
        study, history = study_of(trials, arguments.running), TrialHistory()

        def ours(seed: int, history: TrialHistory = history) -> BaseSampler:
            return TreeParzenSampler(history, seed=seed, startup_trials=STARTUP)

        rounds = [
            (suggestions(study, ours, arguments.repeats), suggestions(study, optunas, arguments.repeats))
            for _ in range(ROUNDS)
        ]
        mine, theirs = (min(each[which][0] for each in rounds) for which in (0, 1))
        same = sum(
            np.allclose(list(a.values()), list(b.values()), rtol=1e-6)
            for (_, all_mine), (_, all_theirs) in rounds
            for a, b in zip(all_mine, all_theirs, strict=True)
        )
        print(
            f"| {trials:,} | {mine:.2f} | {theirs:.2f} | {mine / theirs:.2f} | {same} of {ROUNDS * arguments.repeats} |"
        )


if __name__ == "__main__":
    main()
