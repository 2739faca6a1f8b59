"""The error gallery: the worst queries with what was found instead, the most confused classes, a map."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

from ctxtune.embedded_image import EmbeddedImage, embedded_image
from ctxtune.palette import COLORS
from ctxtune.reporting.gallery.confusion import Confusion, most_confused
from ctxtune.reporting.gallery.embedding_map import EmbeddingMap, embedding_map, flatten_embeddings, shown_points
from ctxtune.reporting.pages import render

ReadImage = Callable[[int], Image.Image]


@dataclass(frozen=True)
class Side:
    """Queries or gallery: embeddings (n, d), labels (n,), and `read(index)`, which may raise OSError or ValueError."""

    embeddings: npt.NDArray[np.floating]
    labels: npt.NDArray[np.int64]
    read: ReadImage


@dataclass(frozen=True)
class ErrorGallery:
    """What the page is made of.

    Attributes:
        title: of the page.
        facts: name and value of what stands at the top: scores, data set, checkpoint.
        queries: what was searched for.
        gallery: what was searched in; None: the queries among themselves.
        nearest: (q, k) gallery indices of each query's nearest neighbors, nearest first, itself left out.
        similarities: (q, k) their cosine similarities.
        average_precision: (q,) average precision at R of each query, NaN for a query without match.
        first_match_rank: (q,) rank, from 1, of the nearest item of the query's class; 0 without match.
        class_names: label to name.
        worst: number of queries shown.
        confusions: number of pairs of classes shown.
    """

    title: str
    facts: Mapping[str, str]
    queries: Side
    gallery: Side | None
    nearest: npt.NDArray[np.int64]
    similarities: npt.NDArray[np.float64]
    average_precision: npt.NDArray[np.float64]
    first_match_rank: npt.NDArray[np.int64]
    class_names: Mapping[int, str] = field(default_factory=dict)
    worst: int = 24
    confusions: int = 15

    @property
    def found(self) -> Side:
        """Where neighbors come from."""
        return self.gallery or self.queries

    def name(self, label: int) -> str:
        """The name of a class."""
        return self.class_names.get(int(label), f"class {label}")


def worst_queries(average_precision: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.int64]:
    """The queries with the lowest average precision at R, worst first, ties by index; those without match left out."""
    known = np.flatnonzero(~np.isnan(average_precision))
    return known[np.argsort(average_precision[known], kind="stable")][:count]


@dataclass(frozen=True)
class _Item:
    """An image of a query's row: the query itself (``asked``), or what was found: right, wrong, later."""

    kind: str
    image: EmbeddedImage | None
    strong: str
    text: str


@dataclass(frozen=True)
class _Row:
    """A query with what was found for it."""

    name: str
    precision: float
    rank: int
    query: int
    items: list[_Item]


@dataclass(frozen=True)
class _ConfusedPair:
    """A line of the table of confused classes."""

    images: tuple[EmbeddedImage | None, EmbeddedImage | None]
    name: str
    other: str
    count: int
    queries: int


def error_gallery_page(content: ErrorGallery) -> str:
    """The page as one HTML document that needs no network and no script."""
    worst = worst_queries(content.average_precision, content.worst)
    labels, others = content.queries.labels, content.found.labels
    pairs = most_confused(labels, others, content.nearest[:, 0], content.similarities[:, 0], content.confusions)
    known = content.average_precision[~np.isnan(content.average_precision)]
    drawing, drawn, method = _map(content, worst, pairs)
    return render(
        "error_gallery.html.j2",
        content=content,
        rows=[_row(content, int(query)) for query in worst],
        known=len(known),
        zeros=int((known == 0).sum()),
        perfect=int((known == 1).sum()),
        confused=[_confused(content, pair) for pair in pairs],
        map=drawing,
        drawn=drawn,
        method=method,
    )


def _row(content: ErrorGallery, query: int) -> _Row:
    label = int(content.queries.labels[query])
    items = [_item(content.queries, query, "asked", "query", content.name(label))]
    for index, similarity in zip(content.nearest[query], content.similarities[query], strict=True):
        other = int(content.found.labels[index])
        kind = "right" if other == label else "wrong"
        items.append(_item(content.found, int(index), kind, f"{similarity:.3f}", content.name(other)))
    rank = int(content.first_match_rank[query])
    if rank > content.nearest.shape[1]:
        index, similarity = _nearest_match(content, query)
        caption = f"rank {rank:,}: {similarity:.3f}"
        items.append(_item(content.found, index, "right later", caption, content.name(label)))
    return _Row(content.name(label), float(content.average_precision[query]), rank, query, items)


def _nearest_match(content: ErrorGallery, query: int) -> tuple[int, float]:
    """The nearest item of the query's class, and its similarity."""
    members = np.flatnonzero(content.found.labels == content.queries.labels[query])
    if content.gallery is None:
        members = members[members != query]
    own = content.queries.embeddings[query].astype(np.float64)
    theirs = content.found.embeddings[members].astype(np.float64)
    cosines = theirs @ own / (np.linalg.norm(theirs, axis=1) * np.linalg.norm(own))
    best = int(cosines.argmax())
    return int(members[best]), float(cosines[best])


def _item(side: Side, index: int, kind: str, strong: str, text: str) -> _Item:
    return _Item(kind, _image(side, index, text), strong, text)


def _image(side: Side, index: int, text: str, pixels: int = 128) -> EmbeddedImage | None:
    """An image with its bytes; None where it cannot be read."""
    try:
        image = side.read(index)
    except (OSError, ValueError):
        return None
    return embedded_image(image, text, pixels)


def _confused(content: ErrorGallery, pair: Confusion) -> _ConfusedPair:
    images = _image(content.queries, pair.query, "", 64), _image(content.found, pair.neighbor, "", 64)
    return _ConfusedPair(images, content.name(pair.label), content.name(pair.other), pair.count, pair.queries)


def _map(
    content: ErrorGallery, worst: npt.NDArray[np.int64], pairs: Sequence[Confusion]
) -> tuple[EmbeddingMap, str, str]:
    """The map, how many points it shows, and how it was made, in words."""
    labels = content.queries.labels
    telling = [label for pair in pairs for label in (pair.label, pair.other)]
    telling += [int(labels[query]) for query in worst]
    known = set(labels.tolist())
    colored = [label for label in dict.fromkeys(telling) if label in known][: len(COLORS)]
    shown = shown_points(len(labels), np.isin(labels, colored))
    points, method = flatten_embeddings(content.queries.embeddings[shown])
    drawn = f"{len(shown):,} of {len(labels):,}" if len(shown) < len(labels) else f"all {len(labels):,}"
    return embedding_map(points, labels[shown].tolist(), content.class_names, colored), drawn, method
