"""The similarity that defines the ranks: correctly rounded, and the same in every order of summation."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ctxtune.retrieval import nearest, score
from ctxtune.retrieval.similarity import (
    euclidean_norms,
    exact_matrix,
    exact_pairs,
    float32_error,
    float32_products,
    normalize,
)


def normalized(values):
    rows = torch.from_numpy(values)
    return normalize(rows, euclidean_norms(rows))


@given(
    dimension=st.sampled_from([1, 2, 3, 15, 16, 17, 64, 200]),
    spread=st.sampled_from([0.0, 3.0, 20.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_is_the_rounded_product_of_the_normalized_rows(dimension, spread, seed):
    generator = np.random.default_rng(seed)
    values = generator.standard_normal((6, dimension)) * np.exp(spread * generator.standard_normal((6, dimension)))
    rows = normalized(values)
    found = exact_matrix(rows[:3], rows[3:])
    for i in range(3):
        for j in range(3):
            exact = sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(rows[i], rows[3 + j], strict=True))
            assert abs(Fraction(float(found[i, j])) - exact) <= Fraction(2) ** -64 + abs(exact) * Fraction(2) ** -53


@pytest.mark.parametrize("dimension", [1, 7, 512, 1023, 2048])
def test_order_of_summation_does_not_matter(dimension):
    generator = np.random.default_rng(0)
    left = normalized(generator.standard_normal((20, dimension)))
    right = normalized(generator.standard_normal((30, dimension)))
    found = exact_matrix(left, right)
    shuffled = torch.from_numpy(generator.permutation(dimension))
    assert torch.equal(found, exact_matrix(left[:, shuffled], right[:, shuffled]))
    assert torch.equal(found, exact_matrix(right, left).T)
    assert torch.equal(found, exact_pairs(left.repeat_interleave(30, 0), right.repeat(20, 1)).view(20, 30))
    assert torch.equal(exact_matrix(left, left), exact_matrix(left, left.clone()))


@given(
    dimension=st.integers(1, 700),
    width=st.integers(1, 200),
    alike=st.sampled_from([0.0, 1.0, 30.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_float32_products_of_pieces_are_within_their_bound_and_that_is_the_closer_the_shorter_they_are(
    dimension, width, alike, seed
):
    generator = np.random.default_rng(seed)
    rows = normalized(alike + generator.standard_normal((25, dimension)))
    pieces = list(rows.float().split(width, dim=1))
    bound = float32_error(dimension, len(pieces[0][0]))
    assert (float32_products(pieces, pieces).double() - exact_matrix(rows, rows)).abs().max() <= bound
    assert bound <= float32_error(dimension)


def test_a_difference_in_the_last_bits_decides():
    # Two gallery items apart by 1e-14: float32 cannot see it, float64 can.
    query = np.array([[1.0, 0.0, 0.0]])
    gallery = np.array([[1.0, 1.0, 0.0], [1.0 + 4e-15, 1.0, 0.0], [1.0, 0.0, 1.0]])
    assert nearest(query, gallery, k=3).indices.tolist() == [[1, 0, 2]]
    ranks = score(query, [7], gallery, [1, 7, 7], recall_at=(1,), per_query=True).per_query.first_match_rank
    assert ranks.tolist() == [1]


def test_equal_directions_tie():
    # Multiples of one vector by powers of two are the same point, whatever comes between them in memory.
    generator = np.random.default_rng(0)
    base = generator.standard_normal(333).astype(np.float32)
    gallery = generator.standard_normal((900, 333)).astype(np.float32)
    copies = np.array([5, 300, 301, 899])
    gallery[copies] = base * np.array([[1], [4], [0.5], [64]], dtype=np.float32)
    assert nearest(base[None], gallery, k=4).indices.tolist() == [copies.tolist()]
