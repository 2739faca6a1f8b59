"""How often test classes were scored, for a report."""

from ctxtune.reporting.document import Section, Table
from ctxtune.reporting.provenance import moment
from ctxtune.reporting.study import Study
from ctxtune.tracking import TrackedRun, all_test_scorings


def ledger_section(study: Study, dataset: str) -> Section:
    """The scorings of test classes, of all data sets; without items where there are none."""
    scored = all_test_scorings(study.uri)
    return Section("Ledger of test scorings", [ledger_table(study.parent, scored, dataset)] if scored else [])


def ledger_table(parent: TrackedRun, scored: dict[str, list[TrackedRun]], dataset: str) -> Table:
    """How often the test classes of each data set were scored, on the whole server and by this study."""
    rows: list[list[str]] = []
    records: list[dict[str, object]] = []
    strong: list[int] = []
    for name, runs in sorted(scored.items()):
        own = sum(run.parent == parent.run_id for run in runs)
        times = [run.start_time for run in runs]
        if name == dataset:
            strong.append(len(rows))
        rows.append([name, str(own), str(len(runs)), moment(min(times)), moment(max(times))])
        records.append({"data_set": name, "here": own, "all": len(runs), "first": min(times), "last": max(times)})
    caption = "Runs that scored test classes, in all experiments of the tracking server, deleted ones included."
    return Table("ledger", caption, ["data set", "here", "in all", "first", "latest"], rows, records, strong=strong)
