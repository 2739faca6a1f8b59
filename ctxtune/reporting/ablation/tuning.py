"""What the arms of an ablation were tuned to."""

import math
from collections.abc import Sequence
from typing import Any

from ctxtune.metric_names import metric_title
from ctxtune.reporting.ablation.data import AblationData
from ctxtune.reporting.document import Table
from ctxtune.results.formatting import MISSING, percent
from ctxtune.results.runs import Run


def tuning_table(data: AblationData) -> Table | None:
    """What each arm's own search chose, and what it gained; None where nothing was tuned."""
    results, objective = data.results, data.design.search_objective
    if not results.searches:
        return None
    rows, records = [], []
    for cell in results.cells:
        for repeat in range(data.design.repeats):
            trials, tuned = results.searches.get((cell, repeat), []), results.tuned(cell, repeat)
            first = trials[0] if trials and trials[0].state == "completed" else None
            own, best = (math.nan if run is None else objective.of(run) or math.nan for run in (first, tuned))
            seeds = [run for run in results.cell_runs if (run.arm, run.repeat) == (cell, repeat)]
            chosen = _chosen(trials, seeds)
            words = ", ".join(f"{path} = {value}" for path, value in chosen.items()) or MISSING
            rows.append(
                [
                    cell,
                    *([str(repeat)] if data.design.repeats > 1 else []),
                    str(len(trials)),
                    percent(own),
                    percent(best),
                    words,
                ]
            )
            records.append(
                {"cell": cell, "repeat": repeat, "trials": len(trials), "own": own, "best": best, "chosen": words}
            )
    header = ["arm", *(["repeat"] if data.design.repeats > 1 else []), "trials", "as it came", "best trial", "chosen"]
    return Table(
        "tuning",
        f"What each arm's own search chose, by {metric_title(objective.metric)}, percent, on the classes of the tuning "
        "folds: the arm as it came (the first trial) and the best trial.",
        header,
        rows,
        records,
        texts=["chosen"],
    )


def _chosen(trials: Sequence[Run], runs: Sequence[Run]) -> dict[str, Any]:
    """The parameters that the search varied, with the values that the seeds were run with."""
    if not trials or not runs:
        return {}
    paths = sorted({path for run in trials for path in run.settings})
    varied = [path for path in paths if len({run.settings.get(path) for run in trials}) > 1]
    return {path: runs[0].settings[path] for path in varied if path in runs[0].settings}
