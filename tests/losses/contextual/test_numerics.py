"""The contextual loss in floats: order, scale, precision, degenerate batches, memory, GPU."""

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import assume, example, given

from ctxtune.losses import ContextualLoss
from ctxtune.losses.contextual import closed_form, cuda_graphs
from tests.helpers.loss_strategies import (
    BATCHES,
    OPTIONS,
    UNEVEN_BATCH,
    UNEVEN_OPTIONS,
    WEIGHTS,
    far_from_edges,
    least_outside,
)
from tests.helpers.losses import batch, relative, value_and_gradient
from tests.helpers.precision import reduced_products


class TestNumerics:
    @given(data=BATCHES, options=OPTIONS, seed=st.integers(0, 1000))
    @example(data=UNEVEN_BATCH, options=UNEVEN_OPTIONS, seed=0)
    def test_order_of_the_batch_does_not_matter(self, data: Any, options: dict[str, Any], seed: int) -> None:
        embeddings, labels = data
        assume(far_from_edges(embeddings, options["k"], options["epsilon"], 1e-12))
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        loss = ContextualLoss(**WEIGHTS, **options)
        plain = value_and_gradient(loss, embeddings, labels)
        permuted = value_and_gradient(loss, embeddings[order], labels[order])
        assert relative(permuted[0], plain[0]) < 1e-9
        assert relative(permuted[1], plain[1][order]) < 1e-8

    @given(data=BATCHES, options=OPTIONS)
    def test_float32_against_float64(self, data: Any, options: dict[str, Any]) -> None:
        embeddings, labels = data[0].float(), data[1]
        # With epsilon = 0 an item at the very edge may fall to either side of it in float32.
        assume(options["epsilon"] >= 0.05 and far_from_edges(embeddings, options["k"], options["epsilon"], 1e-5))
        assume(options["step"] == "heuristic" or least_outside(embeddings, options) > 1e-15)
        loss = ContextualLoss(**WEIGHTS, **options)
        found = value_and_gradient(loss, embeddings, labels)
        wanted = value_and_gradient(loss, embeddings.double(), labels)
        assert found[0].dtype == torch.float32
        assert relative(found[0].double(), wanted[0]) < 1e-4
        if (
            options["conjunction"] == "product"
        ):  # the gradient of a minimum jumps where rounding decides which is smaller
            assert relative(found[1].double(), wanted[1]) < 1e-3

    def test_scale_of_the_embeddings_does_not_matter(self) -> None:
        embeddings, labels = batch(32)
        scales = torch.rand(32, 1, dtype=torch.float64) + 0.1
        assert torch.isclose(ContextualLoss()(embeddings, labels), ContextualLoss()(scales * embeddings, labels))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("step", ["heuristic", "sigmoid"])
    def test_autocast_and_half_precision(self, dtype: torch.dtype, step: Any) -> None:
        embeddings, labels = batch(48, dtype=torch.float32)
        loss = ContextualLoss(step=step)
        plain = value_and_gradient(loss, embeddings, labels)
        with torch.autocast("cpu", dtype=dtype):
            under_autocast = value_and_gradient(loss, embeddings, labels)
        torch.testing.assert_close(under_autocast, plain, rtol=0.0, atol=0.0)
        rounded = embeddings.to(dtype)
        half = value_and_gradient(loss, rounded, labels)
        raised = value_and_gradient(loss, rounded.float(), labels)
        assert half[0].dtype == torch.float32
        assert half[1].dtype == dtype
        torch.testing.assert_close(half[0], raised[0], rtol=0.0, atol=0.0)
        torch.testing.assert_close(half[1], raised[1].to(dtype), rtol=0.0, atol=0.0)

    def test_reduced_precision_of_products_is_set_aside(self) -> None:
        embeddings, labels = batch(128, dim=256, dtype=torch.float32)
        plain = value_and_gradient(ContextualLoss(), embeddings, labels)
        with reduced_products():
            reduced = value_and_gradient(ContextualLoss(), embeddings, labels)
        torch.testing.assert_close(reduced, plain, rtol=0.0, atol=0.0)

    @pytest.mark.parametrize(
        ("items", "options"),
        [
            (24, {}),
            (24, {"step": "sigmoid"}),
            (24, {"conjunction": "minimum"}),
            (24, {"step": "sigmoid", "conjunction": "minimum", "detach_overlap_normalizer": False}),
            (24, {"epsilon": 0.0, "k": 2}),
            (240, {}),
            (240, {"epsilon": 0.0, "k": 2}),
        ],
    )
    def test_degenerate_batches(self, items: int, options: dict[str, Any]) -> None:
        embeddings, labels = batch(items, dtype=torch.float32)
        ones = torch.ones_like(embeddings)
        cases = {
            "one class": (embeddings, torch.zeros_like(labels)),
            "no positives": (embeddings, torch.arange(items)),
            "a class with one image": (
                embeddings,
                torch.where(labels == labels[0], items + torch.arange(items), labels),
            ),
            "duplicates": (embeddings[torch.arange(items) // 2], labels),
            "all alike": (ones, labels),
            "all alike, one class": (ones, torch.zeros_like(labels)),
            "nearly alike": (ones + 1e-6 * embeddings, labels),
            "opposites": (torch.cat([embeddings[: items // 2], -embeddings[: items // 2]]), labels),
            "a zero": (embeddings * (torch.arange(items) > 0).unsqueeze(1), labels),
            "zeros": (0.0 * embeddings, labels),
            "huge": (1e18 * embeddings, labels),
            "tiny": (1e-18 * embeddings, labels),
        }
        for name, (found, classes) in cases.items():
            value, gradient = value_and_gradient(ContextualLoss(**options), found, classes)
            assert torch.isfinite(value), name
            assert torch.isfinite(gradient).all(), name
            assert value >= 0, name

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    @pytest.mark.parametrize("items", [24, 240])
    @pytest.mark.parametrize("options", [{}, {"step": "sigmoid"}])
    def test_what_is_not_finite_shows(self, value: float, items: int, options: dict[str, Any]) -> None:
        embeddings, labels = batch(items, dtype=torch.float32)
        embeddings[2, 3] = value
        total, terms = ContextualLoss(**options).weighted_terms(embeddings, labels)
        assert torch.isnan(total)
        assert all(torch.isnan(term) for term in terms.values())

    def test_too_small_batches(self) -> None:
        embeddings, labels = batch(8, per_class=2)
        for items in (1, 3):
            with pytest.raises(ValueError, match="fewer than k = 4"):
                ContextualLoss()(embeddings[:items], labels[:items])
        with pytest.raises(ValueError, match="empty"):
            ContextualLoss(0.0)(embeddings[:0], labels[:0])
        value, gradient = value_and_gradient(ContextualLoss(0.0), embeddings[:1], labels[:1])
        assert torch.isclose(value, torch.tensor(0.1 * 0.7**2, dtype=torch.float64))
        assert gradient.abs().max() < 1e-12
        assert torch.isfinite(ContextualLoss(k=8)(embeddings, labels))

    def test_labels_are_required(self) -> None:
        with pytest.raises(ValueError, match="needs labels"):
            ContextualLoss()(torch.randn(8, 4))

    def test_labels_beyond_the_reach_of_floating_point(self) -> None:
        embeddings, labels = batch(32)
        far = labels + 2**60
        assert torch.equal(ContextualLoss()(embeddings, far), ContextualLoss()(embeddings, labels))

    def test_no_gradient_no_graph(self) -> None:
        embeddings, labels = batch(32)
        assert not ContextualLoss()(embeddings, labels).requires_grad
        with torch.no_grad():
            assert not ContextualLoss()(embeddings.requires_grad_(True), labels).requires_grad

    def test_gradient_scales_with_what_comes_in(self) -> None:
        embeddings, labels = batch(32)
        plain = value_and_gradient(ContextualLoss(), embeddings, labels)[1]
        scaled = value_and_gradient(lambda e: 3.0 * ContextualLoss()(e, labels), embeddings)[1]
        torch.testing.assert_close(scaled, 3.0 * plain)

    def test_cuda_graphs_change_nothing_on_a_cpu(self) -> None:
        embeddings, labels = batch(32)
        plain = value_and_gradient(ContextualLoss(), embeddings, labels)
        recorded = value_and_gradient(ContextualLoss().use_cuda_graphs(), embeddings, labels)
        torch.testing.assert_close(recorded, plain, rtol=0.0, atol=0.0)


@pytest.mark.gpu
class TestGpu:
    @pytest.mark.parametrize("items", [32, 128, 300, 1200])
    @pytest.mark.parametrize("options", [{}, {"query_expansion": False}, {"step": "sigmoid"}], ids=str)
    def test_equals_the_cpu(self, items: int, options: dict[str, Any]) -> None:
        embeddings, labels = batch(items, dim=64)
        wanted = value_and_gradient(ContextualLoss(**options), embeddings, labels)
        for loss in (ContextualLoss(**options), ContextualLoss(**options).use_cuda_graphs()):
            for _ in range(2):
                found = value_and_gradient(loss, embeddings.cuda(), labels.cuda())
                assert relative(found[0].cpu(), wanted[0]) < 1e-9
                assert relative(found[1].cpu(), wanted[1]) < 1e-9

    @pytest.mark.parametrize("items", [300, 1200])
    def test_sparse_forms_equal_the_cpu(self, monkeypatch: pytest.MonkeyPatch, items: int) -> None:
        embeddings, labels = batch(items, dim=64)
        wanted = value_and_gradient(ContextualLoss(), embeddings, labels)
        monkeypatch.setattr(closed_form, "sparse_from", lambda device: 0)
        found = value_and_gradient(ContextualLoss(), embeddings.cuda(), labels.cuda())
        assert relative(found[0].cpu(), wanted[0]) < 1e-9
        assert relative(found[1].cpu(), wanted[1]) < 1e-9

    def test_goes_on_where_a_recording_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any) -> None:
            raise RuntimeError("no graphs here")

        monkeypatch.setattr(cuda_graphs, "_record", fail)
        embeddings, labels = batch(64)
        loss = ContextualLoss().use_cuda_graphs()
        wanted = value_and_gradient(ContextualLoss(), embeddings, labels)
        with pytest.warns(UserWarning, match="could not be recorded"):
            found = value_and_gradient(loss, embeddings.cuda(), labels.cuda())
        assert relative(found[1].cpu(), wanted[1]) < 1e-9
        assert relative(value_and_gradient(loss, embeddings.cuda(), labels.cuda())[1].cpu(), wanted[1]) < 1e-9

    def test_replays_do_not_share_their_results(self) -> None:
        loss = ContextualLoss().use_cuda_graphs()
        data = [batch(64, seed=seed) for seed in (0, 1)]
        inputs = [embeddings.cuda().requires_grad_(True) for embeddings, _ in data]
        values = [loss(found, labels.cuda()) for found, (_, labels) in zip(inputs, data, strict=True)]
        for value, found, (embeddings, labels) in zip(values, inputs, data, strict=True):
            (gradient,) = torch.autograd.grad(value, found)
            wanted = value_and_gradient(ContextualLoss(), embeddings, labels)
            assert relative(value.detach().cpu(), wanted[0]) < 1e-9
            assert relative(gradient.cpu(), wanted[1]) < 1e-9
