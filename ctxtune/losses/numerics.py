"""What every loss shares: unit rows, matrices of shared labels."""

import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import BaseMetricLossFunction
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """`values` themselves where they are float32 or float64, in float32 where they are narrower."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


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


def check_distance(loss: BaseMetricLossFunction) -> None:
    """Refuse, with ValueError, a distance of pytorch-metric-learning that the loss would pass over."""
    if not isinstance(loss.distance, CosineSimilarity):
        raise ValueError(
            f"{type(loss).__name__} is defined for CosineSimilarity, not for {type(loss.distance).__name__}"
        )
