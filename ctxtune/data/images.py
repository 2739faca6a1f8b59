"""Batches of normalised images: augmented for training, in order and unaltered for evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ctxtune.data.augmentation import crop_and_resize, evaluation_view, normalise, random_crops
from ctxtune.data.cache import uniform_pixels
from ctxtune.data.part import Integers, Part
from ctxtune.data.settings import ImageSettings


def _pixels_on(device: torch.device, pixels: npt.NDArray[np.uint8]) -> Tensor:
    """(b, channels, h, w) uint8 on `device`."""
    return torch.from_numpy(pixels).to(device, non_blocking=True)


class TrainingImages:
    """Augmented batches of a part's images.

    `batches(index_batches, epoch, first_batch)` takes the index batches of the whole epoch, (batches, batch_size), as
    `BatchSampler.epoch` gives them, and yields those from `first_batch` on: float32 images (b, 3, crop, crop),
    normalised, on `device`, and their indices (b,) int64 on the CPU. The augmentation is a pure function of
    (seed, epoch, batch number), so an epoch that is resumed in its middle goes on with the same images.
    """

    def __init__(
        self,
        part: Part,
        settings: ImageSettings,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
        cache_dir: Path | str | None = None,
        workers: int | None = None,
        channels: int = 3,
    ) -> None:
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, not {channels}")
        self.part = part
        self.settings = settings
        self.device = torch.device(device)
        self.seed = seed
        self._pixels = uniform_pixels(part.table, None if cache_dir is None else Path(cache_dir))

    def batches(self, index_batches: Integers, epoch: int, first_batch: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images, indices) of the epoch's batches from number `first_batch` on."""
        for number in range(first_batch, len(index_batches)):
            indices = np.asarray(index_batches[number], dtype=np.int64)
            rng = np.random.default_rng((self.seed, epoch, number))
            yield self._augmented(indices, rng), torch.from_numpy(indices)

    def _augmented(self, indices: Integers, rng: np.random.Generator) -> Tensor:
        pixels = self._pixels[self.part.rows[indices]]
        height, width = pixels.shape[2:]
        crops = random_crops(np.full(len(indices), height), np.full(len(indices), width), self.settings, rng)
        size = self.settings.train_crop
        return normalise(crop_and_resize(_pixels_on(self.device, pixels), crops, (size, size)))

    def close(self) -> None:
        """Nothing runs in the background."""


class EvaluationImages:
    """A part's images in order, resized and centre-cropped as `settings` says for the test side."""

    def __init__(
        self,
        part: Part,
        settings: ImageSettings,
        *,
        device: torch.device | str = "cpu",
        cache_dir: Path | str | None = None,
        workers: int | None = None,
    ) -> None:
        self.part = part
        self.settings = settings
        self.device = torch.device(device)
        self._pixels = uniform_pixels(part.table, None if cache_dir is None else Path(cache_dir))

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images (b, 3, h, w) float32 normalised on the device, indices (b,) int64), the last batch shorter."""
        for start in range(0, len(self.part), batch_size):
            indices = np.arange(start, min(start + batch_size, len(self.part)), dtype=np.int64)
            pixels = _pixels_on(self.device, self._pixels[self.part.rows[indices]])
            yield normalise(evaluation_view(pixels, self.settings)), torch.from_numpy(indices)

    def close(self) -> None:
        """Nothing runs in the background."""
