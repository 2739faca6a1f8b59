"""Embeddings of images that belong to no data set, as a checkpoint's test images are prepared."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ctxtune.data import EvaluationImages, ImageSettings, Split
from ctxtune.errors import ConfigError, CtxtuneError, DataError
from ctxtune.evaluation.checkpoint import Checkpoint
from ctxtune.float32_products import allow_tf32
from ctxtune.models import EmbeddingModel
from ctxtune.text import shortened
from ctxtune.training.embedding import embed
from ctxtune.training.precision import resolve_precision
from ctxtune.training.restoring import view_of_any_picture


@dataclass(frozen=True)
class Embedded:
    """Embeddings of images.

    Attributes:
        rows: (n,) int64, which images of the split, ascending.
        embeddings: (n, d) float32, as the model gives them.
        left_out: identifier to reason of the images that cannot be read.
    """

    rows: npt.NDArray[np.int64]
    embeddings: npt.NDArray[np.float32]
    left_out: dict[str, str]


def embed_images(
    checkpoint: Checkpoint,
    model: EmbeddingModel,
    images: Split,
    device: torch.device,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Embedded:
    """Embed all images of a split that can be read.

    Raises:
        DataError: none can be read.
        ConfigError: they have different sizes, and the checkpoint's settings make no one size of them.
        CtxtuneError: an embedding that is not finite, or zero.
    """
    trial = checkpoint.trial
    allow_tf32(trial.tf32)
    all_readable = replace(images, table=replace(images.table, max_unreadable=1.0))
    inputs = _Counted(all_readable, view_of_any_picture(trial), device, on_progress)
    try:
        found, kept = embed(
            model,
            inputs,
            batch_size=trial.evaluation.batch_size or 4 * trial.sampler.batch_size,
            precision=resolve_precision(trial.precision, device),
            device=device,
        )
    except DataError as error:
        if not inputs.unreadable:
            raise ConfigError(str(error)) from None
        path, reason = next(iter(inputs.unreadable.items()))
        raise DataError(f"{error}; the first: {shortened(path, 200)}: {reason}") from None
    finally:
        inputs.close()
    _check(found, [images.path(int(row)) for row in kept], checkpoint)
    return Embedded(kept.numpy(), found.numpy(), inputs.unreadable)


class _Counted(EvaluationImages):
    """Images whose batches are counted as they go by."""

    def __init__(
        self, split: Split, settings: ImageSettings, device: torch.device, on_progress: Callable[[int], None]
    ) -> None:
        super().__init__(split, settings, device=device)
        self._on_progress = on_progress

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """As those of `EvaluationImages`."""
        for images, indices in super().batches(batch_size):
            yield images, indices
            self._on_progress(int(indices[-1]) + 1)


def _check(embeddings: Tensor, names: list[str], checkpoint: Checkpoint) -> None:
    sound = torch.isfinite(embeddings).all(1) & (embeddings.norm(dim=1) > 0)
    if not bool(sound.all()):
        first = names[int((~sound).nonzero()[0])]
        raise CtxtuneError(
            f"{checkpoint.path}: the embedding of {shortened(first, 200)} is zero or not finite; has this run collapsed?"
        )
