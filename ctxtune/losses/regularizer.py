"""The similarity regularizer: (target - mean cosine similarity)^2 over all pairs of a batch, the diagonal included.

The mean of all z_i . z_j is the squared length of the mean of z: no similarity matrix is made.
"""

import torch
from torch import Tensor

from ctxtune.losses.numerics import at_least_float32, unit_rows


def similarity_regularizer(embeddings: Tensor, similarity_target: float) -> Tensor:
    """The regularizer of embeddings (n, d) of any lengths, differentiable; a scalar.

    Args:
        similarity_target: the mean cosine similarity that is wanted.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        units, _ = unit_rows(at_least_float32(embeddings))
        return (similarity_target - units.mean(dim=0).square().sum()).square()


def regularizer_and_gradient(units: Tensor, similarity_target: float, rows: int) -> tuple[Tensor, Tensor]:
    """The regularizer over the first `rows` rows with all of them, and its gradient with respect to unit rows (n, d).

    Returns:
        The value; and the gradient (n, d), or (d,) where it is the same for each row.
    """
    items = len(units)
    sums = units.sum(dim=0)
    row_sums = sums if rows == items else units[:rows].sum(dim=0)
    difference = similarity_target - torch.dot(row_sums, sums) / (rows * items)
    scaled = difference * (-2.0 / (rows * items))
    if rows == items:
        return difference.square(), sums * (2.0 * scaled)
    gradient = (scaled * row_sums).repeat(items, 1)
    gradient[:rows] += scaled * sums
    return difference.square(), gradient
