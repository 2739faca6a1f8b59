"""Where the luck lies: how much of the scatter of an ablation comes from seeds, folds and tuning runs."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ctxtune.results.ablation import AblationResults
from ctxtune.statistics import crossed_components, nested_components
from ctxtune.statistics.intervals import Floats


@dataclass(frozen=True)
class LuckComponent:
    """A source of scatter.

    Attributes:
        source: "seed", "fold", "seed within fold" (with noise), "tuning".
        scores: standard deviation that it gives the scores of a cell, over all cells.
        differences: that it gives the paired differences to the reference; what both arms share has gone from them.
    """

    source: str
    scores: float
    differences: float | None


def luck(results: AblationResults) -> tuple[LuckComponent, ...]:
    """The components of variance of the judged score, as standard deviations; nothing where replications are too few.

    With several folds: seed, fold, and what is left. With repeats of search and seeds: tuning, and seed within it. Variances
    are averaged over the cells (or contrasts).
    """
    repeated = results.design.repeats > 1
    components = _nested if repeated else _crossed
    names = ["tuning", "seed"] if repeated else ["seed", "fold", "seed within fold"]
    tables = {cell: table for cell in results.cells if (table := _table(results, cell))}
    scores = _pooled((_matrix(table) for table in tables.values()), components)
    pairs = [(each.cell, each.against) for each in results.design.contrasts]
    differences = _pooled(
        (_difference(tables[cell], tables[against]) for cell, against in pairs if cell in tables and against in tables),
        components,
    )
    if scores is None:
        return ()
    others = [None] * len(names) if differences is None else [float(value) for value in np.sqrt(differences)]
    return tuple(
        LuckComponent(name, float(score), other)
        for name, score, other in zip(names, np.sqrt(scores), others, strict=True)
    )


Table = dict[int, dict[object, float]]
"""Scores by row (seed, or repeat) and column (fold, or seed)."""


def _table(results: AblationResults, cell: str) -> Table:
    found: Table = {}
    if results.design.repeats > 1:
        for (repeat, seed), score in results.seed_scores(cell).items():
            found.setdefault(repeat, {})[seed] = score
        return found
    for (_, seed), runs in results.whole_seeds.get(cell, {}).items():
        row = {fold: run.last(results.design.metric) for fold, run in zip(results.folds, runs, strict=True)}
        known: dict[object, float] = {fold: value for fold, value in row.items() if value is not None}
        if len(known) == len(row):
            found[seed] = known
    return found


def _matrix(table: Table) -> Floats:
    """The rows that have every column."""
    columns = sorted({column for row in table.values() for column in row}, key=str)
    return np.array([[row[column] for column in columns] for row in table.values() if len(row) == len(columns)])


def _difference(ours: Table, theirs: Table) -> Floats:
    return _matrix(
        {
            row: {column: value - theirs[row][column] for column, value in columns.items() if column in theirs[row]}
            for row, columns in ours.items()
            if row in theirs
        }
    )


def _pooled(matrices: Iterable[Floats], components: Callable[[Floats], tuple[float, ...]]) -> Floats | None:
    found = [components(matrix) for matrix in matrices if matrix.ndim == 2 and min(matrix.shape) >= 2]
    return np.mean(found, axis=0) if found else None


def _crossed(scores: Floats) -> tuple[float, ...]:
    each = crossed_components(scores)
    return each.seed, each.fold, each.residual


def _nested(scores: Floats) -> tuple[float, ...]:
    each = nested_components(scores)
    return each.tuning, each.seed
