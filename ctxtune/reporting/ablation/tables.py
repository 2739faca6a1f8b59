"""The tables of an ablation."""

from collections.abc import Sequence
from dataclasses import asdict

from ctxtune.metric_names import metric_title
from ctxtune.reporting.ablation.data import AblationData
from ctxtune.reporting.ablation.labels import arm_label, label_notes, reference_at
from ctxtune.reporting.document import Table, file_stem
from ctxtune.reporting.study import Study, bill
from ctxtune.results.ablation import JudgedContrast
from ctxtune.results.costs import hours_of
from ctxtune.results.formatting import (
    MISSING,
    capital,
    decimal,
    p_value,
    percent,
    percent_bounds,
    percent_interval,
    price,
    setting,
)
from ctxtune.results.luck import luck
from ctxtune.results.runs import LOST, Run, score_names
from ctxtune.results.verdicts import CLEAR
from ctxtune.statistics import Interval, PairedDifference, describe, t_interval
from ctxtune.text import counted, duration


def contrast_table(data: AblationData, contrasts: Sequence[JudgedContrast]) -> Table:
    """Each cell against its reference: difference, intervals, tests, effect size, verdict."""
    unit = data.results.replication
    rank = any(each.verdict is not None and each.verdict.wilcoxon_p is not None for each in contrasts)
    classes = bool(data.over_classes)
    likely = any(each.probabilities is not None for each in contrasts)
    header = [
        "arm",
        f"{unit}s",
        "difference ± 95 % t",
        "verdict",
        "p (Holm)",
        "p",
        *(["Wilcoxon p (Holm)"] if rank else []),
    ]
    header += ["effect g", "bootstrap 95 %", *([f"{unit}s and classes 95 %"] if classes else [])]
    header += ["P(better)", "P(equal)", "P(worse)"] if likely else []
    rows = []
    for each in contrasts:
        difference, verdict = each.difference, each.verdict
        row = [arm_label(data, each.contrast.cell)]
        if difference is None or verdict is None:
            known = ["0", MISSING] if difference is None else [str(difference.count), _difference(difference)]
            rows.append([*row, *known, each.words, *[MISSING] * (len(header) - 4)])
            continue
        row += [str(difference.count), _difference(difference), each.words]
        row += [p_value(verdict.corrected_p), p_value(difference.p_value)]
        row += [p_value(verdict.wilcoxon_p)] if rank else []
        row += [decimal(difference.effect_size, sign=True), percent_bounds(difference.bootstrap, sign=True)]
        row += [percent_bounds(data.over_classes.get(each.contrast.cell), sign=True)] if classes else []
        found = each.probabilities
        row += [f"{p:.3f}" for p in (found.better, found.equal, found.worse)] if found else [MISSING] * 3 * likely
        rows.append(row)
    return Table(
        "contrasts",
        _contrast_caption(data, contrasts),
        header,
        rows,
        [_record(each, data.over_classes.get(each.contrast.cell)) for each in contrasts],
        texts=("verdict",),
        strong=[row for row, each in enumerate(contrasts) if each.words in CLEAR],
        note=_contrast_note(data, contrasts),
    )


def _contrast_caption(data: AblationData, contrasts: Sequence[JudgedContrast]) -> str:
    several = len({each.contrast.against for each in contrasts}) > 1
    reference = (
        f"{data.results.cells[data.design.reference].variant} at the same factor levels"
        if several
        else data.design.reference
    )
    return (
        f"Differences in {metric_title(data.design.metric)} to {reference}, percentage points, paired by "
        f"{data.results.replication}. Holm's correction over {counted(len(contrasts), 'contrast')}, all of the file."
    )


def _difference(difference: PairedDifference) -> str:
    return percent_interval(difference.interval, sign=True)


def _contrast_note(data: AblationData, contrasts: Sequence[JudgedContrast]) -> str:
    conditions = sorted({each.condition for each in contrasts if each.condition and each.verdict})
    notes = ["Verdicts hold " + "; ".join(conditions) + "."] if conditions else []
    if any(each.difference is not None and each.verdict is None and each.tuned for each in contrasts):
        notes.append(
            f"Interim: nothing is judged before all its {data.results.replication}s are there; stopping where it looks good "
            "would be optional stopping."
        )
    return " ".join([*notes, *label_notes(data)])


def _record(each: JudgedContrast, classes: Interval | None) -> dict[str, object]:
    record: dict[str, object] = {"cell": each.contrast.cell, "against": each.contrast.against}
    if each.difference is None:
        return record | {"pairs": 0, "verdict": each.words, "condition": each.condition}
    difference, verdict = each.difference, each.verdict
    record |= {
        "pairs": difference.count,
        "difference": difference.interval.mean,
        "deviation": difference.deviation,
        "t_low": difference.interval.low,
        "t_high": difference.interval.high,
    }
    if verdict is None:
        return record | {"verdict": each.words, "condition": each.condition}
    return record | {
        "bootstrap_low": difference.bootstrap.low,
        "bootstrap_high": difference.bootstrap.high,
        "classes_low": classes.low if classes else None,
        "classes_high": classes.high if classes else None,
        "p_t": difference.p_value,
        "p_holm": verdict.corrected_p,
        "p_wilcoxon_holm": verdict.wilcoxon_p,
        "effect_size_g": difference.effect_size,
        "p_equivalence_holm": verdict.equivalence_p,
        **(
            {f"probability_{name}": value for name, value in asdict(each.probabilities).items()}
            if each.probabilities
            else {}
        ),
        "verdict": verdict.words,
        "condition": each.condition,
    }


def score_table(data: AblationData) -> Table:
    """Each cell's score: mean, standard deviation, intervals."""
    metric, unit = data.design.metric, data.results.replication
    rows, records, strong = [], [], []
    for cell in data.results.cells:
        values = list(data.results.scores(cell, metric).values())
        if not values:
            rows.append(
                [arm_label(data, cell), "0", *[MISSING] * 4, *_searched(data, cell), *_tuned_before(data, cell)]
            )
            records.append({"cell": cell, "count": 0})
            continue
        found = describe(values)
        if cell in data.results.references:
            strong.append(len(rows))
        rows.append(
            [
                arm_label(data, cell),
                str(found.count),
                percent(found.mean),
                percent(found.deviation),
                percent_bounds(found.interval),
                percent_bounds(found.bootstrap),
                *_searched(data, cell),
                *_tuned_before(data, cell),
            ]
        )
        records.append(
            {
                "cell": cell,
                "count": found.count,
                "mean": found.mean,
                "deviation": found.deviation,
                "t_low": found.interval.low,
                "t_high": found.interval.high,
                "bootstrap_low": found.bootstrap.low,
                "bootstrap_high": found.bootstrap.high,
                "searched": " ".join(data.results.cells[cell].searched),
                "values": " ".join(f"{value:.17g}" for value in values),
            }
        )
    header = ["arm", f"{unit}s", "mean", "sd", "95 % t-interval", "95 % bootstrap"]
    header += ["trials", "dimensions"] if _searches_told(data) else []
    header += ["tuned before"] if data.design.tuned_with else []
    caption = f"{capital(metric_title(metric))} by arm, percent, over {unit}s; the reference in bold."
    return Table("scores", caption, header, rows, records, strong=strong, note=" ".join(label_notes(data)))


def all_scores_table(data: AblationData) -> Table:
    """Every score that was taken, mean ± half the t-interval."""
    names = score_names(data.results.cell_runs, data.split)
    rows, records = [], []
    for cell in data.results.cells:
        row: list[str] = [arm_label(data, cell)]
        record: dict[str, object] = {"cell": cell}
        for name in names:
            values = list(data.results.scores(cell, name).values())
            row.append(percent_interval(t_interval(values)) if values else MISSING)
            interval = t_interval(values) if values else None
            record |= {f"{name}_{key}": getattr(interval, key, None) for key in ("mean", "low", "high")}
        rows.append(row)
        records.append(record)
    caption = (
        f"All {data.split} scores, percent, mean ± half of the 95 % t-interval. Only {metric_title(data.design.metric)} is "
        "tested."
    )
    header = ["arm", *(metric_title(name).split(" ", 1)[1] for name in names)]
    return Table("all_scores", caption, header, rows, records, note=" ".join(label_notes(data)))


def factor_table(
    data: AblationData, factor: str, series: dict[str, dict[int, str]], contrasts: Sequence[JudgedContrast]
) -> Table:
    """Variants by the levels of a factor; a star marks what differs from the reference at its level."""
    levels = data.design.factors[factor]
    numbers = all(isinstance(level, int | float) for level in levels)
    order = sorted(range(len(levels)), key=lambda index: levels[index] if numbers else index)
    words = {each.contrast.cell: each.words for each in contrasts}
    rows, records = [], []
    for variant, cells in series.items():
        row = [variant]
        for index in order:
            level = levels[index]
            values = list(data.results.scores(cells[index], data.design.metric).values()) if index in cells else []
            mark = {"better": " ▲", "worse": " ▼"}.get(words.get(cells.get(index, ""), ""), "")
            row.append(percent_interval(t_interval(values)) + mark if values else MISSING)
            found = t_interval(values) if values else None
            records.append(
                {"variant": variant, "factor": factor, "level": level}
                | {key: getattr(found, key, None) for key in ("mean", "low", "high", "count")}
            )
        rows.append(row)
    caption = (
        f"{capital(metric_title(data.design.metric))} by arm and {factor}, percent, mean ± half of the 95 % t-interval. "
        f"▲ better, ▼ worse than {reference_at(data)} (Holm)."
    )
    return Table(
        f"by_{file_stem(factor)}",
        caption,
        ["arm", *(f"{factor.rpartition('.')[2]} {setting(levels[index])}" for index in order)],
        rows,
        records,
    )


def change_table(data: AblationData) -> Table:
    """What each cell changes."""
    rows = [
        [
            cell.cell,
            ", ".join(f"{path} = {setting(value)}" for path, value in cell.settings.items()) or "nothing",
            cell.hash,
        ]
        for cell in data.results.cells.values()
    ]
    records = [
        {"cell": cell.cell, "variant": cell.variant, "hash": cell.hash, **cell.settings}
        for cell in data.results.cells.values()
    ]
    keys = sorted(
        {key for record in records for key in record}, key=lambda key: (key not in ("cell", "variant", "hash"), key)
    )
    even = [{key: record.get(key, "") for key in keys} for record in records]
    return Table("arms", "What each arm changes.", ["arm", "changes", "configuration"], rows, even, left=3)


def cost_table(data: AblationData) -> Table:
    """What each cell has cost, and how its runs ended."""
    searches = (*data.study.in_stage("cell_search"), *data.study.in_stage("selection"))
    billed = list(bill([*data.results.cell_runs, *searches]))
    header = [
        "arm",
        "runs",
        "completed",
        "failed",
        "time",
        *(["tuning runs", "tuning time"] if searches else []),
        *billed,
    ]
    rows, records = [], []
    for cell in data.results.cells:
        own = [run for run in data.results.cell_runs if run.arm == cell]
        tried = [run for run in searches if run.arm == cell]
        completed = sum(run.state == "completed" for run in own)
        failed = sum(run.state in LOST for run in own)
        row = [cell, str(len(own)), str(completed), str(failed), duration(hours_of(own))]
        row += [str(len(tried)), duration(hours_of(tried))] if searches else []
        costs = bill([*own, *tried])
        rows.append(row + [price(costs.get(name, 0.0)) for name in billed])
        records.append(
            {
                "cell": cell,
                "runs": len(own),
                "completed": completed,
                "failed": failed,
                "hours": hours_of(own),
                "search_trials": len(tried),
                "search_hours": hours_of(tried),
            }
            | {name: costs.get(name, 0.0) for name in billed}
        )
    return Table("cost", "Runs and cost of each arm.", header, rows, records)


def run_table(data: AblationData) -> Table:
    """Every run with its scores: for a statistician's own tools."""
    names = [*score_names(data.results.cell_runs, "validation"), *score_names(data.results.cell_runs, "test")]
    records: list[dict[str, object]] = []
    for run in data.results.cell_runs:
        cell = data.results.cells.get(run.arm)
        record = {"cell": run.arm, "variant": cell.variant if cell else "", "repeat": run.repeat}
        record |= {"seed_index": run.seed_index, "fold": run.fold, "run": data.study.by_key[run.key].name}
        record |= {"state": run.state, "mlflow_run": data.study.by_key[run.key].run_id}
        records.append(record | {name: run.metrics.get(name, "") for name in names})
    return Table("runs", "Every run.", ["run"], [[str(record["run"])] for record in records], records)


def _searches_told(data: AblationData) -> bool:
    return any(cell.searched for cell in data.results.cells.values())


def _searched(data: AblationData, cell: str) -> list[str]:
    """Trials and dimensions of an arm's own search, for the table of scores; nothing where that was not recorded."""
    if not _searches_told(data):
        return []
    return [str(data.design.trials_had), str(len(data.results.cells[cell].searched))]


def _tuned_before(data: AblationData, cell: str) -> list[str]:
    """What earlier sweeps and ablations have spent on an arm, for the table of scores; nothing where none is named."""
    if not data.design.tuned_with:
        return []
    runs, hours = data.design.earlier(data.results.cells[cell].variant)
    return [f"{counted(runs, 'run')}, {duration(hours)}" if runs else MISSING]


def luck_tables(data: AblationData) -> list[Table]:
    """Where the luck lies; nothing where replications are too few to say."""
    found = luck(data.results)
    if not found:
        return []
    rows = [[each.source, percent(each.scores), _optional(each.differences)] for each in found]
    caption = (
        "Where the luck lies: standard deviations from each source, percentage points (components of variance by the method of "
        "moments, averaged over arms; differences: what both arms share has gone)."
    )
    header = ["source", "of scores", "of paired differences"]
    return [Table("luck", caption, header, rows, [asdict(each) for each in found])]


def _optional(value: float | None) -> str:
    return MISSING if value is None else percent(value)


def failure_table(data: AblationData) -> Table | None:
    """Runs that ended before their last epoch, with the reason; None where there are none."""
    return failures(data.study, [run for run in data.study.runs if run.state in LOST])


def failures(study: Study, runs: Sequence[Run]) -> Table | None:
    """Failed and killed runs with their reasons; None where there are none."""
    rows = [[study.by_key[run.key].name, run.state, (run.reason.splitlines() or [""])[0][:160]] for run in runs]
    records = [{"run": study.by_key[run.key].name, "state": run.state, "reason": run.reason} for run in runs]
    if not rows:
        return None
    return Table(
        "failures", "Runs that did not come to their last epoch.", ["run", "state", "reason"], rows, records, left=3
    )
