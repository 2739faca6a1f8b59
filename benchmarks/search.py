"""Epochs until a search has found what random search at full length finds: ours, its rivals, random.

    python benchmarks/search.py [--seeds 30] [--workers 4] [--budget 120] [--methods TEXT ...] [--tasks NAME ...] [--trees]
                                [--cap 0.25]

The learning curves of 2,448 configurations on three tasks were recorded once (`record_search_tables.py`,
`search_tables.npz`). Here they are replayed through the real samplers and schedulers with a simulated clock: each worker
trains an epoch of its trial per tick, reports, and asks for another trial when its own ends. A suggested point takes the
curve that a model of the table gives it (`search_table.Surrogate`; its cross-validated rank correlation is printed) and
the roughness of a recorded one, for all searches alike; none is given a start point. A search is judged by what the model
expects of its best completed trial, without that roughness: by what a selection on other seeds would find.

Printed for each task: the median over seeds of the epochs (trained in all, over all workers) until that is as good as the
median of random search after `--budget` full trials, with quartiles, as a share of that search's epochs; and the regret,
in points of MAP@R to the best expected score of 20,000 random points, at 1/16, 1/8, 1/4 and 1/2 of them, with a 95 %
interval of the mean over seeds.
"""

from __future__ import annotations

import argparse
import heapq
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy import stats
from search_methods import Ours, Search, Stock, cma_es, gaussian_process, mixed, tpe
from search_rivals import BOHB, HEBO, missing
from search_table import DIMENSIONS, EPOCHS, Surrogate, from_unit_cube, read_tables

from ctxtune.tuning.search.learning_curves import CurveSampler

SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
RANDOM = "random, full length"
METHODS: dict[str, Callable[[int], Search]] = {
    RANDOM: lambda seed: Ours(seed, sampler="random", scheduler="none"),
    "random + ASHA": lambda seed: Ours(seed, sampler="random"),
    "ours (default) + ASHA": Ours,
    "stock: OptunaSearch + ASHA": Stock,
    "TPE, multivariate and grouped": lambda seed: Ours(
        seed, optuna_sampler=partial(tpe, multivariate=True, group=True)
    ),
    "ours, stopped told as complete": lambda seed: Ours(seed, told="completed"),
    "GP + ASHA": lambda seed: Ours(seed, optuna_sampler=gaussian_process),
    "GP + ASHA, stopped told as complete": lambda seed: Ours(seed, told="completed", optuna_sampler=gaussian_process),
    "a quarter random, stopped told as complete": lambda seed: Ours(
        seed, told="completed", optuna_sampler=partial(mixed, share=0.25)
    ),
    "GP that learns from curves + ASHA": lambda seed: Ours(
        seed, optuna_sampler=lambda seed: CurveSampler(gaussian_process(seed))
    ),
    "CMA-ES + ASHA": lambda seed: Ours(seed, optuna_sampler=cma_es),
    "BOHB's sampler + ASHA": BOHB,
    "HEBO + ASHA": HEBO,
}


Found = list[tuple[int, float]]
"""(epochs trained in all by then, expected final score of the best trial) at each trial that came to its end."""


def simulate(search: Search, surrogate: Surrogate, workers: int, most_epochs: int) -> Found:
    """Run a search."""
    clock: list[tuple[int, int, str, int]] = []  # (time, order, trial, epoch that is done then)
    running: dict[str, tuple[dict[str, Any], list[float]]] = {}
    trained = asked = order = 0
    best, found = -math.inf, []

    def start(now: int) -> None:
        nonlocal asked, order
        key = f"trial-{asked:04d}"
        point = search.ask(key)
        broken = point["loss.negative_margin"] >= point["loss.positive_margin"]  # stock knows no constraints
        running[key] = point, [] if broken else surrogate.curve(point).tolist()
        asked, order = asked + 1, order + 1
        heapq.heappush(clock, (now + 1, order, key, 1))

    for _ in range(workers):
        start(0)
    while trained < most_epochs:
        now, _, key, epoch = heapq.heappop(clock)
        trained += 1
        point, curve = running[key]
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
            if curve[-1] > best:
                best = curve[-1]
                found.append((trained, float(surrogate.expected(point)[-1])))
        del running[key]
        start(now)
    return found


def epochs_until(found: Found, target: float) -> float:
    """When a search's best trial was first as good as the target."""
    return next((epochs for epochs, score in found if score >= target), math.inf)


def best_at(found: Found, epochs: int, otherwise: float) -> float:
    """The expected score of the best trial by then; ``otherwise`` where none had come to its end."""
    return next((score for at, score in reversed(found) if at <= epochs), otherwise)


def best_expected(surrogate: Surrogate, draws: int = 20_000) -> tuple[float, float]:
    """The best expected final score of random points, and the median."""
    random = np.random.default_rng(0)
    rows = [from_unit_cube(row) for row in random.random((draws, len(DIMENSIONS)))]
    scores = surrogate.expected_of_all([r for r in rows if r["loss.negative_margin"] < r["loss.positive_margin"]])
    return float(scores[:, -1].max()), float(np.median(scores[:, -1]))


def row(name: str, founds: list[Found], target: float, reference: int, cap: float, best: float, median: float) -> str:
    """A method's line of the table of a task."""
    needed = np.array([epochs_until(found, target) for found in founds]) / reference
    low, middle, high = np.quantile(needed, (0.25, 0.5, 0.75), method="inverted_cdf")
    cells = [
        _share(middle, cap),
        f"{_share(low, cap)} to {_share(high, cap)}",
        f"{np.isfinite(needed).sum()} of {len(needed)}",
    ]
    for share in (each for each in SHARES if each <= cap):
        regrets = 100 * np.array([best - best_at(found, int(reference * share), median) for found in founds])
        half = 1.96 * regrets.std(ddof=1) / math.sqrt(len(regrets)) if len(regrets) > 1 else math.nan
        cells.append(f"{regrets.mean():.2f} ± {half:.2f}")
    return f"| {name} | {' | '.join(cells)} |"


def _share(epochs: float, cap: float) -> str:
    return f"{epochs:.3f}" if math.isfinite(epochs) else f"> {cap:g}"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--budget", type=int, default=120, help="full trials of the random search that sets the target")
    parser.add_argument("--methods", nargs="+", default=[], help="only those whose name holds one of these texts")
    parser.add_argument("--tasks", nargs="+", help="only these")
    parser.add_argument("--cap", type=float, default=0.5, help="share of its epochs at which a search is cut off")
    parser.add_argument("--trees", action="store_true", help="a forest in place of the Gaussian process as the model")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # Optuna's samplers are experimental, by their own words
    reference = arguments.budget * EPOCHS
    shares = [share for share in SHARES if share <= arguments.cap]
    chosen = {
        name: make
        for name, make in METHODS.items()
        if name != RANDOM and (not arguments.methods or any(text in name for text in arguments.methods))
    }
    for name in [name for name in chosen if missing(name)]:
        print(f"{name}: left out, {' and '.join(missing(name))} not installed (see search_rivals.py)")
        del chosen[name]
    for task, table in read_tables().items():
        if arguments.tasks and task not in arguments.tasks:
            continue
        surrogate = Surrogate(table, trees=arguments.trees)
        agreement = stats.spearmanr(surrogate.cross_validated[:, -1], surrogate.recorded[:, -1]).statistic
        random = [
            simulate(METHODS[RANDOM](seed), surrogate, arguments.workers, reference) for seed in range(arguments.seeds)
        ]
        target = float(np.median([best_at(found, reference, 0.0) for found in random]))
        best, median = best_expected(surrogate)
        print(
            f"\n{task}: {len(surrogate.recorded)} configurations, cross-validated rank correlation {agreement:.2f}; "
            f"best expected {best:.4f}, median {median:.4f}, target {target:.4f} ({arguments.budget} random trials)\n"
        )
        print(
            "| search | epochs to the target, of random's | quartiles | reached |"
            + "".join(f" regret at {s:g} |" for s in shares)
        )
        print("|---" * (4 + len(shares)) + "|")
        for name, make in chosen.items():
            founds = [
                simulate(make(seed), surrogate, arguments.workers, int(arguments.cap * reference))
                for seed in range(1000, 1000 + arguments.seeds)
            ]
            print(row(name, founds, target, reference, arguments.cap, best, median), flush=True)


if __name__ == "__main__":
    main()
