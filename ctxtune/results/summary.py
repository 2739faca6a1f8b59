"""Results as plain data: `summary.json`, `--json`, and the metrics of a sweep's own run in MLflow."""

import math
from collections import Counter
from dataclasses import asdict

from ctxtune.results.ablation import AblationResults
from ctxtune.results.costs import GPU_HOURS, MONEY, hours_of, spent
from ctxtune.results.luck import luck
from ctxtune.results.sweep import ConfirmedScore, SweepResults
from ctxtune.results.wording import budget_sentence, search_sentence
from ctxtune.statistics import Verdict, t_interval


def ablation_summary(results: AblationResults) -> dict[str, object]:
    """What an ablation found."""
    cells = {}
    for cell in results.cells:
        interval = results.interval(cell)
        cells[cell] = {
            "scores": [
                {"repeat": repeat, "seed_index": seed, "score": score}
                for (repeat, seed), score in results.seed_scores(cell).items()
            ],
            "mean": interval and interval.mean,
            "interval": interval and [interval.low, interval.high],
            "searched": results.cells[cell].searched,
            "tuned": [
                values for repeat in range(results.design.repeats) if (values := results.tuned_values(cell, repeat))
            ],
        }
    contrasts = [
        {
            "cell": each.contrast.cell,
            "against": each.contrast.against,
            "difference": each.difference and each.difference.interval.mean,
            "interval": each.difference and [each.difference.interval.low, each.difference.interval.high],
            "corrected_p": each.verdict and each.verdict.corrected_p,
            "verdict": each.verdict and each.verdict.words,
            "probabilities": each.probabilities and asdict(each.probabilities),
        }
        for each in results.contrasts
    ]
    return {
        "metric": results.design.metric,
        "cells": cells,
        "contrasts": contrasts,
        "tuning": {
            "asked": results.design.trials,
            "held": results.design.trials_had,
            "ended": budget_sentence(results.design),
            "selected": results.design.selected,
        },
        "conclusive": not results.design.nothing_tuned,
        "closed_set": results.design.closed_set,
        "lost": [asdict(each) for each in results.lost],
        "luck": [asdict(each) for each in luck(results)],
        "states": dict(Counter(run.state for run in results.runs)),
        "hours": hours_of(results.runs),
    }


def sweep_summary(results: SweepResults) -> dict[str, object]:
    """What a sweep found; stages that have not run are empty."""
    cost = spent(results.runs)
    return {
        "chosen": results.chosen,
        "point": results.chosen_point,
        "start_point": results.start_point,
        "states": dict(Counter(run.state for run in results.trials)),
        "search": search_sentence(results),
        "conclusive": not results.nothing_searched,
        "closed_set": results.design.closed_set,
        "epochs": list(results.epochs),
        "search_scores": {arm: [score, epoch] for arm, (score, epoch) in results.search_scores.items()},
        "selection": {arm: asdict(t_interval(scores)) for arm, scores in results.selection_with_start.items()},
        "confirmed": [_confirmed(score) for score in results.confirmed],
        "separated": [_confirmed(score) for score in results.separated],
        "steps": {arm: int(runs[-1].last("train/steps") or 0) for arm, runs in results.confirmations.items()},
        "hours": hours_of(results.runs),
        "front": [
            {"trial": run.key, "values": results.objective_values(run), "point": results.point(run)}
            for run in results.front
        ],
        "same": results.same,
        "lost": [asdict(each) for each in results.lost],
        "gpu_hours": cost.gpu_hours,
        "money": cost.money,
    }


def _confirmed(score: ConfirmedScore) -> dict[str, object]:
    return {
        "metric": score.metric,
        "chosen": asdict(score.chosen_interval),
        "start": score.start_interval and asdict(score.start_interval),
        "difference": score.difference and asdict(score.difference.interval),
        "floor": None if math.isnan(score.untrained) else score.untrained,
        "verdict": score.verdict and _verdict(score.verdict),
    }


def _verdict(verdict: Verdict) -> dict[str, object]:
    """A verdict under the promised names of `summary.json`."""
    return {"judgement": verdict.judgment} | {key: value for key, value in asdict(verdict).items() if key != "judgment"}


def sweep_metrics(results: SweepResults) -> dict[str, float]:
    """What a sweep found, as metrics of its own run in MLflow."""
    cost = spent(results.runs)
    metrics: dict[str, float] = {"time/hours": hours_of(results.runs)}
    if cost.gpu_hours:
        metrics[GPU_HOURS] = cost.gpu_hours
    if cost.money is not None:
        metrics[MONEY] = cost.money
    for score in results.confirmed:
        name = score.metric.partition("/")[2]
        metrics[score.metric] = score.chosen_interval.mean
        metrics[f"floor/{name}"] = score.untrained
        if score.difference:
            metrics[f"difference/{name}"] = score.difference.interval.mean
    return metrics
