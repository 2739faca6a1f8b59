"""Similarities of a block of queries with a block of the gallery."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ctxtune.retrieval.embeddings import Block
from ctxtune.retrieval.similarity import exact_matrix, float32_error, float32_products

# Below every similarity: the value of pairs of one class, among them each query with itself.
SAME_CLASS = -2.0


@dataclass(frozen=True)
class Tile:
    """`values` are off by at most `error` (0: exact, float64), and SAME_CLASS for pairs of one class.

    Queries lie along `axis`, gallery items along the other.
    """

    values: Tensor
    error: float
    queries: Block
    gallery: Block
    axis: int = 0

    @property
    def exchanged(self) -> "Tile":
        """The same pairs with the parts of query and gallery exchanged, for a set searched in itself."""
        return Tile(self.values, self.error, self.gallery, self.queries, 1 - self.axis)


def compute_tile(queries: Block, gallery: Block, *, exact: bool = False) -> Tile:
    """The tile of two blocks: in float32, or exact if asked for or if a block is crowded."""
    if exact or queries.crowded or gallery.crowded:
        values, error = exact_matrix(queries.normalized, gallery.normalized), 0.0
    else:
        values = float32_products(queries.pieces, gallery.pieces)
        error = float32_error(queries.source.dimension, queries.pieces[0].shape[1])
    rows, columns = _pairs_of_one_class(queries, gallery)
    values[rows, columns] = SAME_CLASS
    return Tile(values, error, queries, gallery)


def _pairs_of_one_class(queries: Block, gallery: Block) -> tuple[Tensor, Tensor]:
    """Rows and columns of the tile where the classes are the same."""
    ordered, positions = gallery.by_class
    start = torch.searchsorted(ordered, queries.classes)
    number = torch.searchsorted(ordered, queries.classes, right=True) - start
    rows = torch.repeat_interleave(number)
    offset = torch.arange(len(rows), device=rows.device) - (number.cumsum(0) - number)[rows]
    return rows, positions[start[rows] + offset]
