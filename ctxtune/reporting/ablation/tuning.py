"""What the arms of an ablation were tuned to."""

import math

from ctxtune.metric_names import metric_title
from ctxtune.reporting.ablation.data import AblationData
from ctxtune.reporting.document import Table
from ctxtune.results.formatting import MISSING, percent
from ctxtune.results.ranking import value_of


def tuning_table(data: AblationData) -> Table | None:
    """What each arm's own search chose, and what it gained; None where nothing was tuned."""
    results, objective, selected = data.results, data.design.search_objective, data.design.selected > 1
    if not results.searches:
        return None
    rows, records = [], []
    for cell in results.cells:
        for repeat in range(data.design.repeats):
            trials, tuned = results.searches.get((cell, repeat), []), results.tuned(cell, repeat)
            first = trials[0] if trials and trials[0].state == "completed" else None
            own, best = (math.nan if run is None else value_of(run, objective) or math.nan for run in (first, tuned))
            chosen = results.tuned_values(cell, repeat)
            again = results.selection_mean(cell, repeat, tuned.number) if tuned is not None else math.nan
            words = ", ".join(f"{path} = {value}" for path, value in chosen.items()) or MISSING
            rows.append(
                [
                    cell,
                    *([str(repeat)] if data.design.repeats > 1 else []),
                    str(len(trials)),
                    percent(own),
                    percent(best),
                    *([percent(again)] if selected else []),
                    words,
                ]
            )
            record = {"cell": cell, "repeat": repeat, "trials": len(trials), "own": own, "best": best, "chosen": words}
            records.append(record | ({"again": again} if selected else {}))
    header = ["arm", *(["repeat"] if data.design.repeats > 1 else []), "trials", "as it came"]
    header += ["chosen trial", "run again", "chosen"] if selected else ["best trial", "chosen"]
    return Table(
        "tuning",
        f"What each arm's own search chose, by {metric_title(objective.metric)}, percent, on the classes of the tuning "
        "folds: the arm as it came (the first trial) and "
        + (
            "the trial that was chosen, with its mean when the best trials were run again."
            if selected
            else "the best trial."
        ),
        header,
        rows,
        records,
        texts=["chosen"],
    )
