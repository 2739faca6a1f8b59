"""A report as data: sections of text, tables and figures. `rendering` makes pages and files of it."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

    from ctxtune.retrieved_images import RetrievedImage, ShownQuery

Record: TypeAlias = Mapping[str, object]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: of its files.
        caption: one or two sentences: what is shown, in which unit.
        header: titles of the columns.
        rows: texts as shown.
        records: what the CSV file gets: full precision, plain names, scores in [0, 1]; empty: the texts.
        left: the number of leading columns that are text; columns named in ``texts`` are text, too.
        strong: indices of rows set in bold.
        note: below the table.
    """

    name: str
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    records: Sequence[Record] = ()
    left: int = 1
    texts: Sequence[str] = ()
    strong: Sequence[int] = ()
    note: str = ""

    def is_text(self, column: int) -> bool:
        """Whether a column is set flush left."""
        return column < self.left or self.header[column] in self.texts


@dataclass(frozen=True)
class Picture:
    """A figure: `draw` makes it when it is needed; the caption says what is shown; `name` is that of its files."""

    name: str
    caption: str
    draw: "Callable[[], Drawing]"


@dataclass(frozen=True)
class Gallery:
    """Queries with the images that each arm retrieves for them, shown on the page only.

    Attributes:
        caption: what is shown.
        rows: of each query, by arm, the images found.
    """

    name: str
    caption: str
    rows: "Sequence[tuple[ShownQuery, Mapping[str, Sequence[RetrievedImage]]]]"


Item: TypeAlias = str | Table | Picture | Gallery


@dataclass(frozen=True)
class Section:
    """A heading with what stands below it, in order: paragraphs (text), tables, figures, galleries."""

    title: str
    items: Sequence[Item]


@dataclass(frozen=True)
class Document:
    """A whole report.

    Attributes:
        facts: stand at the top; ``findings`` are its first sentences.
        study: the name of what it reports on.
        attached: tables that only become CSV files.
    """

    title: str
    subtitle: str
    facts: Mapping[str, str]
    findings: Sequence[str]
    sections: Sequence[Section]
    notes: Sequence[str] = field(default=())
    study: str = ""
    attached: Sequence[Table] = field(default=())

    @property
    def tables(self) -> list[Table]:
        """All tables in order."""
        return [item for section in self.sections for item in section.items if isinstance(item, Table)]

    @property
    def pictures(self) -> list[Picture]:
        """All figures in order."""
        return [item for section in self.sections for item in section.items if isinstance(item, Picture)]


def file_stem(text: str) -> str:
    """A name that is safe in every file system."""
    return re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_").lower() or "figure"
