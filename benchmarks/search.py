"""Epochs until a search has found what random search at full budget finds: ours, stock Ray Tune, random.

    python benchmarks/search.py [--seeds 12] [--workers 4] [--budget 64] [--plot docs/figures/search.png]

The learning curves of 144 configurations were recorded once (`record_curves.py`, `curves.csv`); here they are replayed
through the real samplers and schedulers with a simulated clock: each worker trains an epoch of its trial per tick,
reports, and asks for another trial when its own ends. A suggested point takes the curve of the recorded combination in
whose cell it lies (cells of equal size in each dimension), for all searches alike; none is given a start point.

- ours: TPE (multivariate, grouped, constant liar) + ASHA, stopped trials told as pruned with their last value
- ours without telling: the same, but stopped trials told as complete (what stock does), to see what that is worth
- stock: ray.tune's OptunaSearch + ASHAScheduler, as they come, with the same rungs
- random + ASHA, and random at full length

Printed: the median over seeds of the epochs (trained in all, over all workers) until a trial that came to its last
epoch has the median final score of random search after `--budget` full trials, with quartiles, and as a share of that
search's epochs. `>` marks a median that lies beyond the cap.
"""

from __future__ import annotations

import argparse
import heapq
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from record_curves import DIMENSIONS, EPOCHS, LEVELS, METRIC, read_table, search_space

GRACE, REDUCTION = 1, 3
CAP = 2.0
"""Times the random search's epochs: a search that needs more is cut off."""


class Search(Protocol):
    """Who suggests points, and decides at each report whether a trial goes on."""

    def ask(self, key: str) -> dict[str, Any]: ...
    def goes_on(self, key: str, epoch: int, score: float) -> bool: ...
    def end(self, key: str, state: str, epoch: int, score: float | None) -> None: ...


class Ours:
    """This package's sampler and scheduler, driven as its recorder drives them."""

    def __init__(self, seed: int, *, sampler: str = "tpe", scheduler: str = "asha", tell_pruned: bool = True) -> None:
        from ctxtune.tuning.backend.scheduler import RungScheduler
        from ctxtune.tuning.search.sampler import Sampler

        space = search_space(
            trials=10**6,
            sampler={"name": sampler, "seed": seed},
            scheduler={"name": scheduler, "grace_epochs": GRACE, "reduction_factor": REDUCTION},
            start_from=[],
        )
        self._sampler = Sampler(space)
        self._rungs = RungScheduler(space) if scheduler != "none" else None
        self._tell_pruned = tell_pruned

    def ask(self, key: str) -> dict[str, Any]:
        return self._sampler.ask(key)

    def goes_on(self, key: str, epoch: int, score: float) -> bool:
        self._sampler.report(key, epoch, score)
        if self._rungs is None:
            return True
        return self._rungs.decide(key, "contextual", {"epoch": float(epoch), METRIC: score}) != "STOP"

    def end(self, key: str, state: str, epoch: int, score: float | None) -> None:
        if state == "pruned" and not self._tell_pruned:
            state = "completed"
        self._sampler.tell(key, state, score)


@dataclass
class StockTrial:
    """What ASHAScheduler looks at in a trial."""

    trial_id: str
    config: dict[str, Any] = field(default_factory=dict)


class Stock:
    """OptunaSearch and ASHAScheduler, called as Tune's loop calls them."""

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


METHODS: dict[str, Callable[[int], Search]] = {
    "ours: TPE + ASHA, pruned told": lambda seed: Ours(seed),
    "ours, pruned told as complete": lambda seed: Ours(seed, tell_pruned=False),
    "stock: OptunaSearch + ASHA": Stock,
    "random + ASHA": lambda seed: Ours(seed, sampler="random"),
    "TPE, full length": lambda seed: Ours(seed, scheduler="none"),
    "random, full length": lambda seed: Ours(seed, sampler="random", scheduler="none"),
}


class Curves:
    """The recorded learning curves, found by any point of the continuous space."""

    def __init__(self) -> None:
        self._table = read_table()
        if len(self._table) < math.prod(len(levels) for levels in LEVELS.values()):
            raise SystemExit("curves.csv is not complete; run record_curves.py")

    def curve(self, point: dict[str, Any]) -> list[float]:
        return self._table[tuple(self._level(name, point[name]) for name in LEVELS)]

    def _level(self, name: str, value: float) -> float:
        levels = LEVELS[name]
        kind, arguments = next(iter(DIMENSIONS[name].items()))
        if kind == "choice":
            return float(value)
        low, high, value = (math.log(x) if kind == "loguniform" else x for x in (*arguments, value))
        return float(levels[min(int((value - low) / (high - low) * len(levels)), len(levels) - 1)])

    def finals(self) -> np.ndarray:
        """The final scores of all configurations that came to the end, the best first."""
        return np.sort([curve[-1] for curve in self._table.values() if len(curve) == EPOCHS])[::-1]


def simulate(search: Search, curves: Curves, workers: int, most_epochs: int) -> list[tuple[int, float]]:
    """Run a search; (epochs trained in all by then, best final score) at each trial that came to its end."""
    clock: list[tuple[int, int, str, int]] = []  # (time, order, trial, epoch that is done then)
    running: dict[str, list[float]] = {}
    trained = asked = order = 0
    best, found = -math.inf, []

    def start(now: int) -> None:
        nonlocal asked, order
        key = f"trial-{asked:04d}"
        running[key] = curves.curve(search.ask(key))
        asked, order = asked + 1, order + 1
        heapq.heappush(clock, (now + 1, order, key, 1))

    for _ in range(workers):
        start(0)
    while trained < most_epochs:
        now, _, key, epoch = heapq.heappop(clock)
        trained += 1
        curve = running[key]
        if epoch > len(curve):
            search.end(key, "failed", epoch, None)
        elif search.goes_on(key, epoch, curve[epoch - 1]) and epoch < EPOCHS:
            order += 1
            heapq.heappush(clock, (now + 1, order, key, epoch + 1))
            continue
        elif epoch < EPOCHS:
            search.end(key, "pruned", epoch, curve[epoch - 1])
        else:
            search.end(key, "completed", epoch, curve[-1])
            best = max(best, curve[-1])
            found.append((trained, best))
        start(now)
    return found


def epochs_until(found: list[tuple[int, float]], target: float) -> float:
    return next((epochs for epochs, score in found if score >= target), math.inf)


def best_at(found: list[tuple[int, float]], epochs: int) -> float:
    return max((score for at, score in found if at <= epochs), default=math.nan)


def table(runs: dict[str, list[list[tuple[int, float]]]], target: float, reference: int) -> str:
    """The results as Markdown."""
    lines = [
        "| search | epochs, median | quartiles | share of random's | seeds that got there |",
        "|---|---|---|---|---|",
    ]
    for name, founds in runs.items():
        needed = np.array([epochs_until(found, target) for found in founds])
        low, median, high = np.quantile(needed, (0.25, 0.5, 0.75), method="inverted_cdf")
        cells = [_number(median, reference), f"{_number(low, reference)} - {_number(high, reference)}"]
        share = f"{median / reference:.2f}" if math.isfinite(median) else f"> {CAP:g}"
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {share} | {np.isfinite(needed).sum()} of {len(needed)} |")
    return "\n".join(lines)


def _number(epochs: float, reference: int) -> str:
    return f"{epochs:.0f}" if math.isfinite(epochs) else f"> {CAP * reference:.0f}"


def plot(runs: dict[str, list[list[tuple[int, float]]]], target: float, reference: int, path: Path) -> None:
    """Best final score so far against epochs trained: median and quartiles over seeds."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.8))
    grid = np.unique(np.geomspace(EPOCHS, CAP * reference, 120).astype(int))
    for name, founds in runs.items():
        scores = np.array([[best_at(found, epochs) for epochs in grid] for found in founds])
        known = ~np.isnan(scores).any(0)
        low, median, high = np.quantile(scores[:, known], (0.25, 0.5, 0.75), axis=0)
        (line,) = axes.plot(grid[known], median, label=name)
        axes.fill_between(grid[known], low, high, color=line.get_color(), alpha=0.12, linewidth=0)
    axes.axhline(target, color="gray", linestyle=":", label=f"random search, {reference} epochs, median")
    axes.set(xscale="log", xlabel="epochs trained in all", ylabel="best final validation MAP@R")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--budget", type=int, default=64, help="full trials of the random search that sets the target")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    curves, reference = Curves(), arguments.budget * EPOCHS
    runs: dict[str, list[list[tuple[int, float]]]] = {}
    for name, method in METHODS.items():
        runs[name] = [
            simulate(method(seed), curves, arguments.workers, int(CAP * reference)) for seed in range(arguments.seeds)
        ]
    target = float(np.median([best_at(found, reference) for found in runs["random, full length"]]))
    finals = curves.finals()
    print(
        f"{len(finals)} configurations of {EPOCHS} epochs; final score best {finals[0]:.4f}, median {np.median(finals):.4f}; "
        f"target {target:.4f} (random search, {arguments.budget} full trials, median of {arguments.seeds} seeds), reached by "
        f"{int((finals >= target).sum())} configurations; {arguments.workers} workers\n"
    )
    print(table(runs, target, reference))
    if arguments.plot:
        plot(runs, target, reference, arguments.plot)


if __name__ == "__main__":
    main()
