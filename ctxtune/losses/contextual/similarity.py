"""The contextual similarity for any combination of its options, differentiable by autograd.

This is the general path. Training with the default step and conjunction goes through the gradients derived by hand
(`closed_form`), which are tested against this one.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ctxtune.float32_products import full_float32
from ctxtune.losses.contextual.options import SimilarityOptions, takes_similarity_options
from ctxtune.losses.numerics import at_least_float32

# Elements of the largest temporary that `minimum_product` makes at once: 64 MiB in float32.
_BLOCK_ELEMENTS = 1 << 24


@takes_similarity_options
def contextual_similarity(similarities: Tensor, k: int, epsilon: float, **options: object) -> Tensor:
    """Contextual similarity of every pair of a batch (Liao et al., ICML 2023, arXiv 2210.01908, equations 3 to 11).

    Two items are similar where their neighborhoods overlap, averaged over the reciprocal neighbors of each.
    Every item is its own nearest neighbor: the diagonal of `similarities` counts as 1 whatever rounding made of it.
    Computed in float32 at least; half precision input is raised to it.

    Args:
        similarities: (n, n) cosine similarities of n items, n >= k.
        k, epsilon and the options: see `SimilarityOptions`.

    Returns:
        (n, n) contextual similarities in [0, 1], symmetric with `query_expansion` and asymmetric without.
        The derivative of the heuristic step is that of the paper, not that of the value.

    Raises:
        TypeError: an option is not known.
        ValueError: an option is out of its range, `similarities` is not square, or n < k.
    """
    checked = SimilarityOptions.of("contextual_similarity", {"k": k, "epsilon": epsilon, **options})
    if similarities.ndim != 2 or similarities.shape[0] != similarities.shape[1]:
        raise ValueError(f"similarities must be a square matrix, not of shape {tuple(similarities.shape)}")
    if not similarities.is_floating_point():
        raise ValueError(f"similarities must be floating point numbers, not {similarities.dtype}")
    with full_float32(similarities.device.type):
        return compose(at_least_float32(similarities), checked)


def compose(similarities: Tensor, options: SimilarityOptions) -> Tensor:
    """`contextual_similarity` for options and similarities that have been checked: (n, n) to (n, n)."""
    options.check_batch(similarities.shape[0])
    distances = (2.0 - 2.0 * similarities).clamp(min=0.0)
    distances = distances - torch.diag(distances.diagonal().detach())
    nearest = distances.detach().topk(options.k, dim=1, largest=False).values
    depth = options.epsilon + nearest[:, options.k - 1 :] - distances
    weights = _overlap(_step(depth, options), depth, options)
    if not options.query_expansion:
        return weights
    half = options.k // 2
    closest = _step(options.epsilon + nearest[:, half - 1 : half] - distances, options)
    reciprocal = _and(closest, closest.T, options)
    count = reciprocal.sum(dim=1, keepdim=True)
    if options.detach_expansion_normalizer:
        count = count.detach()
    expanded = _sum_of_and(reciprocal, weights.T, options) / count
    return 0.5 * (expanded + expanded.T)


def _overlap(neighbors: Tensor, depth: Tensor, options: SimilarityOptions) -> Tensor:
    """How much of each row's neighborhood (and of its complement) is shared, within the neighborhood: (n, n).

    `depth` (n, n) says how deep inside its neighborhood an item lies, `neighbors` is the step of it.
    """
    if options.overlap == "none":
        return neighbors
    sizes = neighbors.sum(dim=1, keepdim=True)
    shared = _sum_of_and(neighbors, neighbors, options)
    normalizer = sizes.detach() if options.detach_overlap_normalizer else sizes
    share = shared / normalizer
    if options.overlap == "shared":
        return _and(neighbors, share, options)
    if options.step == "heuristic" and options.conjunction == "product":
        outside_sizes = neighbors.shape[0] - sizes
        # (1-N)(1-N)^T = n - r_i - r_j + N N^T; exact, as these are whole numbers far below 2^24.
        shared_outside = outside_sizes - sizes.T + shared
    else:
        # 1 - sigmoid(x) = sigmoid(-x), without the rounding that would be all that is left of 1 - N where N is near 1.
        outside = torch.sigmoid(-depth / options.temperature) if options.step == "sigmoid" else 1.0 - neighbors
        outside_sizes = outside.sum(dim=1, keepdim=True)
        shared_outside = _sum_of_and(outside, outside, options)
    normalizer = outside_sizes.detach() if options.detach_overlap_normalizer else outside_sizes
    # A neighborhood that is the whole batch leaves nothing outside: 0 / 0 counts as 0.
    share_outside = shared_outside / torch.where(normalizer > 0, normalizer, torch.ones_like(normalizer))
    share_outside = torch.where(normalizer > 0, share_outside, torch.zeros_like(share_outside))
    return _and(neighbors, 0.5 * (share + share_outside), options)


def _step(values: Tensor, options: SimilarityOptions) -> Tensor:
    if options.step == "sigmoid":
        return torch.sigmoid(values / options.temperature)
    result: Tensor = _HeuristicStep.apply(values, options.slope)
    return result


def _and(first: Tensor, second: Tensor, options: SimilarityOptions) -> Tensor:
    return first * second if options.conjunction == "product" else torch.minimum(first, second)


def _sum_of_and(first: Tensor, second: Tensor, options: SimilarityOptions) -> Tensor:
    """Sum over p of AND(first[i, p], second[j, p]): (n, p) and (m, p) to (n, m)."""
    if options.conjunction == "product":
        return first @ second.T
    return minimum_product(first, second)


def minimum_product(first: Tensor, second: Tensor) -> Tensor:
    """Sum over p of min(first[i, p], second[j, p]), in blocks of bounded memory: (n, p) and (m, p) to (n, m).

    The gradient goes to the smaller of the two, to each by half where they are equal, as with torch.minimum.
    """
    result: Tensor = _MinimumProduct.apply(first, second)
    return result


class _HeuristicStep(torch.autograd.Function):
    """1 where x >= 0, else 0; backward a constant slope everywhere (equation 5 of the paper)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, slope: float) -> Tensor:
        ctx.slope = slope
        return (values >= 0).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.slope, None


class _MinimumProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        ctx.save_for_backward(first, second)
        result = first.new_empty(first.shape[0], second.shape[0])
        for rows in _row_blocks(first, second):
            result[rows] = torch.minimum(first[rows].unsqueeze(1), second).sum(dim=2)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        first, second = ctx.saved_tensors
        gradient_first = torch.empty_like(first)
        gradient_second = torch.zeros_like(second)
        for rows in _row_blocks(first, second):
            # 1 where first is smaller, 1/2 where equal, 0 where larger: the share of `first` in the gradient.
            share = 0.5 - 0.5 * torch.sign(first[rows].unsqueeze(1) - second)
            incoming = gradients[0][rows]
            gradient_first[rows] = torch.einsum("ij,ijp->ip", incoming, share)
            # Not the sum over i less what `first` takes: rows with next to nothing outside of them have gradients that
            # would leave only rounding of the others'.
            gradient_second += torch.einsum("ij,ijp->jp", incoming, share.neg_().add_(1.0))
        return gradient_first, gradient_second


def _row_blocks(first: Tensor, second: Tensor) -> list[slice]:
    rows = max(1, _BLOCK_ELEMENTS // max(1, second.numel()))
    return [slice(start, start + rows) for start in range(0, first.shape[0], rows)]
