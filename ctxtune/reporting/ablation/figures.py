"""The figures of an ablation: forest of differences, curves over a factor, interactions, scores by arm."""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ctxtune.metric_names import metric_title
from ctxtune.palette import BLUE, DARK, GRAY, INK, LIGHT, QUIET, VERMILION
from ctxtune.reporting.ablation.data import AblationData
from ctxtune.reporting.style import WIDTH, Span, draw_spans, look, new_figure, only_rows_grid
from ctxtune.results.ablation import JudgedContrast
from ctxtune.results.formatting import setting
from ctxtune.statistics import Interval, t_interval

_ROW = 0.27
_MOST_CHARACTERS = 38


def forest(data: AblationData, contrasts: Sequence[JudgedContrast]) -> Figure:
    """Differences to the reference with their intervals, one row a contrast."""
    known = [each for each in contrasts if each.difference is not None]
    labels = [wrapped(each.contrast.cell) for each in known]
    lines = [max(1, label.count("\n") + 1) for label in labels]
    heights = [max(_ROW, 0.17 * count + 0.1) for count in lines]
    figure, axes = new_figure(sum(heights) + 0.95, WIDTH)
    places = -np.cumsum(heights) + np.asarray(heights) / 2
    axes.axvline(0, color=QUIET, linewidth=1)
    spans = [
        _forest_row(axes, float(place), each, data.over_classes.get(each.contrast.cell))
        for place, each in zip(places, known, strict=True)
    ]
    axes.set_yticks(places, labels)
    axes.set_ylim(-sum(heights), 0.02)
    direction = "more" if data.design.mode == "max" else "less"
    axes.set_xlabel(
        f"difference in {metric_title(data.design.metric)} to the reference,\npercentage points ({direction} is better)"
    )
    _margins(axes, data, known)
    draw_spans(axes, [span for span in spans if span])
    only_rows_grid(axes)
    for place, each in zip(places, known, strict=True):
        words = each.words
        axes.annotate(
            words, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=INK,
            annotation_clip=False,
        )  # fmt: skip
    return figure


def _forest_row(axes: Axes, place: float, each: JudgedContrast, over_classes: Interval | None) -> Span | None:
    """Draw a row but for its t-interval, which is returned: the limits are not known yet."""
    assert each.difference is not None
    interval, judgment = each.difference.interval, each.verdict.judgment if each.verdict else ""
    color = {"better": BLUE, "worse": VERMILION}.get(judgment, DARK)
    axes.plot(100 * each.difference.differences, np.full(each.difference.count, place), "|", color=GRAY, markersize=7)
    if over_classes is not None:
        axes.plot([100 * over_classes.low, 100 * over_classes.high], [place] * 2, color=LIGHT, linewidth=5,
                  solid_capstyle="butt", zorder=1)  # fmt: skip
    marker = {"better": "^", "worse": "v", "practically equal": "s"}.get(judgment, "o")
    axes.plot([100 * interval.mean], [place], marker, color=color, markersize=6.5, zorder=3)
    return (place, 100 * interval.low, 100 * interval.high, color) if math.isfinite(interval.low) else None


def _margins(axes: Axes, data: AblationData, known: Sequence[JudgedContrast]) -> None:
    """Limits from means, bootstrap and class intervals; a t-interval of two seeds may run out of the picture."""
    ends = [0.0]
    for each in known:
        assert each.difference is not None
        ends += [*(100 * each.difference.differences)]
        for interval in (each.difference.interval, data.over_classes.get(each.contrast.cell)):
            if interval is not None and math.isfinite(interval.low) and each.difference.count > 2:
                ends += [100 * interval.low, 100 * interval.high]
    low, high = min(ends), max(ends)
    pad = 0.06 * ((high - low) or 1.0)
    axes.set_xlim(low - pad, high + pad)


def arms(data: AblationData, cells: Sequence[str]) -> Figure:
    """The score of each arm: mean with t-interval, and each replication as a point."""
    shown = [cell for cell in cells if data.results.scores(cell, data.design.metric)]
    labels = [wrapped(cell) for cell in shown]
    heights = [max(_ROW, 0.17 * (label.count("\n") + 1) + 0.1) for label in labels]
    figure, axes = new_figure(sum(heights) + 0.95)
    places = -np.cumsum(heights) + np.asarray(heights) / 2
    ends: list[float] = []
    spans: list[Span] = []
    for place, cell in zip(places, shown, strict=True):
        values = 100 * np.array(list(data.results.scores(cell, data.design.metric).values()))
        interval = t_interval(values)
        axes.plot(values, np.full(len(values), place), "|", color=GRAY, markersize=8)
        color = BLUE if cell in data.results.references else DARK
        if len(values) > 1:
            spans.append((float(place), interval.low, interval.high, color))
        if len(values) > 2:  # of two values it is wider than all else
            ends += [interval.low, interval.high]
        ends += values.tolist()
        axes.plot([interval.mean], [place], "o", color=color, markersize=6)
    axes.set_yticks(places, labels)
    axes.set_ylim(-sum(heights), 0.02)
    pad = 0.05 * ((max(ends) - min(ends)) or 1.0)
    axes.set_xlim(min(ends) - pad, max(ends) + pad)
    draw_spans(axes, spans)
    axes.set_xlabel(f"{metric_title(data.design.metric)}, percent")
    only_rows_grid(axes)
    return figure


_LOGARITHMIC = 20
"""From this ratio of a factor's greatest to its least level on, its axis is logarithmic."""


def is_numeric(levels: Sequence[object]) -> bool:
    """Whether a factor's levels are numbers, at least two."""
    return len(levels) > 1 and all(isinstance(level, int | float) and not isinstance(level, bool) for level in levels)


def factor_curves(
    data: AblationData, factor: str, series: dict[str, dict[int, str]], contrasts: Sequence[JudgedContrast]
) -> Figure:
    """Scores, and differences to the reference, over the levels of a factor, with 95 % bands.

    `series`: for each variant, the cell at each level (by the level's index).
    """
    levels = data.design.factors[factor]
    numeric = is_numeric(levels)
    places = [float(level) for level in levels] if numeric else [float(index) for index in range(len(levels))]
    judged = {each.contrast.cell: each for each in contrasts}
    columns = 2 if any(each.difference is not None for each in contrasts) and len(series) > 1 else 1
    figure, panels = new_figure(3.1 + 0.2 * math.ceil(len(series) / 3), WIDTH, ncols=columns, squeeze=False)
    scores, differences = panels[0][0], panels[0][-1]
    for index, (variant, cells) in enumerate(series.items()):
        means = {level: t_interval(list(values.values())) for level, cell in cells.items()
                 if (values := data.results.scores(cell, data.design.metric))}  # fmt: skip
        band(scores, places, means, look(index), variant, numeric)
        if columns == 2:
            found = {level: each.difference.interval for level, cell in cells.items()
                     if (each := judged.get(cell)) is not None and each.difference is not None}  # fmt: skip
            if found:
                band(differences, places, found, look(index), variant, numeric)
    _name_axis(scores, factor, levels, places, numeric)
    scores.set_ylabel(f"{metric_title(data.design.metric)}, percent")
    if columns == 2:
        scores.set_title("score", loc="left")
        differences.axhline(0, color=QUIET, linewidth=1)
        _name_axis(differences, factor, levels, places, numeric)
        differences.set_ylabel("difference, percentage points")
        differences.set_title("difference to the reference at the same level", loc="left")
    handles, labels = scores.get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)))
    return figure


def band(
    axes: Axes, places: Sequence[float], means: dict[int, Interval], style: dict[str, Any], label: str, joined: bool
) -> None:
    """One series: a line with its band, or, over names, points with bars that are joined by a thin line."""
    levels = sorted(means, key=lambda level: places[level])
    x = np.array([places[level] for level in levels])
    mean = 100 * np.array([means[level].mean for level in levels])
    low, high = (100 * np.array([getattr(means[level], end) for level in levels]) for end in ("low", "high"))
    enough = np.array([means[level].count > 2 for level in levels])
    if joined:
        axes.plot(x, mean, label=label, **style)
        axes.fill_between(
            x,
            np.where(enough, low, np.nan),
            np.where(enough, high, np.nan),
            color=style["color"],
            alpha=0.16,
            linewidth=0,
        )
        return
    bars = np.where(enough, [mean - low, high - mean], 0.0)
    axes.errorbar(x, mean, yerr=np.nan_to_num(bars), capsize=3, linewidth=1.2, label=label, **style)


def _name_axis(axes: Axes, factor: str, levels: Sequence[object], places: Sequence[float], numeric: bool) -> None:
    axes.set_xlabel(factor)
    positions = np.sort(places)
    if numeric and positions[0] > 0 and positions[-1] >= _LOGARITHMIC * positions[0]:
        axes.set_xscale("log")
        axes.minorticks_off()
        positions = np.log(positions)
    spread = positions[-1] - positions[0]
    crowded = numeric and spread and min(np.diff(positions)) < spread / 12
    if not crowded:
        axes.set_xticks(places, [setting(level) for level in levels])
    if not numeric:
        axes.set_xlim(-0.4, len(levels) - 0.6)


def interaction(data: AblationData, first: str, second: str, cells: dict[str, dict[tuple[int, int], str]]) -> Figure:
    """One panel a variant: the score over the levels of one factor, a line for each level of the other."""
    levels, others = data.design.factors[first], data.design.factors[second]
    numeric = is_numeric(levels)
    places = [float(level) for level in levels] if numeric else [float(index) for index in range(len(levels))]
    columns = min(3, len(cells))
    rows = math.ceil(len(cells) / columns)
    figure, panels = new_figure(2.5 * rows + 0.6, WIDTH, nrows=rows, ncols=columns, squeeze=False, sharey=True)
    for index, (variant, table) in enumerate(cells.items()):
        axes = panels[index // columns][index % columns]
        for other, level in enumerate(others):
            means = {
                place: t_interval(list(values.values()))
                for place in range(len(levels))
                if (cell := table.get((place, other))) and (values := data.results.scores(cell, data.design.metric))
            }
            if means:
                band(axes, places, means, look(other), f"{second} = {setting(level)}", numeric)
        axes.set_title(variant, loc="left")
        _name_axis(axes, first, levels, places, numeric)
        if index % columns == 0:
            axes.set_ylabel(f"{metric_title(data.design.metric)}, percent")
    for index in range(len(cells), rows * columns):
        panels[index // columns][index % columns].set_visible(False)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
    return figure


def wrapped(label: str) -> str:
    """A label in lines that leave room for the picture, broken at spaces or behind underscores and full stops."""
    lines = [""]
    for piece in re.findall(r"[^ _.]*[ _.]?", label):
        if len(lines[-1]) + len(piece.rstrip()) > _MOST_CHARACTERS and lines[-1]:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)
