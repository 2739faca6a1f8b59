"""Sequential halving (Karnin, Koren and Somekh, ICML 2013): which candidates are scored how often, within a number of runs.

A block is one fold with one seed; every candidate of a round is scored on the same blocks, so that differences are paired.
After a round the better half goes on. What is run depends on the number of runs alone and is settled before a score is
known; `benchmarks/selection.py` compares it with racing by paired tests.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Round:
    """The best ``arms`` of the round before are scored until each has ``blocks`` blocks."""

    arms: int
    blocks: int


def halving(arms: int, blocks: int, runs: int) -> tuple[Round, ...]:
    """The rounds that a number of runs pays for.

    Args:
        arms: candidates, the most promising first. Where there are less than three runs for each, the last ones are left out:
            in simulation that costs less than comparing everybody on a block or two.
        blocks: the most that a candidate is scored on.
        runs: at most, all rounds together.

    Returns:
        Everything in one round where the runs suffice; nothing where they do not pay for two candidates.

    >>> halving(6, 8, 48), halving(6, 8, 18)
    ((Round(arms=6, blocks=8),), (Round(arms=6, blocks=1), Round(arms=3, blocks=3), Round(arms=2, blocks=6)))
    """
    if arms * blocks <= runs:
        return (Round(arms, blocks),)
    left = min(arms, max(2, runs // 3))
    if runs < 2 or arms < 2:
        return ()
    rounds: list[Round] = []
    scored, steps = 0, max(1, math.ceil(math.log2(left)))
    for step in range(steps):
        new = max(0 if scored else 1, min(blocks - scored, runs // (steps - step) // left))
        if step == steps - 1:
            new = min(blocks - scored, runs // left)  # the last round takes what is left
        if new:
            scored, runs = scored + new, runs - new * left
            rounds.append(Round(left, scored))
        left = max(2, math.ceil(left / 2))
    return tuple(rounds)


def new_runs(rounds: Sequence[Round]) -> list[int]:
    """How many runs each round adds."""
    before = [0, *(each.blocks for each in rounds)]
    return [each.arms * (each.blocks - done) for each, done in zip(rounds, before, strict=False)]


def longest_race(arms: int, blocks: int, fits: Callable[[Sequence[Round]], bool]) -> tuple[Round, ...]:
    """The rounds of the greatest number of runs that fits; none where not even two candidates do."""
    for runs in range(arms * blocks, 1, -1):
        rounds = halving(arms, blocks, runs)
        if rounds and fits(rounds):
            return rounds
    return ()
