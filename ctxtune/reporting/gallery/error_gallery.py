"""The error gallery: the worst queries with what was found instead, the most confused classes, a map."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np
import numpy.typing as npt
from PIL import Image

from ctxtune.reporting.gallery.confusion import Confusion, most_confused
from ctxtune.reporting.gallery.embedding_map import COLOURS, flatten_embeddings, map_drawing, shown_points
from ctxtune.reporting.gallery.html import html_page, picture

LONG_FACT = 12
"""Characters: what is longer is a text, not a number."""
ReadImage = Callable[[int], Image.Image]

_STYLE = """
.facts { display: flex; flex-wrap: wrap; gap: 10px 34px; margin: 16px 0 0; }
.facts dt { font-size: 12px; color: #57606a; } .facts dd { margin: 0; font-size: 1.15rem; font-weight: 600; }
.facts .wide { flex: 0 0 100%; } .facts .wide dd { font-size: 1rem; font-weight: 400; }
.query { margin: 20px 0 26px; }
.query h3 { font-size: 1rem; font-weight: 600; margin: 0 0 6px; }
.query h3 span { font-weight: 400; color: #57606a; }
.row { display: flex; flex-wrap: wrap; gap: 14px 10px; padding-top: 6px; align-items: flex-start; }
figure { margin: 0; width: 108px; }
figure .frame { box-sizing: border-box; width: 108px; height: 108px; display: flex; align-items: center;
  justify-content: center; position: relative; background: #fff; border: 4px solid #8b949e; border-radius: 6px; }
figure.right .frame { border: 4px solid #0072B2; }
figure.wrong .frame { border: 4px dashed #D55E00; }
figure.asked { margin-right: 14px; }
figure.asked .frame { border-color: #1b1f24; }
figure.later { margin-left: 14px; }
.frame img { max-width: 100%; max-height: 100%; object-fit: contain; }
.frame img.pixels { width: 100%; height: 100%; image-rendering: pixelated; }
.mark { position: absolute; top: -11px; right: -11px; width: 22px; height: 22px; line-height: 22px; text-align: center;
  color: #fff; font-weight: 700; font-size: 13px; border-radius: 50%; border: 2px solid #fff; background: #0072B2; }
.wrong .mark { background: #B34700; }
figcaption { font-size: 12px; line-height: 1.3; margin-top: 4px; overflow-wrap: anywhere; }
figcaption b { display: block; font-weight: 600; font-variant-numeric: tabular-nums; }
.unreadable { font-size: 12px; color: #57606a; }
.pair { display: flex; gap: 8px; }
.pair figure, .pair figure .frame { width: 60px; height: 60px; }
.pair figure .frame { border: 1px solid #b6bdc6; border-radius: 4px; padding: 3px; }
.map { display: flex; flex-wrap: wrap; gap: 22px; align-items: flex-start; }
.map > svg { flex: 1 1 560px; max-width: 820px; border: 1px solid #d5dae0; border-radius: 6px; background: #fff; }
.map .other { fill: #9aa4af; fill-opacity: .45; }
.legend { list-style: none; margin: 0; padding: 0; flex: 0 1 280px; font-size: 13px; }
.legend li { display: flex; gap: 8px; align-items: center; margin: 0 0 6px; }
.legend svg { flex: none; }
"""


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
        nearest: (q, k) gallery indices of each query's nearest neighbours, nearest first, itself left out.
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
        """Where neighbours come from."""
        return self.gallery or self.queries

    def name(self, label: int) -> str:
        """The name of a class."""
        return self.class_names.get(int(label), f"class {label}")


def worst_queries(average_precision: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.int64]:
    """The queries with the lowest average precision at R, worst first, ties by index; those without match left out."""
    known = np.flatnonzero(~np.isnan(average_precision))
    return known[np.argsort(average_precision[known], kind="stable")][:count]


def error_gallery_page(content: ErrorGallery) -> str:
    """The page as one HTML document that needs no network and no script."""
    worst = worst_queries(content.average_precision, content.worst)
    labels, others = content.queries.labels, content.found.labels
    pairs = most_confused(labels, others, content.nearest[:, 0], content.similarities[:, 0], content.confusions)
    body = [
        f"<h1>{escape(content.title)}</h1>",
        _facts(content.facts),
        _worst_section(content, worst),
        _confusion_section(content, pairs),
        _map_section(content, worst, pairs),
    ]
    return html_page(content.title, "\n".join(body), _STYLE)


def _facts(facts: Mapping[str, str]) -> str:
    """Numbers side by side, whatever is longer on a line of its own."""
    items = "".join(
        f"<div{' class=wide' if len(value) > LONG_FACT else ''}><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in facts.items()
    )
    return f'<dl class="facts">{items}</dl>'


def _worst_section(content: ErrorGallery, worst: npt.NDArray[np.int64]) -> str:
    if not len(worst):
        return "<h2>Worst queries</h2><p>No query has a match in the gallery, so there is nothing to rank.</p>"
    known = content.average_precision[~np.isnan(content.average_precision)]
    zeros, perfect = int((known == 0).sum()), int((known == 1).sum())
    rows = [_query_row(content, int(query)) for query in worst]
    return (
        f"<h2>The {len(worst)} worst queries</h2>"
        f"<p>Lowest average precision at R (equal ones in the order of the data set). Of {len(known):,} queries with a "
        f"match, {zeros:,} score 0 and {perfect:,} score 1. Left the query, then its nearest neighbours by cosine "
        "similarity. A solid blue frame with ✓ is the query's class, a dashed orange frame with ✗ is another. "
        "Where no match is among them, the nearest one stands at the end with its rank.</p>" + "\n".join(rows)
    )


def _query_row(content: ErrorGallery, query: int) -> str:
    label = int(content.queries.labels[query])
    shown = [_figure(content.queries, query, "asked", "query", content.name(label))]
    for index, similarity in zip(content.nearest[query], content.similarities[query], strict=True):
        other = int(content.found.labels[index])
        kind = "right" if other == label else "wrong"
        shown.append(_figure(content.found, int(index), kind, f"{similarity:.3f}", content.name(other)))
    rank = int(content.first_match_rank[query])
    if rank > content.nearest.shape[1]:
        index, similarity = _nearest_match(content, query)
        caption = f"rank {rank:,}: {similarity:.3f}"
        shown.append(_figure(content.found, index, "right later", caption, content.name(label)))
    precision = content.average_precision[query]
    return (
        f'<div class="query"><h3>{escape(content.name(label))} <span>· average precision {precision:.3f} · nearest '
        f'match at rank {rank:,} · query {query}</span></h3><div class="row">{"".join(shown)}</div></div>'
    )


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


def _figure(side: Side, index: int, kind: str, strong: str, text: str) -> str:
    try:
        image: Image.Image | None = side.read(index)
    except (OSError, ValueError):
        image = None
    mark = {"right": "✓", "wrong": "✗"}.get(kind.split()[0])
    label = {"right": "right", "wrong": "wrong"}.get(kind.split()[0], "")
    badge = f'<span class="mark" title="{label}">{mark}</span>' if mark else ""
    return (
        f'<figure class="{kind}"><div class="frame">{picture(image, text)}{badge}</div>'
        f"<figcaption><b>{escape(strong)}</b>{escape(text)}</figcaption></figure>"
    )


def _confusion_section(content: ErrorGallery, pairs: Sequence[Confusion]) -> str:
    if not pairs:
        return "<h2>Classes confused most</h2><p>Every query's nearest neighbour is of its own class.</p>"
    rows = []
    for pair in pairs:
        images = _bare(content.queries, pair.query) + _bare(content.found, pair.neighbour)
        rows.append(
            f'<tr><td><div class="pair">{images}</div></td><td>{escape(content.name(pair.label))}</td>'
            f'<td>{escape(content.name(pair.other))}</td><td class="number">{pair.count:,} of {pair.queries:,}</td></tr>'
        )
    return (
        "<h2>Classes confused most</h2><p>Queries whose nearest neighbour is of another class, counted by pair of "
        "classes. The pictures are the most similar such query and neighbour.</p>"
        "<table><tr><th>query, neighbour</th><th>class</th><th>taken for</th>"
        f'<th class="number">queries</th></tr>{"".join(rows)}</table>'
    )


def _bare(side: Side, index: int) -> str:
    try:
        image: Image.Image | None = side.read(index)
    except (OSError, ValueError):
        image = None
    return f'<figure><div class="frame">{picture(image, "", 64)}</div></figure>'


def _map_section(content: ErrorGallery, worst: npt.NDArray[np.int64], pairs: Sequence[Confusion]) -> str:
    labels = content.queries.labels
    telling = [label for pair in pairs for label in (pair.label, pair.other)]
    telling += [int(labels[query]) for query in worst]
    known = set(labels.tolist())
    coloured = [label for label in dict.fromkeys(telling) if label in known][: len(COLOURS)]
    shown = shown_points(len(labels), np.isin(labels, coloured))
    points, method = flatten_embeddings(content.queries.embeddings[shown])
    drawn = f"{len(shown):,} of {len(labels):,}" if len(shown) < len(labels) else f"all {len(labels):,}"
    return (
        f"<h2>Map of the embedding</h2><p>A point is a query, {drawn} are drawn; the axes are {method}. In colour: "
        "classes that are confused most. Hover over a point to see its class.</p>"
        + map_drawing(points, labels[shown].tolist(), content.class_names, coloured)
    )
