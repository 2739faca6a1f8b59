"""Embeddings of a whole part, in order, without disturbing the training around it."""

import torch
from torch import Tensor

from ctxtune.data import EvaluationImages
from ctxtune.models import EmbeddingModel
from ctxtune.training.precision import Precision, autocast


@torch.no_grad()
def embed(
    model: EmbeddingModel, images: EvaluationImages, *, batch_size: int, precision: Precision, device: torch.device
) -> Tensor:
    """Embed every image of a part.

    The model is put into evaluation mode and back; no random number is drawn.

    Returns:
        (n, embedding_dim) float32 on the CPU, row i for image i, not normalised.
    """
    was_training = model.training
    model.eval()
    result: Tensor | None = None
    try:
        for batch, indices in images.batches(batch_size):
            with autocast(precision, device):
                embeddings = model(batch.to(memory_format=torch.channels_last))
            if result is None:
                result = torch.empty(len(images.part), embeddings.shape[1], pin_memory=device.type == "cuda")
            # The indices of an evaluation run upwards without a gap: a slice, which needs no wait for the device.
            start = int(indices[0])
            result[start : start + len(indices)].copy_(embeddings.float(), non_blocking=True)
    finally:
        model.train(was_training)
    if result is None:
        raise ValueError("there are no images to embed")
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result
