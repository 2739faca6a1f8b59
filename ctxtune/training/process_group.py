"""The processes that train one run together, each on its own device."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ctxtune.data import TrainingImages
from ctxtune.data.split import Integers


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those of the run (one process: rank 0 of 1).

    With several, torch's default process group must have been set up before. Every method that talks to the others is
    called by all of them, in the same order.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_distributed(self) -> bool:
        """Whether there is more than one process."""
        return self.size > 1

    def share(self, count: int) -> slice:
        """This process's part of ``count`` items: contiguous, the parts differ by one item at most."""
        edges = [count * rank // self.size for rank in range(self.size + 1)]
        return slice(edges[self.rank], edges[self.rank + 1])

    def gather(self, values: Tensor) -> Tensor:
        """The values (m, ...) of all processes, (size * m, ...), in the order of ranks; m is the same everywhere."""
        if not self.is_distributed:
            return values
        gathered = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(gathered, values.contiguous())
        return torch.cat(gathered)

    def gather_uneven(self, values: Tensor) -> Tensor:
        """As `gather`, where each process has another number of rows. Waits for the device."""
        if not self.is_distributed:
            return values
        counts = self.gather(torch.tensor([len(values)], device=values.device)).tolist()
        padded = torch.zeros(max(counts), *values.shape[1:], dtype=values.dtype, device=values.device)
        padded[: len(values)] = values
        rows = self.gather(padded).split(max(counts))
        return torch.cat([chunk[:count] for chunk, count in zip(rows, counts, strict=True)])

    def average_gradients(self, module: nn.Module) -> None:
        """The mean over processes of gradients that are equal up to rounding, so that they stay equal."""
        for parameter in module.parameters():
            if self.is_distributed and parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= self.size

    def spread_buffers(self, module: nn.Module) -> None:
        """Give all processes the buffers of the first (running statistics of batch norm)."""
        for buffer in module.buffers():
            if self.is_distributed:
                dist.broadcast(buffer, 0)

    def from_first(self, value: Any) -> Any:
        """The first process's value (anything that pickles), in every process."""
        if not self.is_distributed:
            return value
        box = [value]
        dist.broadcast_object_list(box, 0)
        return box[0]


class SharedTrainingImages(TrainingImages):
    """The share of each batch that belongs to one process, augmented as it would be in the whole batch.

    Each process keeps to its number of images: one that cannot be read is replaced by the first of the share that can.
    """

    world = ProcessGroup()

    def batches(self, index_batches: Integers, epoch: int, first_batch: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """As `TrainingImages.batches`, with the share's images and indices only."""
        from ctxtune.data.prefetching import ahead

        index_batches = np.asarray(index_batches)
        share = self.world.share(index_batches.shape[1])

        def host(number: int) -> tuple[Integers, Any, int]:
            indices = np.asarray(index_batches[number, share], dtype=np.int64)
            whole = np.random.default_rng((self.seed, epoch, number))
            draws: Any = _ShareOfDraws(whole, index_batches.shape[1], share)
            return indices, self._batcher.host(self.split.rows[indices], draws), number

        def on_device(entry: tuple[Integers, Any, int]) -> Tensor:
            _, batch, number = entry
            return self._augmentation(self._batcher.device(batch), epoch, number, share.start + batch.kept)

        found = ahead(host, range(first_batch, len(index_batches)), self._depth)
        for (indices, batch, _), images in self._device_ahead.each(on_device, found):
            if len(batch.kept) < len(indices):
                images, indices = _filled_up(images, indices, batch.kept)
            yield images, torch.from_numpy(indices)


class _ShareOfDraws:
    """Draws for a whole batch, of which one share is handed out: NumPy's generator as far as `draw_crops` needs it."""

    def __init__(self, rng: np.random.Generator, whole: int, share: slice) -> None:
        self._rng, self._whole, self._share = rng, whole, share

    def uniform(self, low: float, high: float, size: tuple[int, ...]) -> object:
        return self._rng.uniform(low, high, (self._whole, *size[1:]))[self._share]

    def random(self, size: int | tuple[int, ...]) -> Any:
        rest = () if isinstance(size, int) else size[1:]
        return self._rng.random((self._whole, *rest))[self._share]


def _filled_up(images: Tensor, indices: Integers, kept: Integers) -> tuple[Tensor, Integers]:
    if not len(kept):
        raise RuntimeError("no image of a process's share of the batch can be read")
    positions = np.zeros(len(indices), dtype=np.int64)
    positions[kept] = np.arange(len(kept))
    return images[torch.from_numpy(positions).to(images.device)], indices[kept][positions]
