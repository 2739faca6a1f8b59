"""What the arms of an ablation were tuned to."""

import math
from collections.abc import Sequence
from typing import Any

from ctxtune.metric_names import metric_title
from ctxtune.reporting.ablation.data import AblationData
from ctxtune.reporting.document import Table
from ctxtune.reporting.numbers import MISSING, percent
from ctxtune.tracking import TrackedRun


def tuning_table(data: AblationData) -> Table | None:
    """What each arm's own search chose, and what it gained; None where nothing was tuned."""
    searches = data.study.of_kind("cell_search")
    if not searches:
        return None
    metric = f"validation/{data.design.metric.partition('/')[2]}"
    rows, records = [], []
    for cell in data.cells:
        for repeat in range(data.design.repeats):
            trials = _of(searches, cell, repeat)
            scores = {run.run_id: run.metrics.get(metric, math.nan) for run in trials if run.state == "completed"}
            known = [score for score in scores.values() if math.isfinite(score)]
            own = scores.get(trials[0].run_id, math.nan) if trials else math.nan
            best = (max if data.design.mode == "max" else min)(known, default=math.nan)
            chosen = _chosen(trials, _of(data.runs, cell, repeat))
            words = ", ".join(f"{path} = {value}" for path, value in chosen.items()) or MISSING
            shown = [percent(score) if math.isfinite(score) else MISSING for score in (own, best)]
            rows.append([cell, *([str(repeat)] if data.design.repeats > 1 else []), str(len(trials)), *shown, words])
            records.append(
                {"cell": cell, "repeat": repeat, "trials": len(trials), "own": own, "best": best, "chosen": words}
            )
    header = ["arm", *(["repeat"] if data.design.repeats > 1 else []), "trials", "as it came", "best trial", "chosen"]
    return Table(
        "tuning",
        f"What each arm's own search chose, by {metric_title(metric)}, percent, on the classes of the tuning folds: the arm as "
        "it came (the first trial) and the best trial.",
        header,
        rows,
        records,
        texts=["chosen"],
    )


def _of(runs: Sequence[TrackedRun], cell: str, repeat: int) -> list[TrackedRun]:
    found = [run for run in runs if run.tags.get("cell") == cell and int(run.tags.get("repeat") or 0) == repeat]
    return sorted(found, key=lambda run: int(run.tags.get("trial") or 0))


def _chosen(trials: Sequence[TrackedRun], runs: Sequence[TrackedRun]) -> dict[str, Any]:
    """The parameters that the search varied, with the values that the seeds were run with."""
    if not trials or not runs:
        return {}
    paths = sorted({path for run in trials for path in run.params})
    varied = [path for path in paths if len({run.params.get(path) for run in trials}) > 1]
    return {path: runs[0].params[path] for path in varied if path in runs[0].params}
