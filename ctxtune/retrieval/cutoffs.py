"""Cutoffs: for each query a rank position that all of its first R items reach, estimated from a sample of the gallery.

R-precision and MAP@R ask nothing of matches beyond rank R, so items below the cutoff need not be looked at.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ctxtune.retrieval.embeddings import Block, Embeddings
from ctxtune.retrieval.process_group import Processes
from ctxtune.retrieval.similarity import exact_matrix, float32_error, float32_products
from ctxtune.retrieval.threads import Workers

SAMPLE_SHARE = 0.1
SAMPLE_LIMITS = (256, 1024)
CROWDED_SHARE = 0.02
CROWDED_ROWS = 64


@dataclass(frozen=True)
class Cutoffs:
    """The cutoff of each query: a similarity (q,), and among items as similar the last gallery index (q,) above it."""

    similarity: Tensor
    item: Tensor


def no_cutoffs(number: int, items: int, device: torch.device) -> Cutoffs:
    """Cutoffs below everything."""
    similarity = torch.full((number,), -torch.inf, dtype=torch.float64, device=device)
    return Cutoffs(similarity, torch.full((number,), items, dtype=torch.int64, device=device))


class Sample:
    """Items of the gallery at equal distances."""

    def __init__(self, gallery: Embeddings, *, exclude_self: bool) -> None:
        least, most = SAMPLE_LIMITS
        size = min(max(least, min(most, int(SAMPLE_SHARE * len(gallery)))), len(gallery))
        self.items = torch.linspace(0, len(gallery) - 1, size, device=gallery.device).long()
        self.block = Block(gallery.select(self.items), 0, size)
        self.gallery_size = len(gallery)
        self.exclude_self = exclude_self

    def needed(self, matches: Tensor, *, cautious: bool) -> Tensor:
        """The rank within the sample that R = matches (q,) of the whole gallery reach: surely if cautious, or nearly so.

        If fewer than R items reached the cutoff, all those of the sample that do would be among the best R: about the
        sample's share of R, rarely more than 3.5 standard deviations above that.
        """
        if cautious:
            return matches
        expected = matches * (len(self.items) / self.gallery_size)
        return matches.minimum((expected + 3.5 * expected.sqrt() + 1.5).ceil().long())

    def cutoffs(self, queries: Block, needed: Tensor) -> tuple[Cutoffs, bool]:
        """Cutoffs of a block of queries, and whether it is crowded: neighbors too close for approximate similarities."""
        own = (queries.origin[:, None] == self.items) if self.exclude_self else None
        values = float32_products(queries.pieces, self.block.pieces)
        error = float32_error(queries.source.dimension, queries.pieces[0].shape[1])
        similarity = _reached(values, own, needed) - error
        if not _is_crowded(values, similarity, error):
            return Cutoffs(similarity, torch.full_like(needed, self.gallery_size)), False
        similarity, column = _reached_exactly(exact_matrix(queries.normalized, self.block.normalized), own, needed)
        return Cutoffs(similarity, self.items[column]), True


def find_cutoffs(
    blocks: list[Block], sample: Sample, needed: Tensor, processes: Processes, workers: Workers
) -> Cutoffs:
    """Cutoffs of the queries of consecutive blocks with their ranks `needed` (q,) in the sample.

    Marks the blocks that are crowded.
    """
    similarity = torch.zeros(len(needed), dtype=torch.float64, device=needed.device)
    item = torch.zeros_like(needed)
    crowded = torch.zeros(len(blocks), dtype=torch.int64, device=needed.device)

    def find(numbered: tuple[int, Block]) -> None:
        number, block = numbered
        rows = slice(block.start, block.stop)
        cutoffs, near = sample.cutoffs(block, needed[rows])
        similarity[rows], item[rows], crowded[number] = cutoffs.similarity, cutoffs.item, int(near)
        block.release()

    workers.each(find, processes.share(enumerate(blocks)))
    for tensor in (similarity, item, crowded):
        processes.all_reduce(tensor)
    for block, flag in zip(blocks, crowded.tolist(), strict=True):
        block.crowded = bool(flag)
    return Cutoffs(similarity, item)


def _reached(values: Tensor, own: Tensor | None, needed: Tensor) -> Tensor:
    """A value that at least needed (n,) of each row of values (n, m) reach, outside the mask `own`; float64 (n,).

    That is the needed-th greatest of the greatest values of groups, which is quick and not far below the
    needed-th greatest of all as long as the groups are many.
    """
    if own is not None:
        values[own] = -torch.inf
    number, size = values.shape
    reach = min(max(int(needed.max()), 1), size)
    groups = max(reach, min(size, 4 * reach, size // 2))
    members = size // groups
    if members > 1:
        values = values[:, : groups * members].view(number, members, groups).amax(dim=1)
    highest = values.topk(reach, dim=1).values.double()
    value = highest.gather(1, (needed - 1).clamp(0, reach - 1)[:, None])[:, 0]
    return torch.where(needed <= reach, value, -torch.inf)


def _reached_exactly(values: Tensor, own: Tensor | None, needed: Tensor) -> tuple[Tensor, Tensor]:
    """The needed-th value of each row of exact values (n, m) and its column; ties rank by column."""
    if own is not None:
        values[own] = -torch.inf
    ordered, columns = torch.sort(values, dim=1, descending=True, stable=True)
    place = (needed - 1).clamp(0, values.shape[1] - 1)[:, None]
    value = ordered.gather(1, place)[:, 0]
    return torch.where(needed <= values.shape[1], value, -torch.inf), columns.gather(1, place)[:, 0]


def _is_crowded(values: Tensor, cutoff: Tensor, error: float) -> bool:
    """Whether many values (n, m) are too close to the cutoff (n,) for an approximation off by `error`."""
    rows = slice(None, None, max(1, len(values) // CROWDED_ROWS))
    near = (values[rows].double() - cutoff[rows, None]).abs() <= 3 * error
    return bool(near.double().mean() > CROWDED_SHARE)
