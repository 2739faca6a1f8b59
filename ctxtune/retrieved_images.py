"""What an embedding retrieves for a few queries, pictures included: a confirmation keeps it, the report shows it."""

from pydantic import BaseModel, ConfigDict, TypeAdapter

from ctxtune.embedded_image import EmbeddedImage

SHOWN_QUERIES_FILE = "shown_queries.json"
"""Artifact of a confirmation's first seed: a list of `ShownQuery`."""


class RetrievedImage(BaseModel):
    """A gallery image near a query; `picture` is None where it cannot be read, `right`: it is of the query's class."""

    model_config = ConfigDict(frozen=True)

    class_name: str
    similarity: float
    right: bool
    picture: EmbeddedImage | None


class ShownQuery(BaseModel):
    """A query and its nearest gallery images, nearest first, itself left out; `row` is its place among the queries."""

    model_config = ConfigDict(frozen=True)

    row: int
    class_name: str
    picture: EmbeddedImage | None
    found: tuple[RetrievedImage, ...]


_QUERIES = TypeAdapter(tuple[ShownQuery, ...])


def to_json(queries: tuple[ShownQuery, ...]) -> str:
    """The queries as JSON."""
    return _QUERIES.dump_json(queries).decode()


def from_json(text: str) -> tuple[ShownQuery, ...]:
    """The queries from JSON; raises pydantic's ValidationError where it is something else."""
    return _QUERIES.validate_json(text)
