"""What an ablation found, from its journal: the scores of every cell, and the contrasts of the file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ctxtune.ablation.runs import best_search_trial, cell_key, folds_of, repeats_of
from ctxtune.config import Ablation, Cell, cells_of, changed_values, contrasts_of, reference_cell
from ctxtune.config.design import configuration_hash
from ctxtune.statistics import Interval, Verdict, compare_pairs, judge_family, t_interval
from ctxtune.tuning.record.journal import Journal

Pair = tuple[int, int]
"""Repeat and index of the seed."""


@dataclass(frozen=True)
class ComparedCells:
    """A contrast of the file: cell minus reference, over the replications that both have.

    Attributes:
        verdict: judged in the family of all contrasts, those without pairs included; None where no pair is there.
    """

    cell: str
    against: str
    difference: Interval | None
    verdict: Verdict | None


@dataclass(frozen=True)
class AblationOutcome:
    """What an ablation found.

    Attributes:
        metric: of the scores.
        scores: by cell, the score of each repeat and seed that is complete, averaged over folds.
        replications: by cell, the values that intervals and contrasts are taken over: those of the seeds or, where search
            and seeds are repeated, the mean of each complete repeat (seeds of one repeat share its search, they are no
            independent witnesses).
        tuned: by cell, the searched values of each repeat.
        states: number of runs by state.
        hours: of work, of all runs together.
    """

    metric: str
    scores: dict[str, dict[Pair, float]]
    replications: dict[str, dict[int, float]]
    contrasts: tuple[ComparedCells, ...]
    tuned: dict[str, list[dict[str, Any]]]
    states: dict[str, int]
    hours: float

    def interval(self, cell: str) -> Interval | None:
        """Mean and t-interval of a cell; None where nothing is complete."""
        values = list(self.replications[cell].values())
        return t_interval(values) if values else None


def outcome_of(ablation: Ablation, journal: Journal) -> AblationOutcome:
    """Sum up an ablation, finished or not."""
    cells = cells_of(ablation)
    metric = ablation.compare.scored_metric(confirmatory=ablation.confirmatory)
    scores = {cell.name: _scores(ablation, cell, journal, metric) for cell in cells}
    replications = {name: _replications(ablation, found) for name, found in scores.items()}
    states: dict[str, int] = {}
    for run in journal.runs.values():
        states[run.state] = states.get(run.state, 0) + 1
    return AblationOutcome(
        metric=metric,
        scores=scores,
        replications=replications,
        contrasts=_compared(ablation, cells, replications),
        tuned={cell.name: _tuned(ablation, cell, journal) for cell in cells},
        states=states,
        hours=sum(run.seconds for run in journal.runs.values()) / 3600,
    )


def design_of(ablation: Ablation) -> dict[str, Any]:
    """The design as plain data, for `design.json`: all that a report needs to read the runs."""
    cells = cells_of(ablation)
    reference = reference_cell(ablation, cells).name
    return {
        "name": ablation.name,
        "metric": ablation.compare.scored_metric(confirmatory=ablation.confirmatory),
        "mode": ablation.compare.mode,
        "correction": ablation.compare.correction,
        "reference": reference,
        "equivalence": ablation.compare.equivalence,
        "design": ablation.design,
        "seeds": ablation.seeds,
        "repeats": repeats_of(ablation),
        "folds": ["" if fold is None else str(fold) for fold in folds_of(ablation)],
        "confirmatory": ablation.confirmatory,
        "tuning": "each" if ablation.tune_each else "none",
        "tuned_for": None if ablation.tune_each else reference,
        "dataset": ablation.trial.dataset.name,
        "factors": {path: list(levels) for path, levels in ablation.factors.items()},
        "variants": list(ablation.arms()),
        "cells": [
            {
                "cell": cell.name,
                "variant": cell.arm,
                "levels": cell.levels,
                "settings": changed_values(ablation.trial, cell.settings),
                "hash": configuration_hash(cell),
            }
            for cell in cells
        ],
        "contrasts": [asdict(contrast) for contrast in contrasts_of(ablation, cells)],
    }


def summary_of(outcome: AblationOutcome) -> dict[str, Any]:
    """The outcome as plain data, for `summary.json` and `--json`."""
    cells = {}
    for name, scores in outcome.scores.items():
        interval = outcome.interval(name)
        cells[name] = {
            "scores": [
                {"repeat": repeat, "seed_index": seed, "score": score} for (repeat, seed), score in scores.items()
            ],
            "mean": interval and interval.mean,
            "interval": interval and [interval.low, interval.high],
            "tuned": outcome.tuned[name],
        }
    contrasts = [
        {
            "cell": each.cell,
            "against": each.against,
            "difference": each.difference and each.difference.mean,
            "interval": each.difference and [each.difference.low, each.difference.high],
            "corrected_p": each.verdict and each.verdict.corrected_p,
            "verdict": each.verdict and each.verdict.words,
        }
        for each in outcome.contrasts
    ]
    return {
        "metric": outcome.metric,
        "cells": cells,
        "contrasts": contrasts,
        "states": outcome.states,
        "hours": outcome.hours,
    }


def _scores(ablation: Ablation, cell: Cell, journal: Journal, metric: str) -> dict[Pair, float]:
    found: dict[Pair, float] = {}
    for repeat in range(repeats_of(ablation)):
        for seed_index in range(ablation.seeds):
            runs = [journal.runs.get(cell_key(ablation, cell, repeat, seed_index, fold)) for fold in folds_of(ablation)]
            values = [run.last(metric) for run in runs if run is not None and run.state == "completed"]
            scored = [value for value in values if value is not None]
            if len(scored) == len(runs):
                found[repeat, seed_index] = sum(scored) / len(scored)
    return found


def _replications(ablation: Ablation, scores: Mapping[Pair, float]) -> dict[int, float]:
    if repeats_of(ablation) == 1:
        return {seed: score for (_, seed), score in scores.items()}
    found = {}
    for repeat in range(repeats_of(ablation)):
        values = [score for (its_repeat, _), score in scores.items() if its_repeat == repeat]
        if len(values) == ablation.seeds:
            found[repeat] = sum(values) / len(values)
    return found


def _compared(
    ablation: Ablation, cells: list[Cell], scores: Mapping[str, Mapping[int, float]]
) -> tuple[ComparedCells, ...]:
    contrasts = contrasts_of(ablation, cells)
    pairs = [sorted(scores[each.cell].keys() & scores[each.against].keys()) for each in contrasts]
    differences = [
        compare_pairs([scores[each.cell][pair] for pair in both], [scores[each.against][pair] for pair in both])
        if both
        else None
        for each, both in zip(contrasts, pairs, strict=True)
    ]
    mode: Literal["max", "min"] = ablation.compare.mode
    known = [difference for difference in differences if difference is not None]
    verdicts = iter(
        judge_family(
            known, mode=mode, unfinished=len(differences) - len(known), equivalence=ablation.compare.equivalence
        )
    )
    compared = []
    for each, difference in zip(contrasts, differences, strict=True):
        found = (None, None) if difference is None else (difference.interval, next(verdicts))
        compared.append(ComparedCells(each.cell, each.against, *found))
    return tuple(compared)


def _tuned(ablation: Ablation, cell: Cell, journal: Journal) -> list[dict[str, Any]]:
    if ablation.tune_each is None:
        return []
    best = [best_search_trial(ablation, cell, repeat, journal) for repeat in range(repeats_of(ablation))]
    return [run.spec.point for run in best if run is not None]
