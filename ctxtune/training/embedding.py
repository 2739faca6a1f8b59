"""Embeddings of a whole split, in order, without disturbing the training around it."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ctxtune.errors import DataError
from ctxtune.models import EmbeddingModel
from ctxtune.training.health import memory_errors_named
from ctxtune.training.inputs import EvaluationInputs
from ctxtune.training.precision import Precision, autocast, channels_last


@torch.no_grad()
def embed(
    model: EmbeddingModel, images: EvaluationInputs, *, batch_size: int, precision: Precision, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Embed every image of a split that can be read, or, with a head alone, their features.

    The model is put into evaluation mode and back; no random number is drawn.

    Returns:
        (m, embedding_dim) float32 on the CPU, not normalized, and the images (m,) int64 that the rows belong to, in
        ascending order: all n of the split, less those that cannot be read.

    Raises:
        DataError: no image could be read.
        RunFailed: the device's memory does not suffice.
    """
    was_training = model.training
    model.eval()
    result: Tensor | None = None
    kept: list[Tensor] = []
    filled = 0
    try:
        with memory_errors_named("evaluation.batch_size", batch_size):
            for batch, indices in images.batches(batch_size):
                with autocast(precision, device):
                    embeddings = model(channels_last(batch))
                if result is None:
                    result = torch.empty(len(images.split), embeddings.shape[1], pin_memory=device.type == "cuda")
                # A slice of pinned memory: the copy needs no wait for the device.
                result[filled : filled + len(indices)].copy_(embeddings.float(), non_blocking=True)
                filled += len(indices)
                kept.append(indices)
    finally:
        model.train(was_training)
    if result is None:
        raise DataError(f"{images.split.name}: none of its {len(images.split)} images can be read")
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result[:filled], torch.cat(kept)


def concatenated(embeddings: Sequence[Tensor]) -> Tensor:
    """What several models make of the same images, (n, d) each: L2-normalized, side by side, (n, models * d)."""
    return torch.cat([F.normalize(each, dim=1) for each in embeddings], dim=1)
