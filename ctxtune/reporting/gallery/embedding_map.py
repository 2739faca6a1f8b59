"""The embedding as a map: a point an image, drawn as inline SVG, which needs no library to be seen."""

import importlib
import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ctxtune.palette import COLORS

POINTS = 4000
"""Most points of a map: a browser stays quick, and the eye sees no more."""
SHAPES = ("circle", "square", "triangle", "diamond")
_WIDTH, _HEIGHT, _MARGIN = 760, 560, 14


def flatten_embeddings(
    embeddings: npt.NDArray[np.floating], method: str = "auto"
) -> tuple[npt.NDArray[np.float64], str]:
    """Two coordinates for each embedding.

    Args:
        embeddings: (n, d), normalized here, since retrieval sees directions only.
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
    centered = values - values.mean(axis=0)
    variances, directions = np.linalg.eigh(centered.T @ centered)
    largest = directions[:, ::-1][:, :2]
    # An eigenvector has no sign of its own: its largest entry is made positive, so that two runs agree.
    largest = largest * np.sign(largest[np.abs(largest).argmax(axis=0), np.arange(largest.shape[1])])
    points = np.zeros((len(values), 2))
    points[:, : largest.shape[1]] = centered @ largest
    total = variances.sum()
    share = variances[::-1][:2].sum() / total if total > 0 else 0.0
    return points, f"the two principal components, {share:.0%} of the variance"


def _umap(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    umap = importlib.import_module("umap")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces that a fixed seed means one thread
        neighbors = min(15, len(values) - 1)
        return np.asarray(
            umap.UMAP(n_neighbors=neighbors, metric="cosine", random_state=0).fit_transform(values), dtype=np.float64
        )


def shown_points(count: int, wanted: npt.NDArray[np.bool_], limit: int = POINTS) -> npt.NDArray[np.int64]:
    """Which of `count` images a map shows: all, or the `wanted` ones (first `limit`) and evenly spaced others."""
    if count <= limit:
        return np.arange(count)
    first = np.flatnonzero(wanted)[:limit]
    others = np.flatnonzero(~wanted)
    spaced = others[np.linspace(0, len(others) - 1, num=min(len(others), limit - len(first)), dtype=np.int64)]
    return np.sort(np.concatenate([first, spaced]))


@dataclass(frozen=True)
class MapPoint:
    """A point of a map.

    Attributes:
        x, y: its place in the drawing, as text.
        name: of its class, shown where the pointer is; "" for none.
        color: of its class; "" for the gray of all others.
        corners: of its shape, as SVG writes them; "" for a circle.
    """

    x: str
    y: str
    name: str = ""
    color: str = ""
    corners: str = ""


@dataclass(frozen=True)
class EmbeddingMap:
    """A map with the legend of its colored classes, for `templates/embedding_map.html.j2`."""

    width: int
    height: int
    points: tuple[MapPoint, ...]
    legend: tuple[tuple[MapPoint, str], ...]


def embedding_map(
    points: npt.NDArray[np.float64], labels: Sequence[int], names: Mapping[int, str], colored: Sequence[int]
) -> EmbeddingMap:
    """The map of points.

    Args:
        points: (n, 2) coordinates.
        labels: (n,) class of each point.
        names: label to name.
        colored: classes with a color and a shape of their own, as many as there are colors at most; the rest is gray.
    """
    looks = {label: (COLORS[i], SHAPES[i % len(SHAPES)]) for i, label in enumerate(colored[: len(COLORS)])}
    order = sorted(range(len(labels)), key=lambda index: labels[index] in looks)  # colored points on top of gray ones
    low, high = points.min(axis=0), points.max(axis=0)
    spread = np.where(high > low, high - low, 1.0)
    scaled = (points - low) / spread

    def name(label: int) -> str:
        return names.get(label, f"class {label}")

    drawn = []
    for index in order:
        x = _MARGIN + scaled[index, 0] * (_WIDTH - 2 * _MARGIN)
        y = _HEIGHT - _MARGIN - scaled[index, 1] * (_HEIGHT - 2 * _MARGIN)
        drawn.append(_point(x, y, name(labels[index]), *looks.get(labels[index], ("", ""))))
    legend = [(_point(8, 8, "", *look), name(label)) for label, look in looks.items()]
    if set(labels) - set(looks):
        legend.append((_point(8, 8), "all other classes"))
    return EmbeddingMap(_WIDTH, _HEIGHT, tuple(drawn), tuple(legend))


def _point(x: float, y: float, name: str = "", color: str = "", shape: str = "") -> MapPoint:
    corners = {
        "square": [(-4.5, -4.5), (4.5, -4.5), (4.5, 4.5), (-4.5, 4.5)],
        "triangle": [(0, -5.8), (5.5, 4.4), (-5.5, 4.4)],
        "diamond": [(0, -6.3), (5.6, 0), (0, 6.3), (-5.6, 0)],
    }.get(shape, [])
    path = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return MapPoint(f"{x:.1f}", f"{y:.1f}", name, color, path)
