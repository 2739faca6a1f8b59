"""The named losses: settings, options, what they go together with, and the trainer's view of them."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from losses_support import batch, naive_loss, relative, value_and_gradient
from pydantic import ValidationError
from pytorch_metric_learning import distances, losses, miners
from torch import Tensor, nn

from ctxtune.losses import (
    ContextualLoss,
    LossSettings,
    RegularizerSettings,
    TrainingLoss,
    build_loss,
    loss_names,
)

NAMES = (
    *("contextual", "contrastive", "triplet", "multi_similarity", "proxy_anchor", "proxy_nca", "normalized_softmax"),
    *("cosface", "arcface", "roadmap", "smooth_ap", "softbin_ap", "fast_ap", "ntxent", "n_pair", "supcon", "circle"),
)
WITH_PROXIES = ("proxy_anchor", "proxy_nca", "normalized_softmax", "cosface", "arcface")
RANKING = ("roadmap", "sup_ap", "smooth_ap", "softbin_ap", "fast_ap", "n_pair")
NO_REGULARIZER = RegularizerSettings()


def training_loss(weight: float = 0.0, **loss: Any) -> TrainingLoss:
    torch.manual_seed(0)
    return TrainingLoss(LossSettings(**loss), RegularizerSettings(weight=weight), num_classes=8, embedding_dim=16)


def total(loss: TrainingLoss, embeddings: Tensor, labels: Tensor) -> Tensor:
    torch.manual_seed(1)  # some miners draw
    return loss(embeddings, labels)[0]


class TestSettings:
    def test_all_are_there(self) -> None:
        assert set(NAMES) <= set(loss_names())

    @pytest.mark.parametrize("name", loss_names())
    def test_resolved_settings_are_plain_data_that_loads_again(self, name: str) -> None:
        settings = LossSettings(name=name, memory={"size": 64})
        plain = settings.model_dump()
        assert LossSettings(**plain) == settings
        assert LossSettings(**plain).model_dump() == plain
        assert _is_plain(plain)
        assert plain["memory"] == {"size": 64, "start_step": 0}

    def test_settings_of_the_paper(self) -> None:
        assert LossSettings().k == 4  # type: ignore[attr-defined]
        assert LossSettings().model_dump()["contextual_weight"] == 0.8
        assert LossSettings(name="contrastive").options() == {"positive_margin": 0.9, "negative_margin": 0.6}
        triplet = LossSettings(name="triplet").model_dump()
        assert triplet["margin"] == 0.05
        assert triplet["miner"] == {"name": "distance_weighted", "cutoff": 0.5, "nonzero_loss_cutoff": 1.4}
        assert LossSettings(name="proxy_anchor").options() == {"margin": 0.1, "alpha": 32.0}
        assert LossSettings(name="proxy_nca").options() == {"softmax_scale": 9.0}
        assert LossSettings(name="normalized_softmax").options() == {"temperature": 0.05}
        assert LossSettings(name="softbin_ap").options() == {"bins": 20}
        roadmap = {"average_precision_weight": 0.5, "temperature": 0.01, "slope": 100.0, "offset": 1.44, "delta": 0.05}
        assert roadmap.items() <= LossSettings(name="roadmap").options().items()

    def test_null_takes_the_miner_away(self) -> None:
        assert LossSettings(name="multi_similarity").miner is not None
        assert LossSettings(name="multi_similarity", miner=None).miner is None

    @pytest.mark.parametrize(
        ("loss", "key", "words"),
        [
            ({"name": "contextul"}, "name", "did you mean 'contextual'"),
            ({"name": 3}, "name", "unknown loss: 3"),
            ({"epsilonn": 0.1}, "epsilonn", "did you mean 'epsilon'"),
            ({"regularizer_weight": 0.1}, "regularizer_weight", "unknown option of loss contextual"),
            ({"k": 1}, "k", "greater than or equal to 2"),
            ({"k": 2.5}, "k", "integer"),
            ({"epsilon": float("nan")}, "epsilon", "finite"),
            ({"positive_margin": 1.5}, "positive_margin", "less than or equal to 1"),
            ({"contextual_weight": 1.5}, "", "leaves contrastive_weight below 0"),
            ({"contrastive_weight": "rest"}, "contrastive_weight", "remainder"),
            ({"name": "triplet", "miner": "hardest"}, "miner.name", "unknown miner: 'hardest'"),
            ({"name": "triplet", "miner": {"name": "multi_similarity", "epsilom": 1}}, "miner.epsilom", "'epsilon'"),
            ({"name": "triplet", "miner": {"cutoff": 1}}, "miner.name", "unknown miner"),
            ({"name": "smooth_ap", "miner": "batch_hard"}, "miner", "takes no miner"),
            ({"contextual": {"k": 4}}, "contextual", "has the contextual term already"),
            ({"name": "triplet", "contextual": {"k": 1}}, "contextual.k", "greater than or equal to 2"),
            ({"name": "triplet", "contextual": {"weight": 1.5}}, "contextual", "leaves other_weight below 0"),
            ({"memory": {"size": 0}}, "memory.size", "greater than or equal to 1"),
        ],
        ids=str,
    )
    def test_refused_with_the_key(self, loss: dict[str, Any], key: str, words: str) -> None:
        with pytest.raises(ValidationError) as caught:
            LossSettings(**loss)
        errors = {
            ".".join(str(part) for part in error["loc"] if part != "float"): error["msg"]
            for error in caught.value.errors()
        }
        assert any(found.startswith(key) and words in message for found, message in errors.items()), errors

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"name": "contextul"}, "did you mean 'contextual'"),
            ({"name": "contextual", "slop": 3}, "did you mean 'slope'"),
            ({"name": "triplet", "regularizer_weight": -1.0}, "regularizer.* greater than or equal to 0|weight"),
            ({"name": "proxy_anchor"}, "needs num_classes and embedding_dim"),
            ({"name": "triplet", "memory": {"size": 8}}, "a memory needs embedding_dim"),
            ({"name": "contextual", "contextual_weight": 1.0, "miner": "batch_hard"}, "miner narrows the contrastive"),
        ],
        ids=str,
    )
    def test_build_loss_refuses_with_a_plain_message(self, arguments: dict[str, Any], words: str) -> None:
        with pytest.raises(ValueError, match=words) as caught:
            build_loss(**arguments)
        assert not isinstance(caught.value, ValidationError)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return value is None or isinstance(value, (bool, int, float, str))


# For every option of every loss a value that differs from the default.
OTHER_VALUES: dict[str, Any] = {
    "k": 6,
    "epsilon": 0.4,
    "slope": 3.0,
    "step": "sigmoid",
    "conjunction": "minimum",
    "overlap": "none",
    "query_expansion": False,
    "detach_overlap_normalizer": False,
    "detach_expansion_normalizer": True,
    "contextual_weight": 0.3,
    "contrastive_weight": 0.7,
    "positive_margin": 0.5,
    "negative_margin": 0.2,
    "margin": 0.3,
    "swap": True,
    "smooth_loss": True,
    "alpha": 3.0,
    "beta": 20.0,
    "base": 0.2,
    "softmax_scale": 2.0,
    "temperature": 0.3,
    "scale": 16.0,
    "offset": 2.0,
    "delta": 0.2,
    "start": 0.1,
    "average_precision_weight": 0.9,
    "bins": 7,
    "num_bins": 5,
    "m": 0.2,
    "gamma": 40.0,
    "cutoff": 1.2,
    "nonzero_loss_cutoff": 1.1,
    "type_of_triplets": "easy",
    "pos_margin": 0.6,
    "neg_margin": 0.5,
    "pos_strategy": "hard",
    "neg_strategy": "hard",
}
OPTIONS = [(name, option) for name in loss_names() for option in LossSettings(name=name).options()]


class TestNamedLosses:
    @pytest.mark.parametrize("name", loss_names())
    def test_learns(self, name: str) -> None:
        embeddings, labels = batch(32, spread=1.0, dtype=torch.float32)
        loss = training_loss(name=name, weight=0.1)
        parameters = nn.Parameter(embeddings.clone())
        optimizer = torch.optim.Adam([parameters, *loss.parameters()], lr=0.05)
        values = []
        for _ in range(15):
            value, terms = loss(parameters, labels)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            values.append(float(value.detach()))
        assert values[-1] < values[0]
        assert float(terms["loss"]) == values[-1]
        assert all(not term.requires_grad for term in terms.values())
        assert "loss_regularizer" in terms

    @pytest.mark.parametrize(("name", "option"), OPTIONS)
    def test_every_option_changes_value_or_gradient(self, name: str, option: str) -> None:
        embeddings, labels = batch(32, spread=1.5)
        common: dict[str, Any] = {"step": "sigmoid"} if name == "contextual" and option == "temperature" else {}
        if name == "triplet" and option == "swap":
            common = {"miner": None}
        plain = training_loss(name=name, **common)
        changed = training_loss(name=name, **common, **{option: OTHER_VALUES[option]})
        first = value_and_gradient(lambda e: total(plain, e, labels), embeddings)
        second = value_and_gradient(lambda e: total(changed, e, labels), embeddings)
        assert relative(second[0], first[0]) > 1e-9 or relative(second[1], first[1]) > 1e-9

    @pytest.mark.parametrize("name", WITH_PROXIES)
    def test_proxies_are_parameters(self, name: str) -> None:
        loss = training_loss(name=name)
        (weights,) = loss.parameters()
        assert sorted(weights.shape) == [8, 16]
        embeddings, labels = batch(32, dtype=torch.float32)
        total(loss, embeddings, labels).backward()
        assert weights.grad is not None
        assert weights.grad.abs().max() > 0
        assert isinstance(build_loss(name, num_classes=8, embedding_dim=16), losses.BaseMetricLossFunction)

    def test_half_precision_leaves_the_proxies_in_float32(self) -> None:
        loss = training_loss(name="proxy_anchor")
        embeddings, labels = batch(32, dtype=torch.bfloat16)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = total(loss, embeddings.requires_grad_(True), labels)
        value.backward()
        assert value.dtype == torch.float32
        assert next(loss.parameters()).dtype == torch.float32

    @pytest.mark.parametrize(
        ("name", "theirs"),
        [
            ("triplet", losses.TripletMarginLoss(margin=0.05)),
            ("multi_similarity", losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5)),
            ("fast_ap", losses.FastAPLoss(num_bins=10)),
            ("ntxent", losses.NTXentLoss(temperature=0.07)),
            ("n_pair", losses.NPairsLoss()),
            ("supcon", losses.SupConLoss(temperature=0.1)),
            ("circle", losses.CircleLoss(m=0.4, gamma=80)),
        ],
    )
    def test_equals_the_library(self, name: str, theirs: nn.Module) -> None:
        embeddings, labels = batch(32)
        options: dict[str, Any] = {} if name in RANKING else {"miner": None}
        ours = value_and_gradient(build_loss(name, **options), embeddings, labels)
        torch.testing.assert_close(ours, value_and_gradient(theirs, embeddings, labels))

    def test_roadmap_is_half_and_half(self) -> None:
        embeddings, labels = batch(32)
        found = build_loss("roadmap")(embeddings, labels)
        contrastive = build_loss("contrastive")(embeddings, labels)
        assert torch.isclose(found, 0.5 * build_loss("sup_ap")(embeddings, labels) + 0.5 * contrastive)

    @pytest.mark.parametrize("name", ["sup_ap", "smooth_ap", "softbin_ap"])
    def test_average_precision_of_a_perfect_and_a_bad_ranking(self, name: str) -> None:
        corners = torch.eye(8, dtype=torch.float64)
        labels = torch.arange(32) // 4
        assert build_loss(name)(corners[labels], labels) < 0.05
        assert build_loss(name)(corners[torch.arange(32) % 8], labels) > 0.5

    def test_smooth_ap_equals_the_library_where_that_is_right(self) -> None:
        # Version 2.9 takes the size of a class for the number of classes: as many classes as images of each.
        embeddings, labels = batch(16)
        order = labels.argsort()
        theirs = losses.SmoothAPLoss(temperature=0.05)(embeddings[order].float(), labels[order])
        ours = build_loss("smooth_ap", temperature=0.05)(embeddings, labels)
        assert torch.isclose(ours, theirs.double(), rtol=1e-5)

    @pytest.mark.parametrize("name", loss_names())
    def test_degenerate_batches(self, name: str) -> None:
        embeddings, labels = batch(12, dtype=torch.float32)
        ones = torch.ones_like(embeddings)
        cases = {
            "one class": (embeddings, torch.zeros_like(labels)),
            "no positives": (embeddings[:8], torch.arange(8)),
            "a class with one image": (embeddings[:9], torch.arange(9) // 4),
            "duplicates": (embeddings[torch.arange(12) // 3], labels),
            "all alike": (ones, labels),
            "zeros": (0.0 * embeddings, labels),
            "one": (embeddings[:1], labels[:1]),
            "none": (embeddings[:0], labels[:0]),
        }
        for case, (found, classes) in cases.items():
            loss = TrainingLoss(LossSettings(name=name), NO_REGULARIZER, num_classes=12, embedding_dim=16)
            try:
                value, gradient = value_and_gradient(lambda e, y=classes, f=loss: total(f, e, y), found)
            except ValueError as error:
                assert case in ("one", "none") or "fewer than k" in str(error), case
                continue
            assert torch.isfinite(value), case
            assert torch.isfinite(gradient).all(), case


class TestMiners:
    @pytest.mark.parametrize(
        ("settings", "theirs"),
        [
            ({"name": "multi_similarity", "epsilon": 0.3}, miners.MultiSimilarityMiner(epsilon=0.3)),
            ("batch_hard", miners.BatchHardMiner()),
            ({"name": "batch_easy_hard", "pos_strategy": "easy"}, miners.BatchEasyHardMiner(neg_strategy="semihard")),
            ({"name": "triplet_margin", "margin": 0.3}, miners.TripletMarginMiner(margin=0.3)),
            ({"name": "pair_margin", "pos_margin": 0.5}, miners.PairMarginMiner(pos_margin=0.5)),
            ("distance_weighted", miners.DistanceWeightedMiner(cutoff=0.5, nonzero_loss_cutoff=1.4)),
        ],
        ids=str,
    )
    def test_the_loss_sees_what_the_miner_chose(self, settings: Any, theirs: nn.Module) -> None:
        embeddings, labels = batch(32, spread=1.5)
        torch.manual_seed(1)
        wanted = losses.TripletMarginLoss(margin=0.05)(embeddings, labels, theirs(embeddings, labels))
        found = total(training_loss(name="triplet", miner=settings), embeddings, labels)
        assert torch.isclose(found, wanted)

    @pytest.mark.parametrize(
        ("miner", "option"),
        [
            ("distance_weighted", "cutoff"),
            ("distance_weighted", "nonzero_loss_cutoff"),
            ("multi_similarity", "epsilon"),
            ("triplet_margin", "margin"),
            ("triplet_margin", "type_of_triplets"),
            ("pair_margin", "pos_margin"),
            ("pair_margin", "neg_margin"),
            ("batch_easy_hard", "pos_strategy"),
            ("batch_easy_hard", "neg_strategy"),
        ],
    )
    def test_every_option_changes_what_is_chosen(self, miner: str, option: str) -> None:
        embeddings, labels = batch(64, per_class=8, dim=8, spread=1.5)
        loss: dict[str, Any] = {"name": "triplet", "margin": 0.5}
        values = [
            total(training_loss(**loss, miner={"name": miner, **options}), embeddings, labels)
            for options in ({}, {option: OTHER_VALUES[option]})
        ]
        assert not torch.isclose(values[0], values[1])

    def test_contextual_with_a_miner(self) -> None:
        embeddings, labels = batch(32, spread=1.5)
        pairs = miners.MultiSimilarityMiner(epsilon=0.0)(embeddings, labels)
        miner = {"name": "multi_similarity", "epsilon": 0.0}
        found = build_loss("contextual", miner=miner)(embeddings, labels)
        assert torch.isclose(found, ContextualLoss()(embeddings, labels, pairs))
        assert not torch.isclose(found, ContextualLoss()(embeddings, labels))


class TestRegularizerAndContextualTerm:
    @pytest.mark.parametrize("name", loss_names())
    def test_added_to_any_loss(self, name: str) -> None:
        embeddings, labels = batch(32)
        similarities = torch.nn.functional.cosine_similarity(embeddings.unsqueeze(1), embeddings, dim=2)
        wanted = (0.3 - similarities.mean()).square()
        with_it, without = training_loss(name=name, weight=0.5), training_loss(name=name)
        torch.manual_seed(1)
        value, terms = with_it(embeddings, labels)
        assert torch.isclose(terms["loss_regularizer"], wanted)
        assert torch.isclose(value, total(without, embeddings, labels) + 0.5 * wanted)

    @pytest.mark.parametrize("name", [name for name in loss_names() if name != "contextual"])
    def test_contextual_beside_any_loss(self, name: str) -> None:
        embeddings, labels = batch(32)
        alone = value_and_gradient(lambda e: total(training_loss(name=name), e, labels), embeddings)
        options = {"k": 6, "epsilon": 0.2, "overlap": "shared"}
        contextual = value_and_gradient(ContextualLoss(1.0, 0.0, 0.0, **options), embeddings, labels)  # type: ignore[arg-type]
        both = training_loss(name=name, contextual={"weight": 0.3, **options})
        found = value_and_gradient(lambda e: total(both, e, labels), embeddings)
        for index in range(2):
            torch.testing.assert_close(found[index], 0.7 * alone[index] + 0.3 * contextual[index])
        assert "loss_contextual" in both(embeddings, labels)[1]

    def test_regularizer_with_a_memory_is_over_the_batch(self) -> None:
        loss = training_loss(0.5, memory={"size": 48})
        for step in range(2):
            embeddings, labels = batch(24, seed=step)
            terms = loss(embeddings, labels)[1]
        similarities = torch.nn.functional.cosine_similarity(embeddings.unsqueeze(1), embeddings, dim=2)
        assert torch.isclose(terms["loss_regularizer"], (0.3 - similarities.mean()).square())

    def test_weight_of_the_other_loss(self) -> None:
        embeddings, labels = batch(32)
        found = build_loss("supcon", contextual={"weight": 2.0, "other_weight": 3.0})(embeddings, labels)
        supcon = build_loss("supcon")(embeddings, labels)
        assert torch.isclose(found, 3.0 * supcon + 2.0 * ContextualLoss(1.0, 0.0, 0.0)(embeddings, labels))

    def test_contextual_and_contrastive_terms(self) -> None:
        embeddings, labels = batch(32)
        value, terms = training_loss(weight=0.1)(embeddings, labels)
        assert set(terms) == {"loss", "loss_contextual", "loss_contrastive", "loss_regularizer"}
        weighted = 0.8 * terms["loss_contextual"] + 0.2 * terms["loss_contrastive"] + 0.1 * terms["loss_regularizer"]
        assert torch.isclose(value, weighted)
        assert torch.isclose(value, naive_loss(embeddings, labels))

    def test_remainder_counts_the_trainer_s_regularizer(self) -> None:
        embeddings, labels = batch(32)
        value = total(
            training_loss(weight=0.15, contextual_weight=0.4, contrastive_weight="remainder"), embeddings, labels
        )
        weights: dict[str, Any] = {"contextual_weight": 0.4, "contrastive_weight": 0.45, "regularizer_weight": 0.15}
        assert torch.isclose(value, naive_loss(embeddings, labels, **weights))

    def test_build_loss_defaults(self) -> None:
        embeddings, labels = batch(32)
        assert isinstance(build_loss("contextual"), ContextualLoss)
        assert torch.equal(build_loss("contextual")(embeddings, labels), ContextualLoss()(embeddings, labels))
        assert torch.isclose(
            build_loss("contextual", regularizer_weight=0.4, similarity_target=0.0)(embeddings, labels),
            ContextualLoss(regularizer_weight=0.4, similarity_target=0.0)(embeddings, labels),
        )


class TestMemory:
    @pytest.mark.parametrize("name", loss_names())
    def test_with_any_loss(self, name: str) -> None:
        loss = training_loss(
            name=name, memory={"size": 64}, contextual=None if name == "contextual" else {"weight": 0.5}
        )
        plain = training_loss(name=name, contextual=None if name == "contextual" else {"weight": 0.5})
        for step in range(4):
            embeddings, labels = batch(24, spread=1.5, seed=step)
            found = value_and_gradient(lambda e, y=labels: total(loss, e, y), embeddings)
            alone = value_and_gradient(lambda e, y=labels: total(plain, e, y), embeddings)
            assert torch.isfinite(found[1]).all()
            assert found[1].abs().max() > 0
        assert relative(found[1], alone[1]) > 1e-3

    def test_pairs_with_the_memory(self) -> None:
        loss = training_loss(name="contrastive", memory={"size": 48})
        first, second = batch(24, seed=0), batch(24, seed=1)
        total(loss, *first)
        found = total(loss, *second)
        reference, reference_labels = torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]])
        similarities = torch.nn.functional.cosine_similarity(second[0].unsqueeze(1), reference, dim=2)
        same = second[1].unsqueeze(1) == reference_labels
        pull = (0.9 - similarities)[same]
        push = (similarities - 0.6)[~same]
        itself = torch.isclose(similarities, torch.ones_like(similarities))
        assert itself.sum() == 24
        assert torch.isclose(found, pull[pull > 1e-9].mean() + push[push > 1e-9].mean())

    def test_remembered_embeddings_join_a_batch_of_proxies(self) -> None:
        loss = training_loss(name="normalized_softmax", memory={"size": 48})
        plain = training_loss(name="normalized_softmax")
        first, second = batch(24, seed=0), batch(24, seed=1)
        total(loss, *first)
        joint = torch.cat([second[0], first[0]]), torch.cat([second[1], first[1]])
        assert torch.isclose(total(loss, *second), total(plain, *joint))

    def test_waits_for_its_start(self) -> None:
        loss = training_loss(memory={"size": 48, "start_step": 2})
        plain = training_loss()
        for step in range(4):
            data = batch(24, spread=1.5, seed=step)
            same = torch.isclose(total(loss, *data), total(plain, *data))
            assert bool(same) == (step <= 2)  # what comes in at the start is all there is to compare with

    def test_goes_on_from_its_state(self, tmp_path: Path) -> None:
        options: dict[str, Any] = {"memory": {"size": 60, "start_step": 1}}
        first = training_loss(**options)
        data = [batch(24, spread=1.5, seed=step, dtype=torch.float32) for step in range(6)]
        for step in range(4):
            total(first, *data[step])
        torch.save(first.state_dict(), tmp_path / "loss.pt")
        second = training_loss(**options)
        second.load_state_dict(torch.load(tmp_path / "loss.pt"))
        for step in (4, 5):
            assert torch.equal(total(first, *data[step]), total(second, *data[step]))

    def test_batch_larger_than_the_memory(self) -> None:
        with pytest.raises(ValueError, match="the memory holds 8 embeddings, fewer than the batch: 24"):
            total(training_loss(memory={"size": 8}), *batch(24))


OWN = """
import torch

class Simple(torch.nn.Module):
    def __init__(self, scale, shift=0.5, norm=torch.nn.Identity()):
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, embeddings, labels):
        return self.scale * (embeddings - self.shift).square().mean()

class WithProxies(torch.nn.Module):
    def __init__(self, num_classes, embedding_size, **others):
        super().__init__()
        self.proxies = torch.nn.Parameter(torch.zeros(num_classes, embedding_size))
        self.others = others

    def forward(self, embeddings, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        self.seen = indices_tuple, ref_emb, ref_labels
        return (embeddings - self.proxies[labels]).square().mean()

def no_class():
    pass
"""


class TestOwnLoss:
    @pytest.fixture(autouse=True)
    def _module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        (tmp_path / "my_own_losses.py").write_text(OWN)
        monkeypatch.syspath_prepend(str(tmp_path))
        yield
        sys.modules.pop("my_own_losses", None)

    def test_options_come_from_its_signature(self) -> None:
        settings = LossSettings(name="my_own_losses:Simple", scale=2.0)
        assert settings.model_dump()["shift"] == 0.5
        assert "norm" not in settings.model_dump()
        embeddings, labels = batch(8)
        value, terms = training_loss(name="my_own_losses:Simple", scale=2.0, shift=0.0)(embeddings, labels)
        assert torch.isclose(value, 2.0 * embeddings.square().mean())
        assert torch.isclose(terms["loss_Simple"], value)

    def test_sizes_miner_memory_and_contextual_term(self) -> None:
        name = "my_own_losses:WithProxies"
        loss = training_loss(0.1, name=name, color="red", miner="batch_hard", memory={"size": 48}, contextual={"k": 2})
        embeddings, labels = batch(24)
        _, terms = loss(embeddings, labels)
        assert {"loss_WithProxies", "loss_contextual", "loss_regularizer"} < set(terms)
        own: Any = next(module for module in loss.modules() if type(module).__name__ == "WithProxies")
        assert own.others == {"color": "red"}
        assert own.proxies.shape == (8, 16)
        assert any(parameter is own.proxies for parameter in loss.parameters())
        indices, reference, reference_labels = own.seen
        assert len(indices) in (3, 4)
        assert torch.equal(reference, embeddings)
        assert torch.equal(reference_labels, labels)

    @pytest.mark.parametrize(
        ("loss", "words"),
        [
            ({"name": "my_own_losses:Missing"}, "has no 'Missing'"),
            ({"name": "my_own_losse:Simple"}, "cannot import 'my_own_losse'"),
            ({"name": "my_own_losses:no_class"}, "no torch.nn.Module class"),
            ({"name": "my_own_losses:"}, "package.module:Class"),
            ({"name": "my_own_losses:Simple"}, "required"),
            ({"name": "my_own_losses:Simple", "scale": 1.0, "shfit": 1.0}, "did you mean 'shift'"),
            ({"name": "my_own_losses:Simple", "scale": 1.0, "miner": "batch_hard"}, "takes no miner"),
        ],
        ids=str,
    )
    def test_refused(self, loss: dict[str, Any], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            LossSettings(**loss)

    def test_a_size_that_nobody_knows(self) -> None:
        with pytest.raises(ValueError, match="needs num_classes"):
            build_loss("my_own_losses:WithProxies")


def test_triplet_distance_is_that_of_normalised_embeddings() -> None:
    loss = build_loss("triplet", miner=None)
    assert isinstance(loss, losses.TripletMarginLoss)
    assert isinstance(loss.distance, distances.LpDistance)
    embeddings, labels = batch(32)
    assert torch.isclose(loss(embeddings, labels), loss(7.0 * embeddings, labels))
