"""Batches of normalized images: augmented for training, in order and unaltered for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ctxtune.data.augmentation import evaluation_view, normalized, resized_shape
from ctxtune.data.batching import Batcher, CroppingBatcher, HostBatch, PackingBatcher, UniformBatcher
from ctxtune.data.extra_augmentation import ExtraAugmentation
from ctxtune.data.prefetching import DeviceAhead, ahead
from ctxtune.data.reading import Unreadable, evaluation_pixels
from ctxtune.data.settings import ImageSettings
from ctxtune.data.split import Integers, Split
from ctxtune.data.stores import Building, DecodedReader, open_reader, uniform_store, views_store
from ctxtune.data.threads import SpreadOver, processors
from ctxtune.errors import DataError

BATCHES_AHEAD = 3
COPYING_THREADS = 8
"""Threads that only copy pixels are soon limited by memory; more of them only take Python from the one that trains."""


def reading_threads(
    workers: int | None, settings: ImageSettings, device: torch.device, cores: int | None = None
) -> int:
    """How many threads read images: what is said, else half the cores, or all (at most 16) beside a GPU.

    `cores`: those that the caller may use, as the run of a sweep its share of them; None: all of this process.
    """
    for said in (workers, settings.workers):
        if said is not None:
            return said
    usable = min(cores or processors(), processors())
    return min(16, usable) if device.type != "cpu" else max(1, usable // 2)


def _held_whole(split: Split, settings: ImageSettings) -> bool:
    """True where all images have one small size, so that they are kept in memory and augmented as batches."""
    size = split.table.source.image_size
    return size is not None and not settings.exact and resized_shape(*size, settings.train_resize) == size


class TrainingImages:
    """Augmented batches of a split's images.

    `batches(index_batches, epoch, first_batch)` takes the index batches of the whole epoch, (batches, batch_size), as
    `BatchSampler.epoch` gives them, and yields those from `first_batch` on: float32 images (b, 3, crop, crop),
    normalized, on `device`, and their indices (b,) int64 on the CPU. The augmentation is a pure function of
    (seed, epoch, batch number), so an epoch that is resumed in its middle goes on with the same images. Images that
    cannot be read are left out of their batch and counted in `unreadable`.

    The cache is made here, on first use, in `cache_dir` (None: `$CTXTUNE_CACHE` or the user's cache folder).
    Raises DataError where that cannot be, or where more images are unreadable than `max_unreadable` allows.
    """

    def __init__(
        self,
        split: Split,
        settings: ImageSettings,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
        cache_dir: Path | str | None = None,
        workers: int | None = None,
    ) -> None:
        self.split = split
        self.settings = settings
        self.device = torch.device(device)
        self.seed = seed
        self._device_ahead = DeviceAhead(self.device)
        self._augmentation = ExtraAugmentation(settings, seed, self.device)
        building = Building(None if cache_dir is None else Path(cache_dir))
        if _held_whole(split, settings):
            self._unreadable = Unreadable(split.table)
            self._spread, self._depth = SpreadOver(0), 0
            self._batcher: Batcher = UniformBatcher(uniform_store(split.table, building), settings, self.device)
            return
        threads = reading_threads(workers, settings, self.device)
        reader = open_reader(split.table, settings, building)
        self._unreadable = Unreadable(split.table, reader.unreadable)
        packs = isinstance(reader, DecodedReader) and self.device.type != "cpu"
        self._depth = BATCHES_AHEAD if threads else 0
        self._spread = SpreadOver(min(threads, COPYING_THREADS) if packs else threads)
        kind = PackingBatcher if packs else CroppingBatcher
        self._batcher = kind(split.table, reader, settings, self.device, self._spread, self._unreadable)

    @property
    def unreadable(self) -> dict[str, str]:
        """Identifier to reason for every image of the table that was found unreadable so far."""
        return dict(self._unreadable.reasons)

    def batches(self, index_batches: Integers, epoch: int, first_batch: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images, indices) of the epoch's batches from number `first_batch` on. Raises DataError."""

        def host(number: int) -> tuple[Integers, HostBatch, int]:
            indices = np.asarray(index_batches[number], dtype=np.int64)
            rng = np.random.default_rng((self.seed, epoch, number))
            batch = self._batcher.host(self.split.rows[indices], rng)
            return indices[batch.kept], batch, number

        def on_device(entry: tuple[Integers, HostBatch, int]) -> Tensor:
            _, batch, number = entry
            return self._augmentation(self._batcher.device(batch), epoch, number, batch.kept)

        found = ahead(host, range(first_batch, len(index_batches)), self._depth)
        readable = (entry for entry in found if len(entry[0]))
        for (indices, *_), images in self._device_ahead.each(on_device, readable):
            yield images, torch.from_numpy(indices)

    def close(self) -> None:
        """End the background threads."""
        self._spread.close()


class EvaluationImages:
    """A split's images in order, resized and center-cropped as `settings` says for the test side; nothing is random.

    The pixels are those of torchvision's Resize and CenterCrop on PIL images, kept in a cache after the first pass.
    Images that cannot be read are left out and counted in `unreadable`. Raises DataError as TrainingImages does.
    """

    def __init__(
        self,
        split: Split,
        settings: ImageSettings,
        *,
        device: torch.device | str = "cpu",
        cache_dir: Path | str | None = None,
        workers: int | None = None,
    ) -> None:
        self.split = split
        self.settings = settings
        self.device = torch.device(device)
        self._device_ahead = DeviceAhead(self.device)
        self._threads = reading_threads(workers, settings, self.device)
        building = Building(None if cache_dir is None else Path(cache_dir))
        self._unreadable = Unreadable(split.table)
        if split.table.source.image_size is not None and not settings.exact:
            pixels = uniform_store(split.table, building)
            self._read: Callable[[Integers], tuple[Integers, Tensor]] = lambda rows: (
                np.arange(len(rows)),
                torch.from_numpy(pixels[rows]),
            )
            self._ready, self._depth = False, 0
            return
        self._ready, self._depth = True, BATCHES_AHEAD if self._threads else 0
        self._spread = SpreadOver(self._threads)
        self._read = self._from_views(building) or self._from_files

    @property
    def unreadable(self) -> dict[str, str]:
        """Identifier to reason for every image of the table that was found unreadable so far."""
        return dict(self._unreadable.reasons)

    def _from_views(self, building: Building) -> Callable[[Integers], tuple[Integers, Tensor]] | None:
        store = views_store(self.split.table, self.settings, building)
        if store is None:
            return None
        self._unreadable = Unreadable(self.split.table, store.unreadable)
        offsets, sizes = store.index[:, 0], store.index[:, 1:]
        readable = sizes[:, 0] > 0
        height, width = self._one_size(sizes[readable])
        views = store.data.reshape(-1, height, width, 3)

        def read(rows: Integers) -> tuple[Integers, Tensor]:
            kept = np.flatnonzero(readable[rows])
            return kept, torch.from_numpy(views[offsets[rows[kept]] // (3 * height * width)])

        return read

    def _one_size(self, sizes: Integers) -> tuple[int, int]:
        found = np.unique(sizes, axis=0)
        if len(found) != 1:
            raise DataError(
                f"{self.split.table.name}: its images have {len(found)} different sizes after test_resize "
                f"{self.settings.test_resize}, so they make no batch; set image.test_crop"
            )
        return int(found[0, 0]), int(found[0, 1])

    def _from_files(self, rows: Integers) -> tuple[Integers, Tensor]:
        views: list[np.ndarray | None] = [None] * len(rows)
        table = self.split.table

        def one(position: int) -> None:
            path = table.paths[int(rows[position])]
            try:
                views[position] = evaluation_pixels(table.source.read(path), self.settings)
            except (OSError, ValueError) as error:
                self._unreadable.record(path, error)

        self._spread.each(one, len(rows))
        kept = [position for position, view in enumerate(views) if view is not None]
        found = [view for view in views if view is not None]
        if found:
            self._one_size(np.array([view.shape[:2] for view in found]))
        return np.array(kept, dtype=np.int64), torch.from_numpy(np.stack(found)) if found else torch.empty(0)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images (b, 3, h, w) float32 normalized on the device, indices (b,) int64), the last batch shorter."""

        def host(start: int) -> tuple[Integers, Tensor]:
            indices = np.arange(start, min(start + batch_size, len(self.split)), dtype=np.int64)
            kept, pixels = self._read(self.split.rows[indices])
            return indices[kept], pixels.pin_memory() if self.device.type == "cuda" and len(kept) else pixels

        def on_device(entry: tuple[Integers, Tensor]) -> Tensor:
            images = entry[1].to(self.device, non_blocking=True).permute(0, 3, 1, 2)
            return normalized(images if self._ready else evaluation_view(images, self.settings), self.settings)

        found = ahead(host, range(0, len(self.split), batch_size), self._depth)
        readable = (entry for entry in found if len(entry[0]))
        for (indices, _), images in self._device_ahead.each(on_device, readable):
            yield images, torch.from_numpy(indices)

    def close(self) -> None:
        """End the background threads."""
        if self._ready:
            self._spread.close()
