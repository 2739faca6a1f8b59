"""The figures of a search space: importances, slices, contour, parallel coordinates."""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from scipy.interpolate import RBFInterpolator
from scipy.spatial import KDTree

from ctxtune.metric_names import metric_title
from ctxtune.palette import BLACK, COLOR_MAP, COLORS, DARK, ORANGE, QUIET
from ctxtune.reporting.style import WIDTH, new_figure, only_rows_grid
from ctxtune.reporting.sweep.data import SearchedDimension, SweepData
from ctxtune.reporting.sweep.importance import Importances
from ctxtune.reporting.sweep.search_figures import MANY, scatter_trials
from ctxtune.results.formatting import setting

_GRID = 80
_REACH, _NEIGHBORS = 0.22, 3
"""Farther than this share of an axis from the third nearest completed trial nothing is shaded: there is no data to say so."""
_HATCHES = ("", "////", "....")

_Axis = tuple[SearchedDimension, Any]
"""A dimension and its coordinates on a figure."""


def importance_bars(found: Sequence[Importances]) -> Figure:
    """Each dimension's share by each method; the dimensions in the order of their mean share."""
    paths = list(dict.fromkeys(path for each in found for path in each.shares))
    paths.sort(key=lambda path: -sum(each.shares.get(path, 0.0) for each in found))
    figure, axes = new_figure(0.42 * len(paths) + 0.22 * len(found) + 0.8, WIDTH)
    height = 0.8 / len(found)
    for index, each in enumerate(found):
        places = np.arange(len(paths)) + (index - (len(found) - 1) / 2) * height
        shares = [100 * each.shares.get(path, 0.0) for path in paths]
        axes.barh(places, shares, height * 0.92, color=COLORS[index], hatch=_HATCHES[index % 3], edgecolor="white",
                  linewidth=0, label=f"{each.title} ({each.trials} trials)")  # fmt: skip
    axes.set_yticks(range(len(paths)), paths)
    axes.invert_yaxis()
    only_rows_grid(axes)
    axes.set_xlabel("share of the importance, percent")
    figure.legend(loc="outside lower left", ncols=1)
    return figure


def slices(data: SweepData) -> Figure:
    """The score over each dimension."""
    columns = min(3, len(data.dimensions))
    rows = math.ceil(len(data.dimensions) / columns)
    figure, panels = new_figure(1.95 * rows + 0.45, WIDTH, nrows=rows, ncols=columns, squeeze=False, sharey=True)
    for index, dimension in enumerate(data.dimensions):
        axes = panels[index // columns][index % columns]
        trials = [trial for trial in data.trials if dimension.path in trial.values]
        best = data.completed[0] if data.completed and data.completed[0] in trials else None
        places = axis_places(dimension, [trial.values[dimension.path] for trial in trials])
        if not dimension.numeric or dimension.choices:
            spread = 0.16 * _step(dimension)
            jitter = np.random.default_rng(index).uniform(-spread, spread, len(places))
            if best is not None:
                jitter[trials.index(best)] = 0.0
            places = list(np.asarray(places) + jitter)
        scatter_trials(axes, trials, places, best=best)
        name_axis(axes, dimension, "x")
        if index % columns == 0:
            axes.set_ylabel(f"{metric_title(data.objective)}, %")
    for index in range(len(data.dimensions), rows * columns):
        panels[index // columns][index % columns].set_visible(False)
    handles, labels = max((axes.get_legend_handles_labels() for axes in panels.flat), key=lambda pair: len(pair[0]))
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def contour(data: SweepData, first: SearchedDimension, second: SearchedDimension) -> Figure:
    """The final score over two dimensions: points are completed trials, the shading a smooth surface through them."""
    trials = [trial for trial in data.completed if first.path in trial.values and second.path in trial.values]
    x, y = (np.asarray(axis_places(each, [trial.values[each.path] for trial in trials])) for each in (first, second))
    score = 100 * np.array([trial.score for trial in trials])
    figure, axes = new_figure(3.9, 5.6)
    norm = Normalize(score.min(), score.max())
    if len(trials) >= FEWEST_FOR_SURFACE and first.numeric and second.numeric:
        _surface(axes, (first, x), (second, y), score, norm)
    stopped = [t for t in data.trials if t.run.state == "pruned" and first.path in t.values and second.path in t.values]
    axes.scatter(
        axis_places(first, [t.values[first.path] for t in stopped]),
        axis_places(second, [t.values[second.path] for t in stopped]),
        marker="x", s=16, color=DARK, linewidths=0.9, label="stopped early", rasterized=len(stopped) > MANY,
        path_effects=[withStroke(linewidth=2, foreground="white")],
    )  # fmt: skip
    axes.scatter(x, y, c=score, cmap=COLOR_MAP, norm=norm, s=34, edgecolors="white", linewidths=0.9, label="completed")
    best = int(np.argmax(data.sign * score))
    axes.scatter(
        x[best], y[best], marker="*", s=150, color=ORANGE, edgecolors=BLACK, linewidths=0.8, label="best", zorder=5
    )
    name_axis(axes, first, "x")
    name_axis(axes, second, "y")
    bar = figure.colorbar(ScalarMappable(norm, COLOR_MAP), ax=axes)
    bar.set_label(f"{metric_title(data.objective)}, percent")
    figure.legend(loc="outside lower center", ncols=3)
    axes.grid(False)
    return figure


FEWEST_FOR_SURFACE = 20
"""Completed trials; a surface through fewer would be drawn by the spline, not by the data."""


def _surface(axes: Axes, across: _Axis, up: _Axis, score: Any, norm: Normalize) -> None:
    """A thin-plate spline with some smoothing, over the searched rectangle (logarithmic where the search was)."""
    grids, points = [], []
    for dimension, places in (across, up):
        low, high = _bounds(dimension, places)
        scaled = np.log(places) if dimension.logarithmic else np.asarray(places, dtype=float)
        low, high = (math.log(low), math.log(high)) if dimension.logarithmic else (low, high)
        points.append((scaled - low) / (high - low))
        grids.append((low, high))
    unit = np.linspace(0, 1, _GRID)
    mesh = np.stack(np.meshgrid(unit, unit), axis=-1).reshape(-1, 2)
    places = np.stack(points, axis=1) + np.random.default_rng(0).normal(0, 1e-6, (len(score), 2))
    model = RBFInterpolator(places, score, kernel="thin_plate_spline", smoothing=0.05, neighbors=min(60, len(score)))
    distance = np.asarray(KDTree(places).query(mesh, k=_NEIGHBORS)[0])[:, -1]
    height = np.clip(model(mesh).reshape(_GRID, _GRID), score.min(), score.max())
    height = np.ma.masked_where(distance.reshape(_GRID, _GRID) > _REACH, height)
    axis = [low + unit * (high - low) for low, high in grids]
    axis = [np.exp(values) if each[0].logarithmic else values for values, each in zip(axis, (across, up), strict=True)]
    axes.contourf(axis[0], axis[1], height, levels=12, cmap=COLOR_MAP, norm=norm, alpha=0.75)


def parallel(data: SweepData) -> Figure:
    """Parallel coordinates of the completed trials, colored by score, the best drawn last."""
    dimensions = data.dimensions
    trials = [trial for trial in reversed(data.completed) if all(each.path in trial.values for each in dimensions)]
    score = 100 * np.array([trial.score for trial in trials])
    figure, axes = new_figure(3.3, WIDTH)
    norm = Normalize(score.min(), score.max())
    heights = np.stack([_unit(each, [trial.values[each.path] for trial in trials]) for each in dimensions], axis=1)
    heights = np.concatenate([heights, np.asarray(norm(score))[:, None]], axis=1)
    across = np.arange(heights.shape[1])
    lines = [np.stack([across, row], axis=1) for row in heights]
    order = np.argsort(data.sign * score)
    axes.add_collection(
        LineCollection([lines[index] for index in order], array=score[order], cmap=COLOR_MAP, norm=norm, linewidths=1.1,
                       alpha=0.8, rasterized=len(lines) > MANY)
    )  # fmt: skip
    axes.plot(across, heights[order[-1]], color=ORANGE, linewidth=2.4, label="best")
    for place, dimension in enumerate(dimensions):
        axes.axvline(place, color=QUIET, linewidth=0.8)
        for height, text in _ticks(dimension, [trial.values[dimension.path] for trial in trials]):
            axes.annotate(text, (place, height), (3, 0), textcoords="offset points", fontsize=7, va="center",
                          bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.8})  # fmt: skip
    axes.set_xticks(across, [*(_two_lines(each.path) for each in dimensions), "score"])
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(False)
    axes.set_xlim(-0.1, len(dimensions) + 0.1)
    axes.set_ylim(-0.05, 1.05)
    axes.tick_params(axis="x", length=0)
    bar = figure.colorbar(ScalarMappable(norm, COLOR_MAP), ax=axes, pad=0.01)
    bar.set_label(f"{metric_title(data.objective)}, percent")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12))
    return figure


def axis_places(dimension: SearchedDimension, values: Sequence[Any]) -> list[float]:
    """Where values stand on an axis: numbers as they are, choices that are no numbers by their index."""
    if dimension.numeric:
        return [float(value) for value in values]
    return [float(_index(dimension, value)) for value in values]


def name_axis(axes: Axes, dimension: SearchedDimension, direction: str) -> None:
    """Label, scale and ticks of an axis that shows a dimension."""
    getattr(axes, f"set_{direction}label")(dimension.path)
    if dimension.choices:
        places = axis_places(dimension, dimension.choices)
        getattr(axes, f"set_{direction}ticks")(places, [setting(choice) for choice in dimension.choices])
    elif dimension.logarithmic:
        getattr(axes, f"set_{direction}scale")("log")


def _index(dimension: SearchedDimension, value: Any) -> int:
    texts = [str(choice) for choice in dimension.choices]
    return texts.index(str(value)) if str(value) in texts else len(texts)


def _step(dimension: SearchedDimension) -> float:
    places = sorted(axis_places(dimension, dimension.choices))
    return float(min(np.diff(places))) if len(places) > 1 else 1.0


def _bounds(dimension: SearchedDimension, places: Any) -> tuple[float, float]:
    inside = axis_places(dimension, dimension.choices) if dimension.choices else [dimension.low, dimension.high]
    return min(*inside, *places), max(*inside, *places)


def _unit(dimension: SearchedDimension, values: Sequence[Any]) -> Any:
    places = np.asarray(axis_places(dimension, values))
    low, high = _bounds(dimension, places)
    if dimension.logarithmic:
        places, low, high = np.log(places), math.log(low), math.log(high)
    return (places - low) / ((high - low) or 1.0)


def _ticks(dimension: SearchedDimension, values: Sequence[Any]) -> list[tuple[float, str]]:
    if dimension.choices:
        return [(float(_unit(dimension, [*values, choice])[-1]), setting(choice)) for choice in dimension.choices]
    ends = _bounds(dimension, axis_places(dimension, values))
    middle = math.sqrt(ends[0] * ends[1]) if dimension.logarithmic else sum(ends) / 2
    return [(height, f"{value:.3g}") for height, value in zip((0.0, 0.5, 1.0), (ends[0], middle, ends[1]), strict=True)]


def _two_lines(path: str) -> str:
    """A path in lines of some ten characters, broken behind full stops and underscores."""
    lines = [""]
    for piece in re.findall(r"[^_.]*[_.]?", path):
        if lines[-1] and len(lines[-1]) + len(piece) > 11:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)
