"""Embeddings as given, normalized block by block when asked for, so that no second copy of them is ever held."""

from functools import cached_property

import torch
from torch import Tensor

from ctxtune.retrieval.inputs import ArrayLike, as_matrix
from ctxtune.retrieval.similarity import euclidean_norms, normalize, piece_width
from ctxtune.retrieval.threads import Workers

CHECK_ELEMENTS = 2**18
# Norms whose reciprocals, and products with these, keep float32's full relative precision.
PLAIN_NORMS = (1e-18, 1e18)


class Embeddings:
    """Rows (n, d) as given and their norms (n,), float64.

    `classes` (n,) int64: the class number of each row. `origin` (n,): the row's index in the set that the user passed,
    which a selection of rows keeps.
    """

    def __init__(self, raw: Tensor, norms: Tensor, classes: Tensor, origin: Tensor) -> None:
        self.raw = raw
        self.norms = norms
        self.classes = classes
        self.origin = origin

    def __len__(self) -> int:
        return len(self.raw)

    @property
    def dimension(self) -> int:
        """d."""
        return self.raw.shape[1]

    @property
    def device(self) -> torch.device:
        """Where blocks are computed; the rows themselves may lie elsewhere."""
        return self.norms.device

    def rows(self, indices: Tensor | slice) -> Tensor:
        """Normalized rows, (n, d) float64 on the device."""
        where = indices if isinstance(indices, slice) else indices.to(self.raw.device)
        return normalize(self.raw[where].to(self.device), self.norms[indices])

    def approximate_rows(self, indices: Tensor | slice) -> Tensor:
        """The same rows in float32, (n, d), each element off by at most two units in the last place."""
        norms = self.norms[indices]
        low, high = PLAIN_NORMS
        if self.raw.dtype == torch.float64 or not bool(((norms > low) & (norms < high)).all()):
            return self.rows(indices).float()
        where = indices if isinstance(indices, slice) else indices.to(self.raw.device)
        return self.raw[where].to(self.device).float() * norms.reciprocal().float()[:, None]

    def select(self, indices: Tensor | slice) -> "Embeddings":
        """Only these rows; a slice copies nothing."""
        where = indices if isinstance(indices, slice) else indices.to(self.raw.device)
        return Embeddings(self.raw[where], self.norms[indices], self.classes[indices], self.origin[indices])

    def blocks(self, size: int) -> list["Block"]:
        """All rows in blocks of this size, the last one smaller."""
        return [Block(self, start, min(start + size, len(self))) for start in range(0, len(self), size)]


class Block:
    """Consecutive rows start .. stop - 1 of `source`, normalized when asked for and then kept until released."""

    def __init__(self, source: Embeddings, start: int, stop: int) -> None:
        self.source = source
        self.start = start
        self.stop = stop
        # Set where approximate similarities cannot tell the neighbors apart.
        self.crowded = False

    def __len__(self) -> int:
        return self.stop - self.start

    @cached_property
    def normalized(self) -> Tensor:
        """Normalized rows, (n, d) float64."""
        return self.source.rows(slice(self.start, self.stop))

    @cached_property
    def approximate(self) -> Tensor:
        """Normalized rows in float32, (n, d), each element off by at most two units in the last place."""
        if self.source.raw.dtype == torch.float64:
            return self.normalized.float()
        return self.source.approximate_rows(slice(self.start, self.stop))

    @cached_property
    def pieces(self) -> list[Tensor]:
        """`approximate` in pieces of its dimensions, one after the other, (n, w) each."""
        width = piece_width(self.source.device, self.source.dimension)
        whole = self.approximate
        if width == self.source.dimension:
            return [whole]
        self.__dict__.pop("approximate", None)
        return [piece.contiguous() for piece in torch.split(whole, width, dim=1)]

    def release(self) -> None:
        """Forget the normalized rows."""
        for kept in ("normalized", "approximate", "pieces", "by_class"):
            self.__dict__.pop(kept, None)

    @property
    def origin(self) -> Tensor:
        """Indices of the rows in the set that the user passed, (n,)."""
        return self.source.origin[self.start : self.stop]

    @property
    def classes(self) -> Tensor:
        """Class numbers of the rows, (n,)."""
        return self.source.classes[self.start : self.stop]

    @cached_property
    def by_class(self) -> tuple[Tensor, Tensor]:
        """Class numbers in ascending order, and the positions in the block that have them; (n,) each."""
        return torch.sort(self.classes)


def read_embeddings(embeddings: ArrayLike, classes: Tensor, name: str, workers: Workers) -> Embeddings:
    """Check embeddings (n, d) and measure each row on the device of `classes` (n,).

    Raises ValueError, naming `name`, for a wrong shape or type and for rows that are not finite or zero.
    """
    raw = as_matrix(embeddings, name)
    device = classes.device
    if len(raw) != len(classes):
        raise ValueError(f"{name} holds {len(raw)} items, but there are {len(classes)} labels for them")
    norms = torch.empty(len(raw), dtype=torch.float64, device=device)
    step = max(1, CHECK_ELEMENTS // raw.shape[1])

    def measure(start: int) -> None:
        norms[start : start + step] = euclidean_norms(raw[start : start + step].to(device))

    workers.each(measure, range(0, len(raw), step))
    _check_rows(raw, norms, name)
    return Embeddings(raw, norms, classes, torch.arange(len(raw), device=device))


def _check_rows(raw: Tensor, norms: Tensor, name: str) -> None:
    good = torch.isfinite(norms) & (norms > 0)
    if bool(good.all()):
        return
    row = int((~good).nonzero()[0])
    if bool(torch.isfinite(raw[row]).all()):
        raise ValueError(f"{name} must hold no zero vectors, whose cosine similarity is undefined; see row {row}")
    raise ValueError(f"{name} must be finite; row {row} has a NaN or an infinity (a diverged model?)")
