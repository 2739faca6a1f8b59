"""Terms over pairs of cosine similarities: normalisation, the contrastive loss, the similarity regulariser."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No autocast, TF32 or bfloat16 products inside: they would move neighbours across the edge of a neighbourhood."""
    with torch.autocast(device.type, enabled=False):
        switch, name, full = _product_precision(device)
        previous = getattr(switch, name, full)
        if previous in (full, "none"):
            yield
            return
        setattr(switch, name, full)
        try:
            yield
        finally:
            setattr(switch, name, previous)


def _product_precision(device: torch.device) -> tuple[Any, str, Any]:
    """Where the precision of float32 products is kept, under which name, and its full value."""
    backend: Any = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    switch = getattr(backend, "matmul", None)
    if device.type == "cuda" and not hasattr(switch, "fp32_precision"):
        return switch, "allow_tf32", False  # PyTorch before 2.9
    return switch, "fp32_precision", "ieee"


def at_least_float32(values: Tensor) -> Tensor:
    """`values` themselves where they are float32 or float64, in float32 where they are narrower."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def unit_rows(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of length 1, and the inverse of the lengths they had: (n, d) to (n, d) and (n, 1).

    A row of zeros is left as it is (inverse length 1), so that its gradient is finite.
    """
    lengths = torch.linalg.vector_norm(embeddings, dim=1, keepdim=True)
    inverse = torch.where(lengths == 0, torch.ones_like(lengths), lengths).reciprocal()
    return embeddings * inverse, inverse


def contrastive_coefficients(
    similarities: Tensor,
    same_class: Tensor,
    positive_margin: float,
    negative_margin: float,
    allowed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Contrastive loss (recipes.md, step 8) and its gradient with respect to the similarities.

    Mean of margin - s over the positives below `positive_margin`, plus mean of s - margin over the negatives above
    `negative_margin`; a mean over nothing is 0. The diagonal (exactly 1) is never below a margin of at most 1.

    Args:
        similarities: (m, n) cosine similarities, those of an item with itself exactly 1.
        same_class: (m, n) bool.
        allowed: (m, n) bool, the pairs that count; None for all.

    Returns:
        The loss, and its gradient (m, n): -1/(active positives), 1/(active negatives), or 0.
    """
    active = torch.where(same_class, similarities < positive_margin, similarities > negative_margin)
    if allowed is not None:
        active &= allowed
    positives = (active & same_class).sum(dtype=similarities.dtype)
    negatives = active.sum(dtype=similarities.dtype) - positives
    per_positive = -1.0 / positives.clamp(min=1.0)
    per_negative = 1.0 / negatives.clamp(min=1.0)
    coefficients = torch.where(same_class, per_positive, per_negative).mul_(active)
    loss = torch.dot(similarities.reshape(-1), coefficients.view(-1))
    loss = loss + positive_margin * positives.clamp(max=1.0) - negative_margin * negatives.clamp(max=1.0)
    return loss, coefficients


def similarity_regularizer(embeddings: Tensor, similarity_target: float) -> Tensor:
    """(target - mean similarity)^2 over all pairs, the diagonal included (recipes.md, step 9), differentiable.

    The mean of all z_i . z_j is the squared length of the mean of z: no similarity matrix is made.

    Args:
        embeddings: (n, d), of any lengths.
        similarity_target: the mean cosine similarity that is wanted.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        units, _ = unit_rows(at_least_float32(embeddings))
        return (similarity_target - units.mean(dim=0).square().sum()).square()
