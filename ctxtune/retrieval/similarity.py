"""Cosine similarity in double precision whose value does not depend on the order of summation.

Ranks are defined by similarities, so the same pair must get the same number from every backend, device, chunk size
and matrix kernel. Ordinary float64 products do not give that: each kernel adds in its own order and rounds differently,
and exact ties come apart. Here normalized embeddings are split into three parts of few enough bits each that every
partial sum of products of two parts is exactly representable in float64, so that any order of addition gives the same
sums (Ozaki et al., "Error-free transformations of matrix multiplication by using fast routines of matrix
multiplication and its applications", Numerical Algorithms 59, 2012). Their total is the product of the float64 rows
rounded once, closer to it than an ordinary float64 product.
"""

import math

import torch
from torch import Tensor

HIGH_BITS = 26
PIECE_WIDTH = 128


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


def euclidean_norms(rows: Tensor) -> Tensor:
    """Norm of each row of (n, d), float64 (n,), the same on every device; not finite for a row that is not."""
    values = rows.double()
    if rows.dtype != torch.float64:
        return ordered_sum(values * values).sqrt_()
    # Powers of two, which round nothing, keep the squares from overflowing or vanishing.
    _, exponent = torch.frexp(values.abs().amax(dim=1))
    scale = torch.ldexp(torch.ones_like(values[:, 0]), -exponent.clamp(min=-1000))
    values = values * scale[:, None]
    return ordered_sum(values * values).sqrt_() / scale


def normalize(rows: Tensor, norms: Tensor) -> Tensor:
    """Rows (n, d) divided by their norms (n,), float64."""
    return rows.double() / norms[:, None]


def split(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Three parts of normalized rows (..., d) that add up to them but for some 2^-70.

    High: multiples of 2^-26. Middle: multiples of 2^-g, at most 2^-27. Low: multiples of 2^-l, at most 2^-(g + 1).
    With |row| = 1, sums of products are bounded by Cauchy-Schwarz: high x high by 1 in multiples of 2^-52, high x
    middle both ways by sqrt(d) * 2^-26 in multiples of 2^-(26 + g), and so on; g and l are such that each fits 53 bits.
    """
    half = math.log2(values.shape[-1]) / 2
    middle_bits = 52 - math.floor(half)
    low_bits = middle_bits + 26 - math.ceil(half)
    high = _rounded(values, HIGH_BITS)
    rest = values - high
    middle = _rounded(rest, middle_bits)
    return high, middle, _rounded(rest.sub_(middle), low_bits)


def _rounded(values: Tensor, bits: int) -> Tensor:
    """Values, at most 2^(51 - bits) in size, rounded to multiples of 2^-bits."""
    magic = 1.5 * 2.0 ** (52 - bits)
    return (values + magic).sub_(magic)


def exact_matrix(queries: Tensor, gallery: Tensor) -> Tensor:
    """Similarities of all pairs. Shapes: (..., n, d) and (..., m, d) normalized to (..., n, m), float64."""
    high, middle, low = split(queries)
    if gallery is queries:
        crossed = high @ middle.mT
        second = crossed + crossed.mT
        crossed = high @ low.mT
        third = crossed + crossed.mT
        return _total(high @ high.mT, second, third, middle @ middle.mT)
    other_high, other_middle, other_low = split(gallery)
    second = (high @ other_middle.mT).add_(middle @ other_high.mT)
    third = (high @ other_low.mT).add_(low @ other_high.mT)
    return _total(high @ other_high.mT, second, third, middle @ other_middle.mT)


def exact_pairs(queries: Tensor, gallery: Tensor) -> Tensor:
    """Similarities of corresponding rows, equal to the entries of `exact_matrix`. Shapes: (p, d) twice to (p,)."""
    high, middle, low = split(queries)
    other_high, other_middle, other_low = split(gallery)

    def product(left: Tensor, right: Tensor) -> Tensor:
        return (left * right).sum(dim=1)

    second = product(high, other_middle) + product(middle, other_high)
    third = product(high, other_low) + product(low, other_high)
    return _total(product(high, other_high), second, third, product(middle, other_middle))


def _total(first: Tensor, second: Tensor, third: Tensor, fourth: Tensor) -> Tensor:
    """first + second + third + fourth, the first two without rounding error (Knuth's TwoSum)."""
    total = first + second
    share = total - first
    error = (first - (total - share)).add_(second - share)
    return total.add_(error.add_(third.add_(fourth)))


def piece_width(device: torch.device, dimension: int) -> int:
    """Of so many dimensions at a time products of rows are taken: the fewer, the closer is the bound on their error.

    On a CPU the sums of all pieces stay in its caches; on a GPU each piece would move the whole tile once more.
    """
    return min(PIECE_WIDTH, dimension) if device.type == "cpu" else dimension


def float32_products(rows: list[Tensor], others: list[Tensor]) -> Tensor:
    """Products of float32 rows with others, both in pieces (n, w) and (m, w) of the dimensions; (n, m)."""
    products = rows[0] @ others[0].T
    for piece, other in zip(rows[1:], others[1:], strict=True):
        products.addmm_(piece, other.T)
    return products


def float32_error(dimension: int, piece: int | None = None) -> float:
    """Bound on |float32 product of rows in float32 - exact similarity|, for any order of summation.

    With `piece`, of products that are summed within pieces of so many dimensions, and then over the pieces.

    Rows normalized in float32 are off by 2u each, products and sums of d terms by d*u / (1 - d*u), with d less where a
    term goes through fewer additions: those within its piece and one for each piece (Higham, "Accuracy and Stability of
    Numerical Algorithms", 2002, sections 3.1 and 4.2), as sum |q_i g_i| <= 1 by Cauchy-Schwarz, u = 2^-24; the rest
    covers thresholds rounded to float32, sums of a similarity and a row number below 2^17 in float64, and underflow.
    """
    unit = 2.0**-24
    width = dimension if piece is None else piece
    roundings = width + math.ceil(dimension / width) - 1
    return 1.01 * unit * (roundings / (1 - roundings * unit) + 8)


def products_error(dimension: int) -> float:
    """The same bound where the float32 products are summed in float64."""
    return 1.01 * (2.0**-24 * 5 + 2.0**-53 * dimension)
