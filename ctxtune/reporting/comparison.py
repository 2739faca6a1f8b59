"""Sweeps or ablations side by side; ablations over several data sets also in sum."""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from ctxtune.errors import TrackingError
from ctxtune.metric_names import metric_title
from ctxtune.palette import GRAY, QUIET
from ctxtune.reporting.ablation.aggregate import summed_section
from ctxtune.reporting.ablation.data import AblationData
from ctxtune.reporting.ablation.figures import wrapped
from ctxtune.reporting.document import Document, Picture, Section, Table
from ctxtune.reporting.setup import differing_table
from ctxtune.reporting.study import device_of
from ctxtune.reporting.style import WIDTH, Span, draw_spans, look, new_figure, only_rows_grid
from ctxtune.reporting.sweep.data import SweepData
from ctxtune.results.costs import hours_of
from ctxtune.results.formatting import MISSING, p_value, percent, percent_interval
from ctxtune.results.runs import by_seed, shared_scores
from ctxtune.results.studies import judged_together, study_of
from ctxtune.statistics import compare_pairs, t_interval
from ctxtune.text import duration


def compared_ablations(each: Sequence[AblationData]) -> Document:
    """Ablations side by side: scores and verdicts of the arms that they share, and, of several, the arms in sum.

    Raises:
        TrackingError: they share no arm.
    """
    shared = [cell for cell in each[0].results.cells if all(cell in data.results.cells for data in each)]
    if not shared:
        names = ", ".join(f"{data.study.name}: {', '.join(list(data.results.cells)[:3])} ..." for data in each)
        raise TrackingError(f"these ablations share no arm ({names}); there is nothing to put side by side")
    caption = "Difference to each ablation's reference, with its 95 % t-interval."
    sections = [
        Section(
            "Side by side",
            [
                _score_table(each, shared),
                _verdict_table(each, shared),
                Picture("differences", caption, partial(difference_figure, each, shared)),
            ],
        )
    ]
    sections.append(summed_section(each, shared))
    return _document(each, "Ablations", sections)


def compared_sweeps(each: Sequence[SweepData]) -> Document:
    """Sweeps side by side: what they found, what it cost, and test scores where the data set is the same."""
    caption = "Best completed trial so far by hours spent on trials."
    picture = Picture("best_so_far", caption, partial(progress_figure, each))
    tables = [_sweep_table(each), *([_test_table(each)] if any(data.results.confirmations for data in each) else [])]
    return _document(each, "Sweeps", [Section("Side by side", [*tables, picture])])


def difference_figure(each: Sequence[AblationData], shared: Sequence[str]) -> Figure:
    """Each arm's difference to the reference, one mark an ablation."""
    study = study_of([data.results for data in each])
    families = judged_together([data.results for data in each]) if study else [data.results.contrasts for data in each]
    judged = [{found.contrast.cell: found for found in family} for family in families]
    arms = [cell for cell in shared if any(cell in found for found in judged)]
    step = 0.2
    height = (0.17 + step * len(each)) * len(arms) + 1.1
    figure, axes = new_figure(height, WIDTH)
    axes.axvline(0, color=QUIET, linewidth=1)
    spans: list[Span] = []
    ends = [0.0]
    for index, (data, found) in enumerate(zip(each, judged, strict=True)):
        style = {key: value for key, value in look(index).items() if key != "linestyle"}
        for place, cell in enumerate(arms):
            difference = found[cell].difference if cell in found else None
            if difference is None:
                continue
            at = -place + (0.5 - (index + 0.5) / len(each)) * 0.7
            interval = difference.interval
            if math.isfinite(interval.low):
                spans.append((at, 100 * interval.low, 100 * interval.high, style["color"]))
                ends += [100 * interval.low, 100 * interval.high] if difference.count > 2 else []
            ends.append(100 * interval.mean)
            axes.plot([100 * interval.mean], [at], **style, linestyle="none")
        axes.plot([], [], **style, label=f"{data.study.name} ({data.design.dataset})")
    axes.set_yticks([-float(place) for place in range(len(arms))], [wrapped(cell) for cell in arms])
    axes.set_ylim(-len(arms) + 0.45, 0.55)
    pad = 0.05 * (max(ends) - min(ends) or 1.0)
    axes.set_xlim(min(ends) - pad, max(ends) + pad)
    draw_spans(axes, spans)
    axes.set_xlabel("difference to the reference, percentage points")
    only_rows_grid(axes)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def progress_figure(each: Sequence[SweepData]) -> Figure:
    """The best completed trial so far of each sweep by hours."""
    figure, axes = new_figure(3.0, WIDTH)
    for index, data in enumerate(each):
        ended = sorted(data.trials, key=lambda trial: trial.end_time)
        spent = np.cumsum([trial.run.hours for trial in ended])
        best, x, y = math.nan, [], []
        for trial, place in zip(ended, spent, strict=True):
            if trial.completed and not data.sign * best >= data.sign * trial.score:
                best = trial.score
            if math.isfinite(best):
                x.append(float(place))
                y.append(100 * best)
        style = look(index)
        axes.step(x, y, where="post", color=style["color"], linestyle=style["linestyle"], label=data.study.name)
    axes.set_xlabel(f"{device_of(each[0].study)}-hours spent on trials")
    objectives = {metric_title(data.objective) for data in each}
    axes.set_ylabel(f"{' / '.join(sorted(objectives))}, percent")
    if any(line.get_xydata().size for line in axes.lines):
        axes.set_xlim(left=0)
    axes.spines["left"].set_color(GRAY)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _document(each: Sequence[AblationData] | Sequence[SweepData], what: str, sections: list[Section]) -> Document:
    names = [data.study.name for data in each]
    costs = {
        f"{data.study.name}, time of one {device_of(data.study)}": duration(hours_of(data.study.runs)) for data in each
    }
    differing = differing_table([data.study for data in each])
    if differing:
        sections = [*sections, Section("What differs", [differing])]
    return Document(
        title=f"{what} compared: {', '.join(names)}",
        subtitle=f"{len(names)} {what.lower()} side by side",
        facts=costs,
        findings=[],
        sections=sections,
        notes=["Made by ctxtune.report from MLflow. Each one's own report has the details and how it was judged."],
    )


def _score_table(each: Sequence[AblationData], shared: Sequence[str]) -> Table:
    rows, records = [], []
    for cell in shared:
        found = [list(data.results.scores(cell, data.design.metric).values()) for data in each]
        rows.append([cell, *(percent_interval(t_interval(values)) if values else MISSING for values in found)])
        record: dict[str, object] = {"cell": cell}
        for data, values in zip(each, found, strict=True):
            record[data.study.name] = float(np.mean(values)) if values else math.nan
        records.append(record)
    titles = [f"{data.study.name}: {metric_title(data.design.metric)} on {data.design.dataset}" for data in each]
    return Table("scores_compared", "Scores of the shared arms, percent, mean ± half of the 95 % t-interval.",
                 ["arm", *titles], rows, records)  # fmt: skip


def _verdict_table(each: Sequence[AblationData], shared: Sequence[str]) -> Table:
    study = study_of([data.results for data in each])
    families = judged_together([data.results for data in each]) if study else [data.results.contrasts for data in each]
    judged = [{found.contrast.cell: found for found in family} for family in families]
    header, rows, records, texts = ["arm"], [], [], []
    for data in each:
        header += [f"{data.study.name}: difference", f"{data.study.name}: verdict"]
        texts.append(header[-1])
    for cell in shared:
        if not any(cell in found for found in judged):
            continue
        row, record = [cell], {"cell": cell}
        for data, found in zip(each, judged, strict=True):
            contrast = found.get(cell)
            difference = contrast.difference if contrast else None
            row.append(percent_interval(difference.interval, sign=True) if difference else MISSING)
            row.append(contrast.words if contrast else "reference")
            record[f"{data.study.name}_difference"] = str(difference.interval.mean) if difference else ""
            record[f"{data.study.name}_verdict"] = row[-1]
        rows.append(row)
        records.append(record)
    over = (
        f"over all {sum(map(len, families))} contrasts of these files of the study {study}"
        if study
        else "within each ablation"
    )
    caption = f"Differences to each one's reference, percentage points; verdicts after Holm's correction {over}."
    return Table("verdicts_compared", caption, header, rows, records, texts=texts)


def _sweep_table(each: Sequence[SweepData]) -> Table:
    rows: list[list[str]] = [["data set", *(data.design.dataset for data in each)]]
    rows.append(["objective", *(metric_title(data.objective) for data in each)])
    rows.append(["trials", *(str(len(data.trials)) for data in each)])
    rows.append(["  completed", *(str(len(data.completed)) for data in each)])
    rows.append(
        [
            "best in the search, percent",
            *(percent(data.completed[0].score) if data.completed else MISSING for data in each),
        ]
    )
    rows.append(["chosen", *(data.results.chosen or MISSING for data in each)])
    rows.append(["time", *(f"{duration(hours_of(data.study.runs))} of one {device_of(data.study)}" for data in each)])
    paths = list(dict.fromkeys(dimension.path for data in each for dimension in data.dimensions))
    for path in paths:
        rows.append([f"best trial's {path}", *(_best_value(data, path) for data in each)])
    return Table("sweeps", "The sweeps.", ["", *(data.study.name for data in each)], rows)


def _best_value(data: SweepData, path: str) -> str:
    if not data.completed:
        return MISSING
    return str(data.completed[0].run.settings.get(path, MISSING))[:10]


def _test_table(each: Sequence[SweepData]) -> Table:
    """Test scores of the chosen configurations; the difference of two where data set and seeds are the same."""
    found = [{score.metric: score for score in data.results.confirmed} for data in each]
    metrics = list(dict.fromkeys(metric for scores in found for metric in scores))
    pair = len(each) == 2 and each[0].design.dataset == each[1].design.dataset
    header = ["score", *(data.study.name for data in each)]
    header += [f"{each[0].study.name} − {each[1].study.name}", "p"] if pair else []
    rows = []
    for metric in metrics:
        row = [metric_title(metric)]
        row += [percent_interval(scores[metric].chosen_interval) if metric in scores else MISSING for scores in found]
        if pair:
            row += _paired(each, metric, tested=all(metric == data.design.objective.test_metric for data in each))
        rows.append(row)
    caption = "Test classes, chosen configurations: percent, mean ± half of the 95 % t-interval over fresh seeds."
    note = (
        "Differences are paired by seed (all sweeps have the same seeds), given one tuning run each. Only the counterpart of "
        "the objective is tested."
        if pair
        else ""
    )
    return Table("tests_compared", caption, header, rows, note=note)


def _paired(each: Sequence[SweepData], metric: str, *, tested: bool) -> list[str]:
    arms = [data.results.confirmations.get(data.results.chosen or "", []) for data in each]
    pairs = shared_scores(by_seed(arms[0], metric), by_seed(arms[1], metric))
    if not pairs[0]:
        return [MISSING, MISSING]
    difference = compare_pairs(*pairs)
    return [percent_interval(difference.interval, sign=True), p_value(difference.p_value) if tested else MISSING]
