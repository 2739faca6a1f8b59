"""Cosine similarity in double precision whose value does not depend on the order of summation.

Ranks are defined by similarities, so the same pair must get the same number from every backend, device, chunk size
and matrix kernel. Ordinary float64 products do not give that: each kernel adds in its own order and rounds differently,
and exact ties come apart. Here normalised embeddings are kept on a fixed-point grid of 2^-46 or finer and split into a
high part (multiples of 2^-26) and a low part; then every partial sum of high x high and of high x low products
is exactly representable in float64 and any order of addition gives the same two sums (the splitting of
Ozaki et al., "Error-free transformations of matrix multiplication by using fast routines of matrix
multiplication and its applications", Numerical Algorithms 59, 2012, with one slice).
The result differs from the real-valued cosine by some 1e-15, a few times what ordinary float64 products do.
"""

import math

import torch
from torch import Tensor

HIGH_BITS = 26


def grid_bits(dimension: int) -> int:
    """Fractional bits of the grid on which normalised embeddings of this dimension are kept.

    Chosen so that the sum of |high x low| + |low x high|, at most sqrt(dimension) * 2^-26, in multiples of
    2^-(26 + bits), fits the 53 bits of a float64.
    """
    return min(50, 52 - int(math.log2(dimension) / 2))


def ordered_sum(values: Tensor) -> Tensor:
    """Sum over the last axis in one fixed order (pairwise halving by element-wise additions), the same on every device.

    Shapes: (n, d) to (n,).
    """
    while values.shape[-1] > 1:
        half = values.shape[-1] // 2
        folded = values[..., :half] + values[..., half : 2 * half]
        if values.shape[-1] % 2:
            folded[..., 0] += values[..., -1]
        values = folded
    return values[..., 0]


def normalising_factors(rows: Tensor) -> Tensor:
    """1 / Euclidean norm of each row of (n, d), float64 (n,); infinite for a zero row, NaN or 0 for one not finite."""
    values = rows.double()
    if rows.dtype != torch.float64:
        return ordered_sum(values * values).sqrt_().reciprocal_()
    # Powers of two, which round nothing, keep the squares from overflowing or vanishing.
    _, exponent = torch.frexp(values.abs().amax(dim=1))
    scale = torch.ldexp(torch.ones_like(values[:, 0]), -exponent.clamp(min=-1000))
    values = values * scale[:, None]
    return scale / ordered_sum(values * values).sqrt_()


def to_grid(rows: Tensor, factors: Tensor) -> Tensor:
    """Rows (n, d) times their normalising factors (n,), float64, rounded to the grid of `grid_bits(d)`."""
    magic = 1.5 * 2.0 ** (52 - grid_bits(rows.shape[1]))
    return (rows.double() * factors[:, None]).add_(magic).sub_(magic)


def split(values: Tensor) -> tuple[Tensor, Tensor]:
    """High part (multiples of 2^-26) and low part (the rest, at most 2^-27) of values on the grid."""
    magic = 1.5 * 2.0 ** (52 - HIGH_BITS)
    high = (values + magic).sub_(magic)
    return high, values - high


def exact_matrix(queries: Tensor, gallery: Tensor) -> Tensor:
    """Similarities of all pairs. Shapes: (..., n, d) and (..., m, d) on the grid to (..., n, m) float64."""
    query_high, query_low = split(queries)
    if gallery is queries:
        small = query_high @ query_low.mT
        return (query_high @ query_high.mT).add_(small + small.mT)
    gallery_high, gallery_low = split(gallery)
    small = query_high @ gallery_low.mT
    small += query_low @ gallery_high.mT
    return (query_high @ gallery_high.mT).add_(small)


def exact_pairs(queries: Tensor, gallery: Tensor) -> Tensor:
    """Similarities of corresponding rows, equal to the entries of `exact_matrix`. Shapes: (p, d) twice to (p,)."""
    query_high, query_low = split(queries)
    gallery_high, gallery_low = split(gallery)
    small = (query_high * gallery_low).sum(dim=1) + (query_low * gallery_high).sum(dim=1)
    return (query_high * gallery_high).sum(dim=1) + small


def float32_error(dimension: int) -> float:
    """Bound on |float32 product of rows in float32 - exact similarity|, for any order of summation.

    Rows normalised in float32 are off by 2u each, products and sums of d terms by d*u / (1 - d*u) (Higham, "Accuracy
    and Stability of Numerical Algorithms", 2002, section 3.1), as sum |q_i g_i| <= 1 by Cauchy-Schwarz, u = 2^-24; the
    rest covers thresholds rounded to float32, sums of a similarity and a row number below 2^14 in float64, and
    underflow.
    """
    unit = 2.0**-24
    return 1.01 * unit * (dimension / (1 - dimension * unit) + 8)


def products_error(dimension: int) -> float:
    """The same bound where the float32 products are summed in float64."""
    return 1.01 * (2.0**-24 * 5 + 2.0**-53 * dimension)
