"""An ablation from MLflow: what it found, and the scores of its classes."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from pydantic import TypeAdapter, ValidationError

from ctxtune.errors import TrackingError
from ctxtune.reporting.study import Study, read_design
from ctxtune.results.ablation import AblationResults
from ctxtune.results.designs import AblationDesign
from ctxtune.results.runs import Run
from ctxtune.statistics import FEWEST_FOR_BOOTSTRAP, ArmClassScores, Interval, hierarchical_interval
from ctxtune.tracking import read_texts

CLASS_FILE = "per_class_scores.json"
_CLASS_SCORES = TypeAdapter(dict[str, dict[str, tuple[float, float]]])


@dataclass(frozen=True)
class AblationData:
    """An ablation, finished or still running: what it found, and what is only known to MLflow."""

    study: Study
    design: AblationDesign

    @cached_property
    def results(self) -> AblationResults:
        """What the ablation found."""
        return AblationResults(self.design, self.study.runs, self.study.ended)

    @property
    def split(self) -> str:
        """What was scored: "validation" or "test"."""
        return self.design.metric.partition("/")[0]

    @cached_property
    def over_classes(self) -> dict[str, Interval]:
        """By cell: interval of its difference to the reference over resampled seeds and classes.

        Without those cells whose class scores were not kept, or that have few seeds.
        """
        found = {}
        for contrast in self.design.contrasts:
            arms = self.class_arms(contrast.cell, contrast.against, self.design.metric)
            if arms and len(arms[0][0].sums) >= FEWEST_FOR_BOOTSTRAP:
                found[contrast.cell] = hierarchical_interval(*arms)
        return found

    @cached_property
    def class_scores(self) -> dict[str, dict[str, dict[str, tuple[float, float]]]]:
        """By run and metric: each class's sum over its queries and their number, of runs that kept them."""
        complete = self.results.complete.values()
        keys = {
            self.study.by_key[run.key].run_id: run.key for each in complete for runs in each.values() for run in runs
        }
        tracked = [self.study.by_key[key] for key in keys.values()]
        texts = read_texts(self.study.uri, tracked, CLASS_FILE)
        return {keys[run_id]: self._read_class_scores(keys[run_id], text) for run_id, text in texts.items()}

    def _read_class_scores(self, key: str, text: str) -> dict[str, dict[str, tuple[float, float]]]:
        try:
            return _CLASS_SCORES.validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise TrackingError(
                f"{self.study.name}: the artifact {CLASS_FILE} of {key} is not as it was written "
                f"({'.'.join(map(str, first['loc']))}: {first['msg']})"
            ) from None

    def class_arms(
        self, cell: str, against: str, metric: str
    ) -> tuple[list[ArmClassScores], list[ArmClassScores]] | None:
        """Both cells' class scores by fold over their shared replications; None where they were not kept.

        With repeats a replication's sums are over its seeds.
        """
        ours, theirs = self.results.complete.get(cell, {}), self.results.complete.get(against, {})
        shared = [unit for unit in ours if unit in theirs]
        if len(shared) < 2:
            return None
        arms: tuple[list[ArmClassScores], list[ArmClassScores]] = ([], [])
        for fold in self.results.folds:
            tables = [
                [self._table([run for run in units[unit] if run.fold == fold], metric) for unit in shared]
                for units in (ours, theirs)
            ]
            each = [table for arm in tables for table in arm]
            if any(not table for table in each) or any(set(table) != set(each[0]) for table in each):
                return None
            classes = sorted(each[0])
            for arm, rows in zip(arms, tables, strict=True):
                sums = np.array([[row[label][0] for label in classes] for row in rows])
                counts = np.array([[row[label][1] for label in classes] for row in rows])
                arm.append(ArmClassScores(sums, counts))
        return arms

    def _table(self, runs: list[Run], metric: str) -> dict[str, tuple[float, float]]:
        total: dict[str, tuple[float, float]] = {}
        for run in runs:
            for label, (value, count) in self.class_scores.get(run.key, {}).get(metric, {}).items():
                before = total.get(label, (0.0, 0.0))
                total[label] = (before[0] + value, before[1] + count)
        return total


def read_ablation(study: Study, *, probabilities: bool = False) -> AblationData:
    """The ablation of a study whose parent run is one.

    Args:
        probabilities: those of being practically better, equal or worse are asked for, though the file did not.

    Raises:
        TrackingError: its design is not there or not readable, or it states no margin that such probabilities need.
    """
    design = read_design(study, "design.json", AblationDesign)
    if not probabilities:
        return AblationData(study, design)
    if design.equivalence is None:
        raise TrackingError(
            f"{study.name}: it was recorded without compare.equivalence, the margin that practical differences need"
        )
    return AblationData(study, design.model_copy(update={"probabilities": True}))
