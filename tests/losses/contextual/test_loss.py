"""The contextual loss against its formula written out."""

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import assume, example, given

from ctxtune.losses import ContextualLoss, contextual_similarity
from ctxtune.losses.contextual import closed_form, neighborhoods
from ctxtune.losses.contextual.hybrid import hybrid_loss
from ctxtune.losses.contextual.similarity import minimum_product
from tests.helpers.loss_strategies import (
    BATCHES,
    CLOSED_FORM_OPTIONS,
    OPTIONS,
    UNEVEN_BATCH,
    UNEVEN_OPTIONS,
    WEIGHTS,
    far_from_edges,
)
from tests.helpers.losses import batch, naive_loss, naive_similarity, relative, value_and_gradient


def matrix_loss(embeddings: torch.Tensor, labels: torch.Tensor, **options: Any) -> torch.Tensor:
    """`naive_loss` for large batches, with the package's general similarity, which is tested against the naive one."""
    return naive_loss(embeddings, labels, similarity=contextual_similarity, **options)


class TestFormula:
    @given(data=BATCHES, options=OPTIONS)
    def test_value_and_gradient_of_every_combination(self, data: Any, options: dict[str, Any]) -> None:
        embeddings, labels = data
        assume(far_from_edges(embeddings, options["k"], options["epsilon"], 1e-12))
        found = value_and_gradient(ContextualLoss(**WEIGHTS, **options), embeddings, labels)
        wanted = value_and_gradient(naive_loss, embeddings, labels, **WEIGHTS, **options)
        assert relative(found[0], wanted[0]) < 1e-9
        assert relative(found[1], wanted[1]) < 1e-8

    @given(data=BATCHES, options=OPTIONS, seed=st.integers(0, 100))
    @example(data=UNEVEN_BATCH, options=UNEVEN_OPTIONS, seed=0)
    def test_similarity_as_a_function_of_similarities(self, data: Any, options: dict[str, Any], seed: int) -> None:
        units = torch.nn.functional.normalize(data[0], dim=1)
        similarities = units @ units.T
        assume(far_from_edges(units, options["k"], options["epsilon"], 1e-12))
        weights = torch.randn(similarities.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        off_diagonal = 1.0 - torch.eye(len(units), dtype=torch.float64)
        results = []
        for function in (contextual_similarity, naive_similarity):
            value, gradient = value_and_gradient(lambda s, f=function: (f(s, **options) * weights).sum(), similarities)
            results.append((value, gradient * off_diagonal))
        assert relative(results[0][0], results[1][0]) < 1e-9
        assert relative(results[0][1], results[1][1]) < 1e-8

    # Beyond a few hundred items other forms take over, by size and density of the masks.
    @pytest.mark.parametrize(("items", "spread"), [(240, 0.7), (240, 3.0), (660, 0.3), (660, 1.0), (1100, 0.1)])
    @pytest.mark.parametrize(
        "options",
        [{}, {"overlap": "shared", "k": 7}, {"overlap": "none"}, {"detach_overlap_normalizer": False, "epsilon": 0.0}],
        ids=str,
    )
    def test_large_batches(self, items: int, spread: float, options: dict[str, Any]) -> None:
        embeddings, labels = batch(items, dim=24, spread=spread)
        embeddings[3] = embeddings[4]
        found = value_and_gradient(ContextualLoss(**WEIGHTS, **options), embeddings, labels)
        wanted = value_and_gradient(matrix_loss, embeddings, labels, **WEIGHTS, **options)
        assert relative(found[0], wanted[0]) < 1e-9
        assert relative(found[1], wanted[1]) < 1e-9

    @pytest.mark.parametrize("form", ["dense", "gathered rows", "lists"])
    @given(
        data=BATCHES,
        options=CLOSED_FORM_OPTIONS,
        rows=st.integers(5, 24),
        allowed=st.sampled_from([None, 0.5]),
        contrastive=st.sampled_from([0.0, 0.2]),
    )
    def test_every_form(
        self,
        form: str,
        monkeypatch: pytest.MonkeyPatch,
        data: Any,
        options: dict[str, Any],
        rows: int,
        allowed: float | None,
        contrastive: float,
    ) -> None:
        embeddings, labels = data
        assume(far_from_edges(embeddings, options["k"], options["epsilon"], 1e-12))
        monkeypatch.setattr(closed_form, "sparse_from", lambda device: 10**9 if form == "dense" else 0)
        monkeypatch.setattr(closed_form, "LISTS_FROM", 0 if form == "lists" else 10**9)
        monkeypatch.setattr(closed_form, "lists_pay", lambda masks, same_class, options: True)
        monkeypatch.setattr(neighborhoods, "mask_limit", lambda items: 10**9)
        rows = min(rows, len(labels))
        generator = torch.Generator().manual_seed(0)
        mask = None if allowed is None else torch.rand(rows, len(labels), generator=generator) < allowed
        weights = {**WEIGHTS, "contrastive_weight": contrastive}
        terms = ContextualLoss(**weights, **options).terms
        found = value_and_gradient(lambda e: hybrid_loss(e, labels, terms, rows=rows, allowed=mask)[0], embeddings)
        wanted = value_and_gradient(naive_loss, embeddings, labels, rows=rows, allowed=mask, **weights, **options)
        assert relative(found[0], wanted[0]) < 1e-9
        assert relative(found[1], wanted[1]) < 1e-8

    @pytest.mark.parametrize("items", [40, 300, 700])
    def test_collapsed_embeddings(self, items: int) -> None:
        embeddings, labels = batch(items, dim=24)
        embeddings = 1e-3 * embeddings + torch.ones(24)
        found = value_and_gradient(ContextualLoss(**WEIGHTS), embeddings, labels)
        wanted = value_and_gradient(matrix_loss, embeddings, labels, **WEIGHTS)
        assert relative(found[0], wanted[0]) < 1e-9
        assert relative(found[1], wanted[1]) < 1e-7

    def test_classes_of_very_different_sizes(self) -> None:
        embeddings, labels = batch(300, dim=24)
        labels = torch.where(labels < 50, 0, labels)
        found = value_and_gradient(ContextualLoss(**WEIGHTS), embeddings, labels)
        wanted = value_and_gradient(matrix_loss, embeddings, labels, **WEIGHTS)
        assert relative(found[0], wanted[0]) < 1e-9
        assert relative(found[1], wanted[1]) < 1e-9

    def test_minimum_product_in_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ctxtune.losses.contextual.similarity._BLOCK_ELEMENTS", 100)
        first, second = torch.rand(13, 9, dtype=torch.float64), torch.rand(11, 9, dtype=torch.float64)
        first[0] = second[0]  # ties share the gradient
        first.requires_grad_(True)
        second.requires_grad_(True)
        weights = torch.randn(13, 11, dtype=torch.float64)
        found = torch.autograd.grad((minimum_product(first, second) * weights).sum(), (first, second))
        plain = torch.minimum(first.unsqueeze(1), second.unsqueeze(0)).sum(dim=2)
        wanted = torch.autograd.grad((plain * weights).sum(), (first, second))
        torch.testing.assert_close(minimum_product(first, second), plain)
        torch.testing.assert_close(found, wanted)
