"""What an ablation found: the scores of its cells, and the contrasts of its file, judged as one family."""

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from ctxtune.results.designs import AblationDesign, CellDesign, ContrastDesign
from ctxtune.results.runs import LostRuns, Run, completed, in_stage, lost_runs, shared_scores
from ctxtune.results.selection import chosen, whole_scores
from ctxtune.results.verdicts import verdict_words
from ctxtune.statistics import (
    Interval,
    PairedDifference,
    PracticalProbabilities,
    Verdict,
    compare_pairs,
    judge_family,
    practical_probabilities,
    t_interval,
)

Replication = int
"""The index of a seed or, where search and seeds are repeated, of a repeat."""


@dataclass(frozen=True)
class JudgedContrast:
    """A cell against its reference.

    Attributes:
        difference: None where there is no pair yet.
        verdict: None also while replications are still to come: to judge at each look would be optional stopping.
        planned: so many replications.
        ended: no more are to come.
        condition: what the verdict is conditional on, or "".
        tuned: false where the cells should have been tuned and the budget left no time for it: nothing is judged then.
        probabilities: of being practically better, equal or worse, of a judged contrast; None where nobody asked.
    """

    contrast: ContrastDesign
    difference: PairedDifference | None
    verdict: Verdict | None
    planned: int
    ended: bool
    condition: str
    tuned: bool = True
    probabilities: PracticalProbabilities | None = None

    @property
    def words(self) -> str:
        """The verdict in plain words, or why there is none."""
        if not self.tuned:
            return "not tuned: nothing can be concluded"
        return verdict_words(self.difference, self.verdict, self.planned, ended=self.ended)


@dataclass(frozen=True)
class AblationResults:
    """What an ablation found, finished or still running. Scores are those of completed runs, averaged over folds.

    Attributes:
        runs: all of them, in the order in which they began.
        ended: no run is to come.
    """

    design: AblationDesign
    runs: tuple[Run, ...]
    ended: bool

    @cached_property
    def cells(self) -> dict[str, CellDesign]:
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

    @cached_property
    def cell_runs(self) -> tuple[Run, ...]:
        """The runs of the cells' seeds."""
        return in_stage(self.runs, "cell")

    @cached_property
    def searches(self) -> dict[tuple[str, int], list[Run]]:
        """The trials of each cell and repeat that count, by their number: every cell has equally many."""
        found: dict[tuple[str, int], list[Run]] = {}
        held = self.design.trials_held
        for run in in_stage(self.runs, "cell_search"):
            if held is None or run.number < held:
                found.setdefault((run.arm, run.repeat), []).append(run)
        return {key: sorted(runs, key=lambda run: run.number) for key, runs in found.items()}

    @cached_property
    def selection(self) -> dict[tuple[str, int], list[Run]]:
        """The runs that scored the best trials of each cell and repeat again; none where nothing was selected."""
        found: dict[tuple[str, int], list[Run]] = {}
        for run in in_stage(self.runs, "selection"):
            found.setdefault((run.arm, run.repeat), []).append(run)
        return found

    def tuned(self, cell: str, repeat: int) -> Run | None:
        """The trial of a cell's own search that it runs with; None where nothing was tuned or no trial came to its end."""
        trials, again = self.searches.get((cell, repeat), []), self.selection.get((cell, repeat), [])
        return chosen(trials, again, self.design.search_objective, lambda run: run.number)

    def selection_mean(self, cell: str, repeat: int, number: int) -> float:
        """What a trial reached when it was run again; not a number where it was not, or lost a run."""
        again = self.selection.get((cell, repeat), [])
        scores = whole_scores(again, self.design.search_objective, lambda run: run.number).get(number)
        return sum(scores) / len(scores) if scores else math.nan

    def tuned_values(self, cell: str, repeat: int) -> dict[str, object]:
        """What a cell's own search found best: the settings that it varied; empty where nothing was tuned."""
        trials, tuned = self.searches.get((cell, repeat), []), self.tuned(cell, repeat)
        if tuned is None:
            return {}
        paths = sorted({path for run in trials for path in run.settings})
        varied = [path for path in paths if len({run.settings.get(path) for run in trials}) > 1]
        return {path: tuned.setting(path) for path in varied if path in tuned.settings}

    @cached_property
    def folds(self) -> list[str]:
        """The folds that seeds are scored on; those seen so far where the design does not say."""
        return self.design.folds or sorted({run.fold for run in self.cell_runs}) or [""]

    @cached_property
    def whole_seeds(self) -> dict[str, dict[tuple[int, int], list[Run]]]:
        """The completed runs of each cell by repeat and seed, of those seeds that have all their folds."""
        grouped: dict[str, dict[tuple[int, int], dict[str, Run]]] = {cell: {} for cell in self.cells}
        for run in completed(self.cell_runs):
            if run.arm in grouped:
                grouped[run.arm].setdefault((run.repeat, run.seed_index), {})[run.fold] = run
        return {
            cell: {
                place: [folds[fold] for fold in self.folds]
                for place, folds in sorted(places.items())
                if all(fold in folds for fold in self.folds)
            }
            for cell, places in grouped.items()
        }

    @cached_property
    def complete(self) -> dict[str, dict[Replication, list[Run]]]:
        """The runs of each cell and complete replication: a seed or, where seeds are repeated, a repeat with all its seeds."""
        found: dict[str, dict[Replication, list[Run]]] = {}
        for cell, places in self.whole_seeds.items():
            if self.design.repeats == 1:
                found[cell] = {seed: runs for (_, seed), runs in places.items()}
                continue
            seeds = Counter(repeat for repeat, _ in places)
            found[cell] = {
                repeat: [run for (its_repeat, _), runs in places.items() if its_repeat == repeat for run in runs]
                for repeat in sorted(seeds)
                if seeds[repeat] == self.design.seeds
            }
        return found

    def scores(self, cell: str, metric: str | None = None) -> dict[Replication, float]:
        """A score of a cell (the judged one by default) by replication: mean over its seeds (with repeats) and folds."""
        replications = self.complete.get(cell, {})
        found = {index: self._mean(runs, metric or self.design.metric) for index, runs in replications.items()}
        return {index: value for index, value in found.items() if value is not None}

    def seed_scores(self, cell: str) -> dict[tuple[int, int], float]:
        """The judged score of a cell by repeat and seed, of those that are complete, averaged over folds."""
        found = {place: self._mean(runs, self.design.metric) for place, runs in self.whole_seeds.get(cell, {}).items()}
        return {place: value for place, value in found.items() if value is not None}

    @staticmethod
    def _mean(runs: list[Run], metric: str) -> float | None:
        values = [value for run in runs if (value := run.last(metric)) is not None]
        return sum(values) / len(values) if values and len(values) == len(runs) else None

    def interval(self, cell: str, metric: str | None = None) -> Interval | None:
        """Mean and t-interval of a cell; None where nothing is complete."""
        values = list(self.scores(cell, metric).values())
        return t_interval(values) if values else None

    def pairs(self, cell: str, against: str, metric: str | None = None) -> tuple[list[float], list[float]]:
        """The scores of two cells over the replications that both have."""
        return shared_scores(self.scores(cell, metric), self.scores(against, metric))

    @cached_property
    def contrasts(self) -> tuple[JudgedContrast, ...]:
        """All contrasts, in the file's order, corrected together.

        While the ablation runs, or can be resumed, only contrasts with all their replications are judged; those to come
        count in the correction.
        """
        design = self.design
        pairs = [self.pairs(each.cell, each.against) for each in design.contrasts]
        differences = [compare_pairs(ours, theirs) if ours else None for ours, theirs in pairs]
        whole = [
            each is not None and not design.nothing_tuned and (self.ended or each.count >= design.planned)
            for each in differences
        ]
        known = [each for each, all_there in zip(differences, whole, strict=True) if each is not None and all_there]
        unfinished = len(differences) - len(known)
        verdicts = iter(judge_family(known, mode=design.mode, unfinished=unfinished, equivalence=design.equivalence))
        return tuple(
            JudgedContrast(
                contrast,
                difference,
                next(verdicts) if all_there else None,
                design.planned,
                self.ended,
                self.condition(contrast),
                tuned=not design.nothing_tuned,
                probabilities=self._probabilities(difference) if all_there else None,
            )
            for contrast, difference, all_there in zip(design.contrasts, differences, whole, strict=True)
        )

    def _probabilities(self, difference: PairedDifference | None) -> PracticalProbabilities | None:
        """Of a difference, by a flat prior: seeds (or repeats) are independent, so that nothing correlates."""
        design = self.design
        if difference is None or difference.count < 2 or not design.probabilities or design.equivalence is None:
            return None
        gain = difference.differences if design.mode == "max" else -difference.differences
        return practical_probabilities(gain, design.equivalence)

    def condition(self, contrast: ContrastDesign) -> str:
        """What a verdict holds under: the luck of one search, or hyperparameters that were tuned for another arm."""
        if self.design.repeats > 1:
            return ""
        if self.design.tuning == "each" or contrast.cell == self.design.tuned_for:
            return "given one tuning run"
        if self.design.tuned_for is not None:
            return f"given one tuning run; hyperparameters tuned for {self.design.tuned_for}"
        return "given these hyperparameters"

    def tuned_for_another(self, cell: str) -> bool:
        """Whether a cell runs with hyperparameters that were tuned for another one."""
        return self.design.tuning == "none" and self.design.tuned_for not in (None, cell)

    @property
    def expected_runs(self) -> int:
        """Runs of a finished ablation, its searches aside."""
        return len(self.cells) * self.design.repeats * self.design.seeds * len(self.folds)

    @cached_property
    def states(self) -> Counter[str]:
        """Number of the cells' runs by state."""
        return Counter(run.state for run in self.cell_runs)

    @cached_property
    def lost(self) -> tuple[LostRuns, ...]:
        """What was lost among the cells' runs, and the selections before them."""
        return lost_runs(self.runs, ("selection", "cell"))
