"""How selection is to spend few runs: everybody equally, sequential halving, or a race by paired tests.

    python benchmarks/selection.py [--sweeps 4000]

Simulated sweeps: six candidates (five trials and the start) whose true scores differ by a standard deviation of `spread`
times the noise of one run; they come ranked by a search score that has this noise itself, and whose best of many is lucky.
A block (fold and seed) shifts all candidates alike, which pairing takes out. Printed is the regret, the true score of the
best candidate less that of the chosen one, in units of the noise of a run: mean over the sweeps, lower is better, at
numbers of runs from one block for everybody to eight. The paired tests drop a candidate whose difference to the leader is
significant at the level named (one-sided, variance pooled over all candidates) and end where the runs do.
"""

import argparse
import math
from collections.abc import Callable

import numpy as np
from scipy import stats

from ctxtune.tuning.race import halving

ARMS, BLOCKS = 6, 8
QUANTILES = {
    level: [math.inf] + [float(stats.t.ppf(1 - level, df)) for df in range(1, 64)] for level in (0.05, 0.1, 0.2)
}


def equal(scores: np.ndarray, runs: int) -> int:
    """All candidates on as many blocks as there are runs for; where there is not even one, the first ones alone."""
    blocks = runs // ARMS
    return int(np.argmax(scores[:, :blocks].mean(1))) if blocks else int(np.argmax(scores[:runs, 0]))


def by_halving(scores: np.ndarray, runs: int) -> int:
    alive, done = list(range(ARMS)), 0
    for each in halving(ARMS, BLOCKS, runs):
        if done:
            alive = sorted(alive, key=lambda arm: -scores[arm, :done].mean())
        alive, done = alive[: each.arms], each.blocks
    return max(alive, key=lambda arm: scores[arm, :done].mean()) if done else 0


def by_paired_test(level: float) -> Callable[[np.ndarray, int], int]:
    def race(scores: np.ndarray, runs: int) -> int:
        alive, blocks = list(range(min(ARMS, runs))), 0
        while blocks < BLOCKS and runs >= len(alive) > 1:
            blocks, runs = blocks + 1, runs - len(alive)
            if blocks > 1:
                seen = scores[alive, :blocks]
                mean = seen.mean(1)
                residual = seen - mean[:, None] - seen.mean(0) + seen.mean()
                freedom = (len(alive) - 1) * (blocks - 1)
                error = math.sqrt(2 * (residual**2).sum() / freedom / blocks)
                most = QUANTILES[level][freedom] * error
                alive = [arm for arm, own in zip(alive, mean, strict=True) if mean.max() - own <= most]
        return max(alive, key=lambda arm: scores[arm, :blocks].mean())

    return race


METHODS: dict[str, Callable[[np.ndarray, int], int]] = {
    "equally": equal,
    "sequential halving": by_halving,
    **{f"paired test, {level:g}": by_paired_test(level) for level in QUANTILES},
}


def regrets(spread: float, sweeps: int) -> dict[str, dict[int, float]]:
    """Mean regret by method and number of runs."""
    random = np.random.default_rng(0)
    budgets = (3, 4, 6, 9, 12, 18, 24, 36, 48)
    sums = {name: dict.fromkeys(budgets, 0.0) for name in METHODS}
    for _ in range(sweeps):
        true = random.normal(0, spread, ARMS)
        true = true[np.argsort(-(true + random.normal(0, 1, ARMS)))]
        scores = true[:, None] + random.normal(0, 1, (ARMS, BLOCKS)) + random.normal(0, 2, BLOCKS)
        for name, method in METHODS.items():
            for runs in budgets:
                sums[name][runs] += float(true.max() - true[method(scores, runs)]) / sweeps
    return sums


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=4000)
    sweeps = parser.parse_args().sweeps
    for spread in (0.5, 1.0, 2.0):
        found = regrets(spread, sweeps)
        budgets = list(next(iter(found.values())))
        print(f"candidates differ by {spread:g} times the noise of a run\n")
        print("| runs | " + " | ".join(map(str, budgets)) + " |\n|---" + "|---" * len(budgets) + "|")
        for name, by_runs in found.items():
            print(f"| {name} | " + " | ".join(f"{by_runs[runs]:.2f}" for runs in budgets) + " |")
        print()


if __name__ == "__main__":
    main()
