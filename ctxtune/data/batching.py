"""How a training batch comes about: the work on the host, which may run ahead, and the work on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ctxtune.data.augmentation import (
    Crops,
    crop_and_resize,
    draw_crops,
    normalized,
    place_crops,
)
from ctxtune.data.memory import ReusedMemory
from ctxtune.data.reading import Unreadable, crop_by_pillow, crop_by_torch
from ctxtune.data.settings import ImageSettings
from ctxtune.data.split import ImageTable, Integers
from ctxtune.data.stores import PixelReader
from ctxtune.data.threads import SpreadOver


@dataclass(frozen=True)
class HostBatch:
    """What the host hands to the device: which of the batch's images could be read, and their pixels."""

    kept: Integers
    pixels: Tensor
    crops: Crops | None = None


SIDES_BY = 16
"""Packed crops have sides of a multiple of so many pixels."""


class Batcher(Protocol):
    """One way to make batches. `host` may run in another thread than `device`."""

    def host(self, rows: Integers, rng: np.random.Generator) -> HostBatch:
        """Read the images at `rows` (b,) of the table."""
        ...

    def device(self, batch: HostBatch) -> Tensor:
        """(b, 3, crop, crop) float32, normalized."""
        ...


class UniformBatcher:
    """Images of one size, all in memory: cropped, resized, flipped and normalized as whole batches on the device."""

    RESIDENT_BYTES = 1 << 29
    """Up to here the data is copied to a GPU once, beyond batch by batch."""

    def __init__(self, pixels: npt.NDArray[np.uint8], settings: ImageSettings, device: torch.device) -> None:
        self._pixels, self._settings, self._device = pixels, settings, device
        resident = device.type != "cpu" and pixels.nbytes <= self.RESIDENT_BYTES
        self._resident = torch.from_numpy(np.ascontiguousarray(pixels)).to(device) if resident else None

    def host(self, rows: Integers, rng: np.random.Generator) -> HostBatch:
        """Gather and draw."""
        height, width = self._pixels.shape[1:3]
        draws = draw_crops(len(rows), self._settings, rng)
        crops = place_crops(draws, np.full(len(rows), height), np.full(len(rows), width), self._settings.ratio)
        kept = np.arange(len(rows))
        if self._resident is not None:
            return HostBatch(kept, torch.from_numpy(rows), crops)
        found = torch.from_numpy(self._pixels[rows])
        return HostBatch(kept, found.pin_memory() if self._device.type == "cuda" else found, crops)

    def device(self, batch: HostBatch) -> Tensor:
        """Everything else."""
        assert batch.crops is not None
        pixels = batch.pixels.to(self._device, non_blocking=True)
        if self._resident is not None:
            pixels = self._resident[pixels]
        size = self._settings.train_crop
        cropped = crop_and_resize(pixels.permute(0, 3, 1, 2), batch.crops, (size, size), self._settings.filter)
        return normalized(cropped, self._settings)


class CroppingBatcher:
    """Each image read, cropped and resized by a thread; the device normalizes (on a CPU the thread does that too)."""

    def __init__(
        self,
        table: ImageTable,
        reader: PixelReader,
        settings: ImageSettings,
        device: torch.device,
        spread: SpreadOver,
        unreadable: Unreadable,
    ) -> None:
        self._table, self._reader, self._settings = table, reader, settings
        self._device, self._spread, self._unreadable = device, spread, unreadable
        self._crop = crop_by_pillow if settings.exact else crop_by_torch
        self._memory = ReusedMemory()
        scale = torch.tensor(settings.pixel_deviation).mul_(255).reciprocal_()
        shift = torch.tensor(settings.pixel_mean).mul_(-255).mul_(scale)
        self._scale, self._shift = (values.repeat(settings.train_crop) for values in (scale, shift))

    def host(self, rows: Integers, rng: np.random.Generator) -> HostBatch:
        """Read and crop. Raises DataError where too many images are unreadable."""
        draws = draw_crops(len(rows), self._settings, rng)
        known = self._reader.sizes(rows)
        crops = None if known is None else place_crops(draws, *_sides(known), self._settings.ratio)
        on_cpu = self._device.type == "cpu"
        batch = self._buffer(len(rows), on_cpu)
        good = np.zeros(len(rows), dtype=bool)

        def one(position: int) -> None:
            pixels = self._pixels(int(rows[position]))
            if pixels is None:
                return
            if crops is None:
                height, width = _sides(np.array([pixels.shape[:2]]))
                box = place_crops(draws.row(position), height, width, self._settings.ratio).box(0)
            else:
                box = crops.box(position)
            cropped = torch.from_numpy(self._crop(pixels, box, self._settings.train_crop, self._settings.filter))
            if draws.flip[position]:
                cropped = cropped.flip(1)
            if on_cpu:
                self._normalized_into(batch[position], cropped)
            else:
                batch[position].copy_(cropped)
            good[position] = True

        self._spread.each(one, len(rows))
        kept = np.flatnonzero(good)
        return HostBatch(kept, batch if len(kept) == len(rows) else batch[torch.from_numpy(kept)])

    def _buffer(self, count: int, on_cpu: bool) -> Tensor:
        """(count, crop, crop, 3): float32 for a CPU, pinned uint8 for a GPU."""
        shape = (count, self._settings.train_crop, self._settings.train_crop, 3)
        if on_cpu:
            return self._memory.take(shape)
        return torch.empty(shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda")

    def _pixels(self, row: int) -> npt.NDArray[np.uint8] | None:
        """(h, w, 3), or None for an unreadable image, which is counted."""
        try:
            return self._reader.pixels(row)
        except (OSError, ValueError) as error:
            self._unreadable.record(self._table.paths[row], error)
            return None

    def _normalized_into(self, target: Tensor, pixels: Tensor) -> None:
        """(h, w, 3) uint8 into (h, w, 3) float32 while it is in the processor's cache, whole rows at a time."""
        height, width, _ = target.shape
        rows = target.view(height, 3 * width)
        rows.copy_(pixels.view(height, 3 * width))
        torch.addcmul(self._shift, rows, self._scale, out=rows)

    def device(self, batch: HostBatch) -> Tensor:
        """Copy, and normalize where the host did not."""
        if batch.pixels.dtype == torch.float32:
            return batch.pixels.permute(0, 3, 1, 2)
        return normalized(batch.pixels.to(self._device, non_blocking=True).permute(0, 3, 1, 2), self._settings)


def _sides(sizes: Integers) -> tuple[Integers, Integers]:
    """Heights and widths of (b, 2) sizes; 1 for unreadable images, whose crop nobody uses."""
    heights, widths = np.maximum(sizes, 1).T
    return heights, widths


class PackingBatcher:
    """From the decoded cache to a GPU: the host copies the bare crops into one padded buffer, the device does the rest.

    `half`: whether the device resizes in float16 (None: on a GPU).
    """

    def __init__(
        self,
        table: ImageTable,
        reader: PixelReader,
        settings: ImageSettings,
        device: torch.device,
        spread: SpreadOver,
        unreadable: Unreadable,
        *,
        half: bool | None = None,
    ) -> None:
        self._table, self._reader, self._settings = table, reader, settings
        self._device, self._spread, self._unreadable = device, spread, unreadable
        self._half = device.type == "cuda" if half is None else half

    def host(self, rows: Integers, rng: np.random.Generator) -> HostBatch:
        """Copy crops. Raises DataError where too many images are unreadable."""
        draws = draw_crops(len(rows), self._settings, rng)
        sizes = self._reader.sizes(rows)
        assert sizes is not None
        kept = np.flatnonzero(sizes[:, 0])
        for row in rows[sizes[:, 0] == 0]:
            path = self._table.paths[int(row)]
            self._unreadable.record(path, OSError(self._reader.unreadable.get(path, "unreadable")))
        heights, widths = sizes[kept].T
        crops = place_crops(draws.select(kept), heights, widths, self._settings.ratio)
        sides = (int(side.max(initial=1)) for side in (crops.height, crops.width))
        # Sides that the tensor cores take whole: an odd one makes the products several times slower.
        shape = (len(kept), *(-(-side // SIDES_BY) * SIDES_BY for side in sides), 3)
        packed = torch.empty(shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        target = packed.numpy()
        # As plain integers, at once: what a thread does in Python keeps the one that trains from its own work.
        boxes = np.stack([rows[kept], crops.top, crops.left, crops.height, crops.width], axis=1).astype(int).tolist()

        def one(position: int) -> None:
            row, top, left, height, width = boxes[position]
            pixels = self._reader.pixels(row)
            target[position, :height, :width] = pixels[top : top + height, left : left + width]

        self._spread.each(one, len(kept))
        zero = np.zeros(len(kept))
        return HostBatch(kept, packed, Crops(zero, zero, crops.height, crops.width, crops.flip))

    def device(self, batch: HostBatch) -> Tensor:
        """Resize, flip, normalize."""
        assert batch.crops is not None
        size = self._settings.train_crop
        pixels = batch.pixels.to(self._device, non_blocking=True).permute(0, 3, 1, 2)
        cropped = crop_and_resize(pixels, batch.crops, (size, size), self._settings.filter, half=self._half)
        return normalized(cropped, self._settings)
