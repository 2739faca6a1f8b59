"""An ablation's scores from MLflow: one value for each cell, score and replication."""

import json
import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from ctxtune.errors import TrackingError
from ctxtune.reporting.study import Study, read_file
from ctxtune.statistics import ClassScores
from ctxtune.tracking import TrackedRun, read_texts

Unit = int
"""One replication: the index of a seed or, where search and seeds are repeated, of a repeat."""
CLASS_FILE = "per_class_scores.json"


class _Plain(BaseModel):
    """Written by the ablation room; what later versions add is not in our way."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Cell(_Plain):
    """One arm at one combination of factor levels."""

    cell: str
    variant: str
    levels: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    hash: str = ""


class Contrast(_Plain):
    """A cell and the reference that it is compared with."""

    cell: str
    against: str


class Design(_Plain):
    """`design.json` of an ablation's parent run.

    Attributes:
        folds: that every seed is scored on, as in the runs' tag; None in those that were written without.
        equivalence: the largest difference that is practically none, as stated beforehand; None where nothing was.
    """

    name: str
    metric: str
    mode: Literal["max", "min"] = "max"
    equivalence: float | None = None
    reference: str
    design: str = "grid"
    seeds: int
    repeats: int = 1
    folds: list[str] | None = None
    confirmatory: bool = False
    tuning: Literal["each", "none"] = "none"
    tuned_for: str | None = None
    dataset: str
    factors: dict[str, list[Any]] = {}
    variants: list[str]
    cells: list[Cell]
    contrasts: list[Contrast]


@dataclass(frozen=True)
class AblationData:
    """An ablation's design and its runs; scores are the last ones of completed runs, averaged over folds."""

    study: Study
    design: Design

    @cached_property
    def cells(self) -> dict[str, Cell]:
        """The cells by name, in the file's order."""
        return {cell.cell: cell for cell in self.design.cells}

    @cached_property
    def references(self) -> frozenset[str]:
        """The cells that others are compared with."""
        return frozenset(contrast.against for contrast in self.design.contrasts) or frozenset([self.design.reference])

    @property
    def replication(self) -> str:
        """What a replication is: "seed" or "repeat"."""
        return "repeat" if self.design.repeats > 1 else "seed"

    @property
    def part(self) -> str:
        """What was scored: "validation" or "test"."""
        return self.design.metric.partition("/")[0]

    @cached_property
    def runs(self) -> list[TrackedRun]:
        """The runs of the cells' seeds."""
        return self.study.of_kind("cell")

    @cached_property
    def folds(self) -> list[str]:
        """The folds that seeds are scored on; those seen so far where the design does not say."""
        if self.design.folds:
            return self.design.folds
        return sorted({run.tags.get("fold", "") for run in self.runs}) or [""]

    @cached_property
    def complete(self) -> dict[str, dict[Unit, list[TrackedRun]]]:
        """The completed runs of each cell and replication: every seed and fold of it is there."""
        grouped: dict[tuple[str, int], dict[int, dict[str, TrackedRun]]] = {}
        for run in self.runs:
            if run.state == "completed":
                key = (run.tags.get("cell", ""), int(run.tags.get("repeat") or 0))
                seeds = grouped.setdefault(key, {})
                seeds.setdefault(int(run.tags.get("seed_index") or 0), {})[run.tags.get("fold", "")] = run
        found: dict[str, dict[Unit, list[TrackedRun]]] = {cell: {} for cell in self.cells}
        for (cell, repeat), seeds in grouped.items():
            whole = {
                index: [folds[fold] for fold in self.folds]
                for index, folds in seeds.items()
                if all(fold in folds for fold in self.folds)
            }
            if cell not in found:
                continue
            if self.design.repeats == 1:
                found[cell] |= whole
            elif len(whole) == self.design.seeds:
                found[cell][repeat] = [run for runs in whole.values() for run in runs]
        return {cell: dict(sorted(units.items())) for cell, units in found.items()}

    def scores(self, cell: str, metric: str) -> dict[Unit, float]:
        """A score of a cell by replication: mean over its seeds (with repeats) and folds."""
        values = {
            unit: float(np.mean([run.metrics.get(metric, math.nan) for run in runs]))
            for unit, runs in self.complete.get(cell, {}).items()
        }
        return {unit: value for unit, value in values.items() if math.isfinite(value)}

    def pairs(self, cell: str, against: str, metric: str) -> tuple[list[float], list[float]]:
        """The scores of two cells over the replications that both have."""
        ours, theirs = self.scores(cell, metric), self.scores(against, metric)
        shared = [unit for unit in ours if unit in theirs]
        return [ours[unit] for unit in shared], [theirs[unit] for unit in shared]

    @cached_property
    def expected_runs(self) -> int:
        """Runs of a finished ablation, its searches aside."""
        return len(self.cells) * self.design.repeats * self.design.seeds * len(self.folds)

    @cached_property
    def states(self) -> Counter[str]:
        """Number of the cells' runs by state."""
        return Counter(run.state for run in self.runs)

    @cached_property
    def class_scores(self) -> dict[str, dict[str, dict[str, tuple[float, float]]]]:
        """By run and metric: each class's sum over its queries and their number, of runs that kept them."""
        wanted = [run for units in self.complete.values() for runs in units.values() for run in runs]
        return {run_id: json.loads(text) for run_id, text in read_texts(self.study.uri, wanted, CLASS_FILE).items()}

    def class_arms(self, cell: str, against: str, metric: str) -> tuple[list[ClassScores], list[ClassScores]] | None:
        """Both cells' class scores by fold over their shared replications; None where they were not kept.

        With repeats a replication's sums are over its seeds.
        """
        ours, theirs = self.complete.get(cell, {}), self.complete.get(against, {})
        shared = [unit for unit in ours if unit in theirs]
        if len(shared) < 2:
            return None
        arms: tuple[list[ClassScores], list[ClassScores]] = ([], [])
        for fold in self.folds:
            tables = [
                [
                    self._table([run for run in units[unit] if run.tags.get("fold", "") == fold], metric)
                    for unit in shared
                ]
                for units in (ours, theirs)
            ]
            each = [table for arm in tables for table in arm]
            if any(not table for table in each) or any(set(table) != set(each[0]) for table in each):
                return None
            classes = sorted(each[0])
            for arm, rows in zip(arms, tables, strict=True):
                sums = np.array([[row[label][0] for label in classes] for row in rows])
                counts = np.array([[row[label][1] for label in classes] for row in rows])
                arm.append(ClassScores(sums, counts))
        return arms

    def _table(self, runs: list[TrackedRun], metric: str) -> dict[str, tuple[float, float]]:
        total: dict[str, tuple[float, float]] = {}
        for run in runs:
            for label, (value, count) in self.class_scores.get(run.run_id, {}).get(metric, {}).items():
                before = total.get(label, (0.0, 0.0))
                total[label] = (before[0] + value, before[1] + count)
        return total


def read_ablation(study: Study) -> AblationData:
    """The ablation of a study whose parent run is one.

    Raises:
        TrackingError: its design is not there or not readable.
    """
    try:
        design = Design.model_validate(read_file(study, "design.json"))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise TrackingError(f"{study.name}: design.json, {place}: {first['msg']}") from None
    return AblationData(study, design)
