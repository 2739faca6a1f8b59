"""Losses from papers against the numbers that their authors' published code gives for the same input.

The numbers come from the code beside each paper (RecallatK_surrogate, HIST, hyp_metric, Ranking-based-Instance-
Selection, proxynca_pp), run once in float64 on `inputs()`; none of that code is here. PFML has no published code: it is
held to its formula, written out.
"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ctxtune.losses import TrainingLoss, build_loss
from ctxtune.losses.hyperbolic import HyperbolicDistance
from ctxtune.losses.hypergraph import HistLoss
from ctxtune.losses.noise_filter import NoiseFilter
from ctxtune.losses.potential_field import PotentialFieldLoss
from tests.helpers.losses import batch, training_loss, value_and_gradient


def counted(*shape: int) -> Tensor:
    return torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape)


def inputs() -> tuple[Tensor, Tensor]:
    i = counted(16, 8)
    return torch.sin(1.7 * i) + 0.5 * torch.cos(0.3 * i * i.sqrt()), torch.arange(16) // 4


class TestRecallAtK:
    @pytest.mark.parametrize(
        ("rank_temperature", "cutoff_temperature", "value", "length", "entry"),
        [
            (0.01, 1.0, 0.6679800500750388, 0.048618447531292, 0.0013113605734103224),
            (0.2, 0.5, 0.6821728697224765, 0.02939956400479945, 0.0008028732556164275),
        ],
    )
    def test_without_mixing(
        self, rank_temperature: float, cutoff_temperature: float, value: float, length: float, entry: float
    ) -> None:
        loss = build_loss(
            "recall_at_k",
            rank_temperature=rank_temperature,
            cutoff_temperature=cutoff_temperature,
            mixing=False,
        )
        found, gradient = value_and_gradient(loss, *inputs())
        assert float(found) == pytest.approx(value, rel=1e-9)
        assert float(gradient.norm()) == pytest.approx(length, rel=1e-9)
        assert float(gradient[3, 2]) == pytest.approx(entry, rel=1e-9)

    def test_with_mixing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch, "rand", lambda *shape, **kind: torch.full(shape, 0.3, **kind))
        loss = build_loss("recall_at_k", cutoffs=[1, 2, 4, 8], rank_temperature=0.05)
        assert float(loss(*inputs())) == pytest.approx(0.7101780625848508, rel=1e-9)

    @pytest.mark.slow  # checkpoints import torch's compiler: seconds
    def test_blocks_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loss = build_loss("recall_at_k", rank_temperature=0.1, mixing=False)
        whole = value_and_gradient(loss, *inputs())
        monkeypatch.setattr("ctxtune.losses.recall_at_k._MOST_VALUES", 100)
        torch.testing.assert_close(value_and_gradient(loss, *inputs()), whole)

    def test_mixing_draws_new_shares(self) -> None:
        loss = build_loss("recall_at_k", rank_temperature=0.1)
        torch.manual_seed(0)
        first, second = float(loss(*inputs())), float(loss(*inputs()))
        torch.manual_seed(0)
        assert float(loss(*inputs())) == first != second

    def test_cutoffs_that_are_none(self) -> None:
        for cutoffs in ([], [0], [2.5]):
            with pytest.raises(ValueError, match="cutoffs"):
                build_loss("recall_at_k", cutoffs=cutoffs)


class TestHist:
    @pytest.mark.parametrize(
        ("labels", "distribution", "network", "gradients"),
        [
            (
                [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3],
                7.515703473225791,
                1.4166248397230714,
                (6.455403523173268, 7.228777468206735, 4.855362109508006, 0.14067048877144905),
            ),
            (
                [0, 0, 1, 1, 3, 3, 3, 3, 0, 1, 0, 1, 3, 0, 1, 1],
                11.015554390429946,
                1.4736625754560055,
                (7.9906084559491495, 10.935607963767058, 8.353945555655391, 0.15289898821549822),
            ),
        ],
        ids=["every class", "a class missing"],
    )
    def test_value_and_gradients(
        self, labels: list[int], distribution: float, network: float, gradients: tuple[float, ...]
    ) -> None:
        loss = HistLoss(4, 8, network_width=6).double()
        with torch.no_grad():
            loss.means.copy_(torch.cos(counted(4, 8)))
            loss.log_variances.copy_(torch.sin(2.1 * counted(4, 8)))
            parts = loss.network
            order = [parts.first.weight, parts.first.bias, parts.norm.weight, parts.norm.bias]
            for place, parameter in enumerate([*order, parts.second.weight, parts.second.bias]):
                parameter.copy_(0.5 * torch.sin(0.9 * counted(*parameter.shape) + place))
        embeddings = inputs()[0].requires_grad_(True)
        value = loss(embeddings, torch.tensor(labels))
        assert float(value.detach()) == pytest.approx(distribution + network, rel=1e-9)
        wanted = torch.autograd.grad(value, [embeddings, loss.means, loss.log_variances, parts.first.weight])
        assert [float(gradient.norm()) for gradient in wanted] == pytest.approx(gradients, rel=1e-7)


class TestHyperbolic:
    @pytest.mark.parametrize(
        ("curvature", "clip_radius", "value", "length"),
        [(0.1, 2.3, 21.33553757132445, 10.485718501588313), (1.0, 1.5, 14.191472942535377, 8.69090528551964)],
    )
    def test_two_images_a_class(self, curvature: float, clip_radius: float, value: float, length: float) -> None:
        # The authors add 1e-5 to norms and denominators.
        loss = build_loss("hyperbolic", curvature=curvature, clip_radius=clip_radius)
        found, gradient = value_and_gradient(loss, inputs()[0], torch.arange(16) // 2)
        assert 2.0 * float(found) == pytest.approx(value, rel=2e-4)
        assert 2.0 * float(gradient.norm()) == pytest.approx(length, rel=2e-3)

    def test_distances(self) -> None:
        rows = inputs()[0]
        found = HyperbolicDistance(1.0, 1.5)(rows[:2], rows[2:4])
        wanted = torch.tensor([[5.6725, 5.8579], [4.7141, 5.5644]], dtype=torch.float64)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=0.0)
        assert torch.equal(HyperbolicDistance(1.0, 1.5).pairwise_distance(rows[:2], rows[:2]), torch.zeros(2).double())

    def test_from_the_origin_is_twice_the_length(self) -> None:
        # The exponential map at the origin keeps directions; a vector's length is half the distance.
        rows = 0.4 * inputs()[0]
        found = HyperbolicDistance(0.5, 10.0)(torch.zeros(1, 8, dtype=torch.float64), rows)
        torch.testing.assert_close(found[0], 2.0 * rows.norm(dim=1))

    def test_near_the_rim_in_float32(self) -> None:
        rows = 5.0 * functional.normalize(inputs()[0], dim=1)
        distance = HyperbolicDistance(4.0, 10.0)
        torch.testing.assert_close(distance(rows.float()).double(), distance(rows), rtol=1e-3, atol=1e-4)


def test_proxy_nca_plus_plus() -> None:
    loss = build_loss("proxy_nca_plus_plus", num_classes=4, embedding_dim=8).double()
    with torch.no_grad():
        next(loss.parameters()).copy_(torch.cos(counted(4, 8)))
    value, gradient = value_and_gradient(loss, *inputs())
    assert float(value) == pytest.approx(2.6196742212446473, rel=1e-9)
    assert float(gradient.norm()) == pytest.approx(2.435010569916943, rel=1e-9)


class TestPotentialField:
    @pytest.mark.parametrize(("decay", "radius"), [(4.0, 0.2), (2.0, 0.9)])
    def test_formula(self, decay: float, radius: float) -> None:
        loss = PotentialFieldLoss(4, 8, proxies_per_class=2, decay=decay, radius=radius).double()
        embeddings, labels = inputs()
        points = functional.normalize(torch.cat([embeddings, loss.proxies.detach()]), dim=1)
        classes = [*labels.tolist(), 0, 0, 1, 1, 2, 2, 3, 3]
        energy = 0.0
        for i, point in enumerate(points):
            for j, other in enumerate(points):
                apart = float((point - other).norm())
                if i != j and classes[i] == classes[j]:
                    energy -= (radius / max(apart, radius)) ** decay
                elif i != j:
                    energy += (radius / min(apart, radius)) ** decay
        assert float(loss(embeddings, labels)) == pytest.approx(energy / (24 * 23), rel=1e-9)

    def test_forces(self) -> None:
        # Friends attract from beyond the radius only, strangers repel within it only.
        def force(angle: float, same: bool) -> float:
            loss = PotentialFieldLoss(2, 2, proxies_per_class=1, radius=0.5).double()
            with torch.no_grad():
                loss.proxies.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
            turn = torch.tensor(angle, dtype=torch.float64, requires_grad=True)
            point = torch.stack([turn.cos(), turn.sin()]).unsqueeze(0)
            loss(point, torch.tensor([0 if same else 1])).backward()
            assert turn.grad is not None
            return float(turn.grad)

        near, far = 0.3, 0.8
        assert force(near, same=True) == 0.0 < force(far, same=True)
        assert force(near, same=False) < 0.0
        assert force(far, same=False) < 0.0  # the proxy of its own class, behind it, attracts
        assert force(1.2, same=True) < force(far, same=True)


class TestNoiseFilter:
    KEPT = (
        (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1),
        (1, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 0),
        (1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1),
        (1, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1),
        (1, 1, 1, 1, 0, 1, 1, 1, 0, 1, 0, 1),
        (1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1),
    )

    def test_six_batches(self) -> None:
        keep = NoiseFilter(4, 8, noise_rate=0.25, window=2, size=1000).double()
        base = torch.cos(counted(4, 8) * 1.3)
        for step, wanted in enumerate(self.KEPT):
            labels = (torch.arange(12) + step) % 4
            place = counted(12, 8) + 96 * step
            wrong = (torch.arange(12) % 5 == step % 5).long()
            rows = base[(labels + wrong) % 4] + 1.2 * torch.sin(place * place * 0.37)
            assert keep(functional.normalize(rows, dim=1), labels).long().tolist() == list(wanted)
        assert keep.thresholds.sort().values.tolist() == pytest.approx([0.27763969811068556, 0.3275239315955221])

    def test_finds_wrong_labels(self) -> None:
        keep, caught, lost = NoiseFilter(8, 16, noise_rate=0.25, window=5, size=500), 0, 0
        for step in range(12):
            embeddings, labels = batch(32, spread=0.3, dtype=torch.float32)
            wrong = torch.rand(32, generator=torch.Generator().manual_seed(step)) < 0.2
            kept = keep(embeddings, torch.where(wrong, (labels + 3) % 8, labels))
            caught, lost = caught + int((wrong & ~kept).sum()), lost + int((wrong & kept).sum())
        assert caught > 4 * lost

    def test_what_a_loss_sees_and_tells(self) -> None:
        loss = training_loss(name="contrastive", noise_filter={"noise_rate": 0.25, "size": 64})
        assert isinstance(loss, TrainingLoss)
        embeddings, labels = batch(32, dtype=torch.float32)
        first, terms = loss(embeddings, labels)
        assert terms["loss_kept_share"] == 1.0
        assert first == build_loss("contrastive")(embeddings, labels)
        wrong = labels.clone()
        wrong[:4] = (labels[:4] + 3) % 8
        kept = _copy(loss)(embeddings, wrong)
        value, terms = loss(embeddings, wrong)
        assert value == kept
        assert 0.25 <= float(terms["loss_kept_share"]) < 1.0

    def test_goes_on_from_its_state(self) -> None:
        loss = training_loss(name="contrastive", noise_filter={"noise_rate": 0.3, "size": 40, "window": 3})
        batches = [batch(32, spread=2.0, seed=seed, dtype=torch.float32) for seed in range(6)]
        for found in batches[:3]:
            loss(*found)
        other = training_loss(name="contrastive", noise_filter={"noise_rate": 0.3, "size": 40, "window": 3})
        other.load_state_dict(loss.state_dict())
        for found in batches[3:]:
            assert torch.equal(loss(*found)[0], other(*found)[0])

    @pytest.mark.parametrize(("noise_rate", "least"), [(0.99, 8), (0.0, 32)])
    def test_never_empties_a_batch(self, noise_rate: float, least: int) -> None:
        keep = NoiseFilter(8, 16, noise_rate=noise_rate, window=3, size=64)
        for seed in range(8):
            assert int(keep(*batch(32, spread=3.0, seed=seed, dtype=torch.float32)).sum()) >= least

    def test_needs_sizes(self) -> None:
        with pytest.raises(ValueError, match="noise filter needs num_classes"):
            build_loss("contrastive", noise_filter={})


def _copy(loss: TrainingLoss) -> Any:
    """Applies the filter of `loss`, as it is now, and the contrastive loss to what is left."""
    state: nn.Module = training_loss(name="contrastive", noise_filter={"noise_rate": 0.25, "size": 64})
    state.load_state_dict(loss.state_dict())
    keep = next(part for part in state.modules() if isinstance(part, NoiseFilter))

    def value(embeddings: Tensor, labels: Tensor) -> Tensor:
        kept = keep(embeddings, labels)
        found: Tensor = build_loss("contrastive")(embeddings[kept], labels[kept])
        return found

    return value
