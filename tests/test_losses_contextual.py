"""The contextual loss against its formula written out, its options one by one, and its numerics."""

from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from hypothesis import assume, given, settings
from losses_support import batch, naive_loss, naive_similarity, relative, value_and_gradient

from ctxtune.losses import ContextualLoss, closed_form, contextual_similarity, scan, sparse
from ctxtune.losses.similarity import minimum_product
from ctxtune.losses.terms import hybrid_loss


def least_outside(embeddings: torch.Tensor, options: dict[str, Any]) -> float:
    """How much at least lies outside of a neighbourhood. Below 1e-38 float32 cannot tell it from nothing."""
    units = torch.nn.functional.normalize(embeddings.double(), dim=1)
    distances = torch.relu(2.0 - 2.0 * units @ units.T)
    reach = distances.sort(dim=1).values[:, options["k"] - 1 : options["k"]]
    depth = options["epsilon"] + reach - distances
    return float(torch.sigmoid(-depth / options["temperature"]).sum(dim=1).min())


OPTIONS = st.fixed_dictionaries(
    {
        "k": st.integers(2, 7),
        "epsilon": st.sampled_from([0.0, 1e-5, 0.05, 0.3]),
        "slope": st.sampled_from([1.0, 10.0]),
        "step": st.sampled_from(["heuristic", "sigmoid"]),
        "temperature": st.sampled_from([0.01, 0.2]),
        "conjunction": st.sampled_from(["product", "minimum"]),
        "overlap": st.sampled_from(["both", "shared", "none"]),
        "query_expansion": st.booleans(),
        "detach_overlap_normalizer": st.booleans(),
        "detach_expansion_normalizer": st.booleans(),
    }
)
CLOSED_FORM_OPTIONS = st.fixed_dictionaries(
    {
        "k": st.integers(2, 7),
        "epsilon": st.sampled_from([0.0, 0.05, 0.3]),
        "overlap": st.sampled_from(["both", "shared", "none"]),
        "detach_overlap_normalizer": st.booleans(),
        "detach_expansion_normalizer": st.booleans(),
    }
)
BATCHES = st.builds(
    batch,
    items=st.integers(7, 24),
    dim=st.integers(2, 12),
    per_class=st.integers(1, 6),
    spread=st.sampled_from([0.05, 0.5, 2.0]),
    seed=st.integers(0, 10**6),
)
WEIGHTS: dict[str, Any] = {"contextual_weight": 0.7, "contrastive_weight": 0.2, "regularizer_weight": 0.3}


def far_from_edges(embeddings: torch.Tensor, k: int, epsilon: float, distance: float) -> bool:
    """Whether no pair lies within `distance` of the edge of a neighbourhood or of a margin."""
    units = torch.nn.functional.normalize(embeddings.double(), dim=1)
    similarities = units @ units.T
    sorted_rows = similarities.sort(dim=1, descending=True).values
    edges = [sorted_rows[:, size - 1 : size] - epsilon / 2 for size in (k, k // 2)]
    gaps = [(similarities - edge).abs() for edge in edges]
    if epsilon == 0:  # the k-th itself is on the edge, exactly
        gaps = [torch.where(gap == 0, torch.ones_like(gap), gap) for gap in gaps]
    gaps += [(similarities - margin).abs() for margin in (0.75, 0.6)]
    return min(float(gap.min()) for gap in gaps) > distance


class TestFormula:
    @settings(deadline=None, derandomize=True, max_examples=150)
    @given(data=BATCHES, options=OPTIONS)
    def test_value_and_gradient_of_every_combination(self, data: Any, options: dict[str, Any]) -> None:
        embeddings, labels = data
        assume(far_from_edges(embeddings, options["k"], options["epsilon"], 1e-12))
        found = value_and_gradient(ContextualLoss(**WEIGHTS, **options), embeddings, labels)
        wanted = value_and_gradient(naive_loss, embeddings, labels, **WEIGHTS, **options)
        assert relative(found[0], wanted[0]) < 1e-9
        assert relative(found[1], wanted[1]) < 1e-8

    @settings(deadline=None, derandomize=True, max_examples=60)
    @given(data=BATCHES, options=OPTIONS, seed=st.integers(0, 100))
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
    @settings(
        deadline=None,
        derandomize=True,
        max_examples=60,
        suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
    )
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
        for module in (scan, sparse):
            monkeypatch.setattr(module, "list_limit", lambda items: 10**9)
        monkeypatch.setattr(scan, "mask_limit", lambda items: 10**9)
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
        monkeypatch.setattr("ctxtune.losses.similarity._BLOCK_ELEMENTS", 100)
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


def matrix_loss(embeddings: torch.Tensor, labels: torch.Tensor, **options: Any) -> torch.Tensor:
    """`naive_loss` for large batches, with the package's general similarity, which is tested against the naive one."""
    return naive_loss(embeddings, labels, similarity=contextual_similarity, **options)


CHANGES: dict[str, dict[str, Any]] = {
    "contextual_weight": {"contextual_weight": 0.5, "contrastive_weight": 0.2},
    "contrastive_weight": {"contrastive_weight": 0.4},
    "contrastive_weight remainder": {"contrastive_weight": "remainder"},
    "regularizer_weight": {"regularizer_weight": 0.2},
    "k": {"k": 6},
    "epsilon": {"epsilon": 0.4},
    "positive_margin": {"positive_margin": 0.9},
    "negative_margin": {"negative_margin": 0.3},
    "similarity_target": {"similarity_target": 0.0},
    "slope": {"slope": 5.0},
    "step": {"step": "sigmoid"},
    "conjunction": {"conjunction": "minimum"},
    "overlap shared": {"overlap": "shared"},
    "overlap none": {"overlap": "none"},
    "query_expansion": {"query_expansion": False},
    "detach_overlap_normalizer": {"detach_overlap_normalizer": False},
    "detach_expansion_normalizer": {"detach_expansion_normalizer": True},
}


class TestOptions:
    @pytest.mark.parametrize("items", [32, 240, 700])
    @pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
    def test_every_option_changes_value_or_gradient(self, change: dict[str, Any], items: int) -> None:
        if items > 240 and change.get("conjunction") == "minimum":
            pytest.skip("cubic in memory traffic; the same code as for fewer items")
        embeddings, labels = batch(items, dim=16, spread=1.2)
        plain = value_and_gradient(ContextualLoss(), embeddings, labels)
        changed = value_and_gradient(ContextualLoss(**change), embeddings, labels)
        assert relative(changed[0], plain[0]) > 1e-9 or relative(changed[1], plain[1]) > 1e-6

    def test_temperature_changes_the_sigmoid_step(self) -> None:
        embeddings, labels = batch(32)
        values = [ContextualLoss(step="sigmoid", temperature=t)(embeddings, labels) for t in (0.01, 0.1)]
        assert abs(values[0] - values[1]) > 1e-6

    def test_an_unknown_option_is_named(self) -> None:
        with pytest.raises(TypeError, match="'slop'; did you mean 'slope'"):
            ContextualLoss(slop=3.0)

    def test_shows_its_options(self) -> None:
        assert "k=6" in repr(ContextualLoss(k=6)) and "step='sigmoid'" in repr(ContextualLoss(step="sigmoid"))

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"k": 1}, "k must be a whole number of at least 2"),
            ({"k": 2.5}, "k must be a whole number"),
            ({"k": True}, "k must be a whole number"),
            ({"epsilon": -0.1}, "epsilon must be at least 0"),
            ({"epsilon": float("nan")}, "epsilon must be a finite number"),
            ({"epsilon": "0.1"}, "epsilon must be a finite number"),
            ({"positive_margin": 1.1}, r"positive_margin must be in \[-1, 1\]"),
            ({"negative_margin": -1.1}, r"negative_margin must be in \[-1, 1\]"),
            ({"similarity_target": 2.0}, r"similarity_target must be in \[-1, 1\]"),
            ({"slope": 0.0}, "slope must be above 0"),
            ({"temperature": 0.0}, "temperature must be above 0"),
            ({"step": "heavyside"}, "step must be one of heuristic, sigmoid"),
            ({"conjunction": "and"}, "conjunction must be one of"),
            ({"overlap": True}, "overlap must be one of"),
            ({"query_expansion": 1}, "query_expansion must be true or false"),
            ({"contextual_weight": 1.2}, "contrastive_weight = 1 - contextual_weight is -0.2"),
            ({"contextual_weight": 0.95, "contrastive_weight": "remainder"}, "below 0"),
            ({"contrastive_weight": -0.1}, "contrastive_weight must be at least 0"),
            ({"contrastive_weight": "rest"}, "contrastive_weight must be a finite number"),
            ({"regularizer_weight": -1.0}, "regularizer_weight must be at least 0"),
        ],
    )
    def test_refused_at_construction(self, arguments: dict[str, Any], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            ContextualLoss(**arguments)

    def test_similarity_refuses_what_is_no_similarity_matrix(self) -> None:
        with pytest.raises(ValueError, match="square"):
            contextual_similarity(torch.eye(5)[:4], 2, 0.05)
        with pytest.raises(ValueError, match="floating point"):
            contextual_similarity(torch.eye(5).long(), 2, 0.05)
        with pytest.raises(ValueError, match="fewer than k = 8"):
            contextual_similarity(torch.eye(5), 8, 0.05)


class TestNumerics:
    @settings(deadline=None, derandomize=True, max_examples=60)
    @given(data=BATCHES, options=OPTIONS, seed=st.integers(0, 1000))
    def test_order_of_the_batch_does_not_matter(self, data: Any, options: dict[str, Any], seed: int) -> None:
        embeddings, labels = data
        assume(far_from_edges(embeddings, options["k"], options["epsilon"], 1e-12))
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        loss = ContextualLoss(**WEIGHTS, **options)
        plain = value_and_gradient(loss, embeddings, labels)
        permuted = value_and_gradient(loss, embeddings[order], labels[order])
        assert relative(permuted[0], plain[0]) < 1e-9
        assert relative(permuted[1], plain[1][order]) < 1e-8

    @settings(deadline=None, derandomize=True, max_examples=60)
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
        before = torch.get_float32_matmul_precision()
        try:
            torch.set_float32_matmul_precision("medium")
            reduced = value_and_gradient(ContextualLoss(), embeddings, labels)
            assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"  # type: ignore[attr-defined]
        finally:
            torch.set_float32_matmul_precision(before)
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
