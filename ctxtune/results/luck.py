"""Where the luck lies: how much of the scatter of an ablation comes from seeds, folds and tuning runs."""

import contextlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ctxtune.results.ablation import AblationResults
from ctxtune.results.designs import AblationDesign
from ctxtune.statistics import crossed_components, nested_components
from ctxtune.statistics.intervals import Floats

Components = Callable[[Floats, list[int]], tuple[float, ...]]
"""From a matrix of scores, and which replications its rows are, to estimated variances."""


@dataclass(frozen=True)
class LuckComponent:
    """A source of scatter.

    Attributes:
        source: "seed", "fold", "seed within fold" (with noise), "tuning"; "split" or "tuning fold" where some repeats share
            one, else the tuning has it in it: "tuning and split".
        scores: standard deviation that it gives the scores of a cell, over all cells.
        differences: that it gives the paired differences to the reference; what both arms share has gone from them.
    """

    source: str
    scores: float
    differences: float | None


def luck(results: AblationResults) -> tuple[LuckComponent, ...]:
    """The components of variance of the judged score, as standard deviations; nothing where replications are too few.

    With several folds: seed, fold, and what is left. With repeats of search and seeds: what they have in turn (splits, folds
    to tune on), tuning, and seed within it. Variances are averaged over the cells (or contrasts); a negative average is 0.
    """
    tables = {cell: table for cell in results.cells if (table := _table(results, cell))}
    names, components = _model(results.design)
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


def _model(design: AblationDesign) -> tuple[list[str], Components]:
    """The sources of variance that a design can tell apart, and how they are estimated."""
    if design.repeats == 1:
        return ["seed", "fold", "seed within fold"], lambda scores, rows: _crossed(scores)
    turns = {"split": design.splits, "tuning fold": len(design.rotated)}
    name = " and ".join(each for each, count in turns.items() if count > 1)
    groups = [tuple(repeat % max(1, count) for count in turns.values()) for repeat in range(design.repeats)]
    if len(set(groups)) == 1:
        return ["tuning", "seed"], lambda scores, rows: _nested(scores)
    if len(set(groups)) == design.repeats:  # no two repeats share one: it cannot be told from the tuning
        return [f"tuning and {name}", "seed"], lambda scores, rows: _nested(scores)
    return [name, "tuning", "seed"], lambda scores, rows: _grouped(scores, [groups[row] for row in rows])


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


def _matrix(table: Table) -> tuple[Floats, list[int]]:
    """The rows that have every column, and which they are."""
    columns = sorted({column for row in table.values() for column in row}, key=str)
    rows = [row for row, values in table.items() if len(values) == len(columns)]
    return np.array([[table[row][column] for column in columns] for row in rows]), rows


def _difference(ours: Table, theirs: Table) -> tuple[Floats, list[int]]:
    return _matrix(
        {
            row: {column: value - theirs[row][column] for column, value in columns.items() if column in theirs[row]}
            for row, columns in ours.items()
            if row in theirs
        }
    )


def _pooled(matrices: Iterable[tuple[Floats, list[int]]], components: Components) -> Floats | None:
    """Variances averaged over the matrices that tell them, 0 at least: averaged first, since each single one is unbiased."""
    found = []
    for matrix, rows in matrices:
        if matrix.ndim == 2 and min(matrix.shape) >= 2:
            with contextlib.suppress(ValueError):  # repeats were lost: none that are left share a split
                found.append(components(matrix, rows))
    return np.maximum(0.0, np.mean(found, axis=0)) if found else None


def _crossed(scores: Floats) -> tuple[float, ...]:
    each = crossed_components(scores)
    return each.seed, each.fold, each.residual


def _nested(scores: Floats) -> tuple[float, ...]:
    each = nested_components(scores)
    return each.tuning, each.seed


def _grouped(scores: Floats, groups: Sequence[Hashable]) -> tuple[float, ...]:
    each = nested_components(scores, groups)
    assert each.group is not None
    return each.group, each.tuning, each.seed
