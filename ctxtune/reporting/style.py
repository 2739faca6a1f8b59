"""How all figures look: sizes for print, colors that color-blind readers can tell apart, no global state."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ctxtune.palette import COLORS, PAPER, QUIET, RULE

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
WIDTH = 7.0  # inches: the text width of a page
_STYLE: dict[str, object] = {
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "path",
    "svg.hashsalt": "ctxtune",
    "pdf.fonttype": 42,
}


@contextmanager
def styled() -> Iterator[None]:
    """Our settings of matplotlib for what is drawn and saved inside."""
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        yield


def new_figure(height: float, width: float = WIDTH, **grid: Any) -> tuple[Figure, Any]:
    """A figure of so many inches, with its axes (`rows` and `columns` as for Figure.subplots: nrows, ncols)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(**grid)


def look(index: int) -> dict[str, Any]:
    """Color, marker and line of the n-th series: told apart without color, too."""
    return {
        "color": COLORS[index % len(COLORS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINES[index % len(LINES)],
    }


Span = tuple[float, float, float, str]
"""A horizontal interval in a figure: its height on the page, its ends, its color."""


def draw_spans(axes: Axes, spans: Sequence[Span]) -> None:
    """Draw intervals, once the limits are set; an arrow says where one runs out of the picture."""
    left, right = axes.get_xlim()
    for place, low, high, color in spans:
        axes.plot([max(low, left), min(high, right)], [place, place], color=color)
        for end, outside, marker in ((left, low < left, "<"), (right, high > right, ">")):
            if outside:
                axes.plot([end], [place], marker, color=color, markersize=5, clip_on=False)


def only_rows_grid(axes: Axes) -> None:
    """Grid lines of values only, for axes whose other direction is a list of names."""
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
