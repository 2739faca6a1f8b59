"""Augmentation beside crop and flip: torchvision's v2 transforms by name, on the device, drawn for each image by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ctxtune.data.settings import ImageSettings
from ctxtune.data.split import Integers
from ctxtune.text import did_you_mean

TRIED_SIDE = 32
"""Pixels of the gray image on which a transform is tried."""


def transform_names() -> list[str]:
    """The names of torchvision's v2 transforms."""
    from torchvision.transforms import v2

    kinds = {name: getattr(v2, name) for name in dir(v2)}
    return sorted(name for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, v2.Transform))


def build_transforms(augment: Mapping[str, Mapping[str, object]]) -> list[torch.nn.Module]:
    """The transforms of an `image.augment` block, in its order, each tried on a small image.

    Raises ValueError for a name or an argument that torchvision does not know, and for a transform that does not give an
    image of the same size.
    """
    if not augment:  # torchvision takes seconds to import
        return []
    from torchvision.transforms import v2

    built: list[torch.nn.Module] = []
    for name, arguments in augment.items():
        names = transform_names()
        if name not in names:
            raise ValueError(f"augment: torchvision has no v2 transform {name!r}{did_you_mean(name, names)}")
        image = torch.full((3, TRIED_SIDE, TRIED_SIDE), 128, dtype=torch.uint8)
        try:
            transform = getattr(v2, name)(**arguments)
            with torch.random.fork_rng(devices=[]):
                found = transform(image)
        except Exception as error:  # torchvision raises errors of many kinds for arguments that are wrong
            raise ValueError(f"augment.{name}: {_first_line(error)}") from error
        if not isinstance(found, Tensor) or found.shape != image.shape or found.dtype != image.dtype:
            what = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"augment.{name}: it must give an image of the same size in 8 bits; it gave {what}")
        built.append(transform)
    return built


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


class ExtraAugmentation:
    """The transforms of the settings, on normalized batches.

    What an image gets is a function of (seed, epoch, batch number, position in the whole batch).
    """

    def __init__(self, settings: ImageSettings, seed: int, device: torch.device) -> None:
        self._transforms = build_transforms(settings.augment or {})
        self._seed = seed
        self._devices = [device] if device.type == "cuda" else []
        self._scale = 255 * torch.tensor(settings.pixel_deviation).view(3, 1, 1)
        self._shift = 255 * torch.tensor(settings.pixel_mean).view(3, 1, 1)

    def __call__(self, images: Tensor, epoch: int, number: int, positions: Integers | Sequence[int]) -> Tensor:
        """(b, 3, h, w) float32, normalized, to the same; `positions` (b,) in the whole batch."""
        if not self._transforms or not len(images):
            return images
        scale, shift = self._scale.to(images.device), self._shift.to(images.device)
        pixels = (images * scale + shift).round_().clamp_(0, 255).to(torch.uint8)
        seeds = np.random.SeedSequence((self._seed, epoch, number, 7)).generate_state(
            int(max(positions)) + 1, np.uint64
        )
        done = torch.empty_like(pixels)
        with torch.random.fork_rng(devices=self._devices):
            for row, position in enumerate(positions):
                torch.manual_seed(int(seeds[position] >> 1))
                image = pixels[row]
                for transform in self._transforms:
                    image = transform(image)
                done[row] = image
        return (done.to(images.dtype) - shift) / scale
