"""Terms over pairs of cosine similarities: normalisation, the contrastive loss, the similarity regulariser."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor


def full_precision(device: torch.device) -> AbstractContextManager[None]:
    """No autocast, TF32 or bfloat16 products inside: they would move neighbours across the edge of a neighbourhood."""
    switch, name, full = _product_precision(device)
    previous = getattr(switch, name, full)
    if previous in (full, "none") and not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return _full_precision(device, switch, name, previous, full)


@contextmanager
def _full_precision(device: torch.device, switch: Any, name: str, previous: Any, full: Any) -> Iterator[None]:
    with torch.autocast(device.type, enabled=False):
        if previous != full:
            setattr(switch, name, full)
        try:
            yield
        finally:
            if previous != full:
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


def check_not_empty(count: int) -> None:
    """Raise ValueError where a batch has no embeddings."""
    if count == 0:
        raise ValueError("the batch is empty")


def unit_rows(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of length 1, and the lengths they had: (n, d) to (n, d) and (n, 1).

    A row of zeros is left as it is (length 1), so that its gradient is finite.
    """
    lengths = torch.linalg.vector_norm(embeddings, dim=1, keepdim=True)
    lengths = lengths.masked_fill(lengths == 0, 1.0)
    return embeddings / lengths, lengths


def class_matrix(labels: Tensor, others: Tensor, dtype: torch.dtype) -> Tensor:
    """1 where two labels are equal, else 0: (m,), (n,) to (m, n)."""
    result = torch.empty(len(labels), len(others), dtype=dtype, device=labels.device)
    return torch.eq(labels.unsqueeze(1), others, out=result)


def plus_transpose(matrix: Tensor) -> Tensor:
    """`matrix` + its transpose, which is copied first: reading it across costs several times as much."""
    return matrix.T.contiguous().add_(matrix)


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
        same_class: (m, n), 1 or 0.
        allowed: (m, n) bool, the pairs that count; None for all.

    Returns:
        The loss, and its gradient (m, n): -1/(active positives), 1/(active negatives), or 0.
    """
    # Comparisons written as floating point numbers are several times quicker on a CPU than those written as bool.
    active = similarities.new_empty(2, *similarities.shape)
    positive, negative = active
    torch.lt(similarities, positive_margin, out=positive).mul_(same_class)
    torch.gt(similarities, negative_margin, out=negative).addcmul_(negative, same_class, value=-1.0)
    if allowed is not None:
        active *= allowed
    count = active.sum(dim=(1, 2))
    per_pair = count.clamp(min=1.0).reciprocal_()
    coefficients = negative.mul_(per_pair[1]).addcmul_(positive, per_pair[0], value=-1.0)
    some = count.clamp_(max=1.0)
    loss = torch.dot(similarities.reshape(-1), coefficients.reshape(-1))
    return loss.add_(some[0], alpha=positive_margin).sub_(some[1], alpha=negative_margin), coefficients


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
