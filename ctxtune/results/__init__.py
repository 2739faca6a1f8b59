"""From runs, out of a journal or out of MLflow, to rankings, comparisons, verdicts and costs: judged once, shown everywhere."""
