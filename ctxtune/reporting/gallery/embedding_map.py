"""The embedding as a map: a point an image, as an inline SVG drawing that needs no library to be seen."""

import importlib
import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import numpy.typing as npt

POINTS = 4000
"""Most points of a map: a browser stays quick, and the eye sees no more."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D1F")
"""Okabe and Ito's palette ("Color Universal Design", 2008), yellow replaced by brown: it must be seen on white."""
SHAPES = ("circle", "square", "triangle", "diamond")
_WIDTH, _HEIGHT, _MARGIN = 760, 560, 14


def flatten_embeddings(
    embeddings: npt.NDArray[np.floating], method: str = "auto"
) -> tuple[npt.NDArray[np.float64], str]:
    """Two coordinates for each embedding.

    Args:
        embeddings: (n, d), normalised here, since retrieval sees directions only.
        method: "pca", "umap", or "auto": UMAP where the package umap-learn is installed and there are 10 points or more.

    Returns:
        (n, 2) coordinates, and in words how they were made. Both methods are deterministic.
    """
    values = np.asarray(embeddings, dtype=np.float64)
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    values = values / np.where(norms > 0, norms, 1.0)
    if method == "umap" or (method == "auto" and len(values) >= 10 and importlib.util.find_spec("umap")):
        return _umap(values), "UMAP (cosine distances)"
    return _principal_components(values)


def _principal_components(values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], str]:
    centred = values - values.mean(axis=0)
    variances, directions = np.linalg.eigh(centred.T @ centred)
    largest = directions[:, ::-1][:, :2]
    # An eigenvector has no sign of its own: its largest entry is made positive, so that two runs agree.
    largest = largest * np.sign(largest[np.abs(largest).argmax(axis=0), np.arange(largest.shape[1])])
    points = np.zeros((len(values), 2))
    points[:, : largest.shape[1]] = centred @ largest
    total = variances.sum()
    share = variances[::-1][:2].sum() / total if total > 0 else 0.0
    return points, f"the two principal components, {share:.0%} of the variance"


def _umap(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    umap = importlib.import_module("umap")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces that a fixed seed means one thread
        neighbours = min(15, len(values) - 1)
        return np.asarray(
            umap.UMAP(n_neighbors=neighbours, metric="cosine", random_state=0).fit_transform(values), dtype=np.float64
        )


def shown_points(count: int, wanted: npt.NDArray[np.bool_], limit: int = POINTS) -> npt.NDArray[np.int64]:
    """Which of `count` images a map shows: all, or the `wanted` ones (first `limit`) and evenly spaced others."""
    if count <= limit:
        return np.arange(count)
    first = np.flatnonzero(wanted)[:limit]
    others = np.flatnonzero(~wanted)
    spaced = others[np.linspace(0, len(others) - 1, num=min(len(others), limit - len(first)), dtype=np.int64)]
    return np.sort(np.concatenate([first, spaced]))


def map_drawing(
    points: npt.NDArray[np.float64], labels: Sequence[int], names: Mapping[int, str], coloured: Sequence[int]
) -> str:
    """The map as HTML: an SVG drawing and its legend.

    Args:
        points: (n, 2) coordinates.
        labels: (n,) class of each point; hovering over a point tells its class.
        names: label to name.
        coloured: classes with a colour and a shape of their own, as many as there are colours at most; the rest is grey.
    """
    looks = {label: (COLOURS[i], SHAPES[i % len(SHAPES)]) for i, label in enumerate(coloured[: len(COLOURS)])}
    order = sorted(range(len(labels)), key=lambda index: labels[index] in looks)  # coloured points on top of grey ones
    low, high = points.min(axis=0), points.max(axis=0)
    spread = np.where(high > low, high - low, 1.0)
    scaled = (points - low) / spread
    marks = []
    for index in order:
        x = _MARGIN + scaled[index, 0] * (_WIDTH - 2 * _MARGIN)
        y = _HEIGHT - _MARGIN - scaled[index, 1] * (_HEIGHT - 2 * _MARGIN)
        name = escape(names.get(labels[index], f"class {labels[index]}"))
        marks.append(_mark(x, y, *looks.get(labels[index], ("", "")), title=name))
    legend = [
        f'<li><svg width="16" height="16" viewBox="0 0 16 16">{_mark(8, 8, *look)}</svg>'
        f"{escape(names.get(label, f'class {label}'))}</li>"
        for label, look in looks.items()
    ]
    if set(labels) - set(looks):
        legend.append(f'<li><svg width="16" height="16" viewBox="0 0 16 16">{_mark(8, 8)}</svg>all other classes</li>')
    return (
        f'<div class="map"><svg role="img" aria-label="map of the embedding" viewBox="0 0 {_WIDTH} {_HEIGHT}">'
        f'{"".join(marks)}</svg><ul class="legend">{"".join(legend)}</ul></div>'
    )


def _mark(x: float, y: float, colour: str = "", shape: str = "", title: str = "") -> str:
    hover = f"<title>{title}</title>" if title else ""
    if not colour:
        return f'<circle class="other" cx="{x:.1f}" cy="{y:.1f}" r="2">{hover}</circle>'
    style = f'fill="{colour}" stroke="#fff" stroke-width="0.8"'
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" {style}>{hover}</circle>'
    corners = {
        "square": [(-4.5, -4.5), (4.5, -4.5), (4.5, 4.5), (-4.5, 4.5)],
        "triangle": [(0, -5.8), (5.5, 4.4), (-5.5, 4.4)],
        "diamond": [(0, -6.3), (5.6, 0), (0, 6.3), (-5.6, 0)],
    }[shape]
    path = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon points="{path}" {style}>{hover}</polygon>'
