"""Results as plain data, for `summary.json` and `--json`."""

from collections import Counter
from typing import Any

from ctxtune.results.ablation import AblationResults
from ctxtune.results.costs import hours_of


def ablation_summary(results: AblationResults) -> dict[str, Any]:
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
        }
        for each in results.contrasts
    ]
    return {
        "metric": results.design.metric,
        "cells": cells,
        "contrasts": contrasts,
        "states": dict(Counter(run.state for run in results.runs)),
        "hours": hours_of(results.runs),
    }
