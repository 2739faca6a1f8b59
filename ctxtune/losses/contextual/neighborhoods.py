"""One pass over the similarity matrix, row block by row block, that keeps what the sparse contextual loss needs of it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ctxtune.losses.contextual.contrastive import ActivePairs, ActivePairsCollector
from ctxtune.losses.contextual.options import SimilarityOptions
from ctxtune.losses.contextual.sparse_mask import SparseMask, take

# Entries of the similarity matrix that are held at once.
_BLOCK_ENTRIES = {"cpu": 1 << 20, "cuda": 1 << 25}


def mask_limit(items: int) -> int:
    """Entries of a mask beyond which dense products are quicker than to gather rows."""
    return items * items // 10


@dataclass(frozen=True)
class Neighborhoods:
    """The two sparse masks of a batch.

    Attributes:
        neighbors: the mask N.
        closest_rows, closest_columns: (m,) int64, the entries of N' off the diagonal.
        reciprocal: R = N' * N'^T, the diagonal included.
    """

    neighbors: SparseMask
    closest_rows: Tensor
    closest_columns: Tensor
    reciprocal: SparseMask


@dataclass(frozen=True)
class TooDense:
    """What `find_neighborhoods` returns where lists do not pay.

    Attributes:
        similarities: (n, n), where all of them were at hand.
    """

    similarities: Tensor | None


def find_neighborhoods(
    units: Tensor, same_class: SparseMask, options: SimilarityOptions, collector: ActivePairsCollector | None, rows: int
) -> tuple[Neighborhoods, ActivePairs | None] | TooDense:
    """Neighborhoods of normalized embeddings (n, d), and the active pairs that `collector` finds in the first `rows`."""
    items = len(units)
    limit = mask_limit(items)
    if len(same_class.rows) > limit:
        return TooDense(None)
    block = max(1, min(items, _BLOCK_ENTRIES.get(units.device.type, 1 << 25) // items))
    buffer = units.new_empty(block, items)
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    total = 0
    for start in range(0, items, block):
        stop = min(items, start + block)
        similarities = torch.mm(units[start:stop], units.T, out=buffer[: stop - start])
        similarities.diagonal(start).fill_(1.0)
        inside, near_edge = _neighborhoods(similarities, options)
        found.append(_entries(similarities, inside, near_edge))
        total += len(found[-1][0])
        if total > limit:
            return TooDense(similarities if block == items else None)
        found[-1][0].add_(start)
        if collector is not None and start < rows:
            collector.add(similarities[: rows - start], start)
    neighbor_rows, columns, closest, sizes = (torch.cat(parts) for parts in zip(*found, strict=True))
    neighbors = SparseMask.of(neighbor_rows, columns, sizes)
    return _with_reciprocal(neighbors, closest), None if collector is None else collector.result()


def _neighborhoods(similarities: Tensor, options: SimilarityOptions) -> tuple[Tensor, Tensor]:
    """The mask N of a block (b, n), as bool, and the similarities (b,) from which an item is in N' too."""
    nearest = similarities.topk(options.k, dim=1).values.clamp_(max=1.0)
    edge = nearest[:, options.k - 1 :] - 0.5 * options.epsilon
    return similarities >= edge, nearest[:, options.k // 2 - 1] - 0.5 * options.epsilon


def _entries(similarities: Tensor, inside: Tensor, near_edge: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows, columns and nearness (in N' or not) of the entries of N in a block, and their number in each row."""
    places = inside.view(-1).nonzero().view(-1)
    rows = torch.div(places, similarities.shape[1], rounding_mode="floor")
    columns = places - rows * similarities.shape[1]
    closest = take(similarities.view(-1), places) >= take(near_edge, rows)
    return rows, columns, closest, torch.bincount(rows, minlength=len(similarities))


def _with_reciprocal(neighbors: SparseMask, closest: Tensor) -> Neighborhoods:
    """From N and which of its entries (m,) are in N' too."""
    inside = closest.nonzero().view(-1)
    rows, columns = take(neighbors.rows, inside), take(neighbors.columns, inside)
    keys = torch.add(columns, rows, alpha=neighbors.items)  # ascending, as the entries of a mask are
    mirrored = torch.add(rows, columns, alpha=neighbors.items)
    places = torch.searchsorted(keys, mirrored).clamp_(max=len(keys) - 1)
    mutual = (take(keys, places) == mirrored).nonzero().view(-1)
    others = (rows != columns).nonzero().view(-1)
    mutual_rows = take(rows, mutual)
    sizes = torch.bincount(mutual_rows, minlength=neighbors.items)
    reciprocal = SparseMask.of(mutual_rows, take(columns, mutual), sizes)
    return Neighborhoods(neighbors, take(rows, others), take(columns, others), reciprocal)
