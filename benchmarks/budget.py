"""What the budget of each shipped GPU space buys: trials, share of the search, selection and confirmation.

    python benchmarks/budget.py [cars cub ...] [--rates 150 400 900 2000] [--gpus 1 4 8] [--hours 24]

Each file is run through the real driver, sampler, rungs, budget and recorder on a simulated clock; a run takes the time of
its training images at so many a second, evaluations included, and a head on kept features what `--assume` takes for one. No
images are needed: the official sizes are taken. Scores are the learning curves that `record_curves.py` recorded on glyphs:
a point of the space takes the curve of the recorded configuration that lies where it lies in its own space, at the share of
the epochs that it has run, with noise of seed and fold. `model.train` and other dimensions that were not recorded change
what a run takes, not how it scores.
"""

import argparse
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from record_curves import LEVELS, read_table

from ctxtune.config import Dimension, SweepConfig, load_search_space
from ctxtune.errors import CtxtuneError
from ctxtune.tuning.plan import full_runs
from ctxtune.tuning.record.run_spec import RunSpec
from ctxtune.tuning.simulation import simulated_sweep
from ctxtune.tuning.timing import Assumed, planned_resources

SPACES = Path(__file__).resolve().parent.parent / "search_spaces"
GPU_SPACES = ("cars", "cub", "sop", "inshop", "inaturalist", "cars_dinov2", "cub_dinov2")
SHARED_NOISE, OWN_NOISE = 0.02, 0.007
"""Standard deviations of a score: of fold and seed, which runs on the same block share, and of a run of its own."""


def recorded_scores(space: SweepConfig) -> Callable[[RunSpec, float], float]:
    """The recorded curve of each point's place in a space, at a share of its epochs, with noise."""
    table = read_table()
    dimensions = space.search.space

    def score(spec: RunSpec, share: float) -> float:
        key = tuple(_level(levels, dimensions.get(path), spec.point.get(path)) for path, levels in LEVELS.items())
        curve = [0.0, *table[key]]
        at = min(share * max(map(len, table.values())), len(curve) - 1)  # a run that failed stays where it was
        shared = np.random.default_rng([spec.seed % 2**32, *spec.folds]).normal()
        own = np.random.default_rng([*spec.key.encode(), round(1000 * share)]).normal()
        value = float(np.interp(at, range(len(curve)), curve))
        return value + SHARED_NOISE * shared + OWN_NOISE * own

    return score


def _level(levels: tuple[float, ...], dimension: Dimension | None, value: Any) -> float:
    """The recorded level in whose part of its range a value lies; the middle one of what is not searched."""
    if dimension is None or value is None:
        return float(levels[len(levels) // 2])
    if dimension.kind == "choice":
        place = dimension.choices.index(value) / len(dimension.choices)
    else:
        low, high, at = (
            math.log(each) if "log" in dimension.kind else each for each in (dimension.low, dimension.high, value)
        )
        place = (at - low) / (high - low)
    return float(levels[min(max(int(place * len(levels)), 0), len(levels) - 1)])


@dataclass(frozen=True)
class Outcome:
    """A simulated sweep.

    Attributes:
        full_minutes: of each kind of full-length run, the start's first.
        finished: of the ``trials``, those that came to their end; ``asked``: of the file.
        share: of the work, what the search had; ``searched``: of the budget's hours.
        rounds: candidates and blocks of selection, round by round.
        refused: why the budget was refused, or "".
    """

    full_minutes: tuple[float, ...]
    trials: int = 0
    finished: int = 0
    asked: int = 0
    epochs: int = 0
    share: float = 0.0
    searched: float = 0.0
    selection_runs: int = 0
    rounds: tuple[tuple[int, int], ...] = ()
    seeds: int = 0
    hours: float = 0.0
    budget: float = math.inf
    longest_evaluation: float = 0.0
    ended_by: str = ""
    refused: str = ""


def outcome(name: str, rate: float, gpus: int, overrides: tuple[str, ...] = ()) -> Outcome:
    """Simulate the sweep of a shipped file on an assumed machine."""
    space = load_search_space(SPACES / f"{name}.yaml", [*overrides])
    assumed = Assumed(rate, gpus)
    resources = planned_resources(space, None, space.search.max_concurrent, assumed)
    runs = full_runs(space, assumed)
    minutes = tuple(run.seconds / 60 for run in runs.by_values.values())
    evaluations = space.trial.schedule.epochs / space.trial.evaluation.every
    try:
        with simulated_sweep(space, resources, runs.seconds, score=recorded_scores(space)) as simulated:
            journal, executor = simulated.journal, simulated.executor
            states = Counter(run.state for run in journal.stage("search"))
            return Outcome(
                full_minutes=minutes,
                trials=states.total(),
                finished=states["completed"],
                asked=space.search.trials,
                epochs=sum(run.epoch for run in journal.stage("search")),
                share=executor.busy["search"] / sum(executor.busy.values()),
                searched=executor.spans["search"] / (space.search.budget.hours or math.inf),
                selection_runs=len(journal.stage("selection")),
                rounds=tuple(tuple(each) for each in journal.decisions.selection.rounds),
                seeds=journal.decisions.confirmation.seeds,
                hours=executor.clock / 3600,
                budget=space.search.budget.hours or math.inf,
                longest_evaluation=max(minutes) / 60 / evaluations,
                ended_by=journal.decisions.search_ended.reason,
            )
    except CtxtuneError as error:
        return Outcome(full_minutes=minutes, refused=str(error))


def line(name: str, rate: float, gpus: int, found: Outcome) -> str:
    """An outcome as a line of Markdown."""
    minutes = " / ".join(f"{each:.2g}" if each < 10 else f"{each:.0f}" for each in found.full_minutes)
    head = f"| {name} | {rate:g} | {gpus} | {minutes} min |"
    if found.refused:
        return f"{head} {found.refused} | | | | | |"
    rounds = ", ".join(f"{arms} on {blocks}" for arms, blocks in found.rounds) or "none"
    return (
        f"{head} {found.trials} of {found.asked} ({found.finished} whole) | {found.epochs} | {found.share:.0%} | "
        f"{found.selection_runs} ({rounds}) | {found.seeds} | {found.hours:.1f} of {found.budget:g} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spaces", nargs="*", default=GPU_SPACES)
    parser.add_argument("--rates", nargs="+", type=float, default=[150, 400, 900, 2000])
    parser.add_argument("--gpus", nargs="+", type=int, default=[1, 4, 8])
    parser.add_argument("--hours", type=float, help="instead of the file's")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    overrides = (*arguments.overrides, *([f"search.budget.hours={arguments.hours}"] if arguments.hours else []))
    print("| space | images/s | GPUs | full run | trials | epochs | search | selection | seeds | hours |")
    print("|---" * 10 + "|")
    for name in arguments.spaces:
        for rate in arguments.rates:
            for gpus in arguments.gpus:
                print(line(name, rate, gpus, outcome(name, rate, gpus, overrides)), flush=True)


if __name__ == "__main__":
    main()
