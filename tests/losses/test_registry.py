"""The named losses: settings, options, what they go together with, and the trainer's view of them."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from pytorch_metric_learning import distances, losses
from torch import nn

from ctxtune.losses import (
    ContextualLoss,
    LossSettings,
    RegularizerSettings,
    TrainingLoss,
    build_loss,
    loss_names,
)
from tests.helpers.losses import OTHER_VALUES, batch, naive_loss, relative, total, training_loss, value_and_gradient

NAMES = (
    *("contextual", "contrastive", "triplet", "multi_similarity", "proxy_anchor", "proxy_nca", "normalized_softmax"),
    *("cosface", "arcface", "roadmap", "smooth_ap", "softbin_ap", "fast_ap", "ntxent", "n_pair", "supcon", "circle"),
    *("sub_center_arcface", "proxy_nca_plus_plus", "soft_triple", "margin", "hist", "potential_field", "hyperbolic"),
    "recall_at_k",
)
WITH_PROXIES = ("proxy_anchor", "proxy_nca", "normalized_softmax", "cosface", "arcface")
RANKING = ("roadmap", "sup_ap", "smooth_ap", "softbin_ap", "fast_ap", "n_pair")
NO_REGULARIZER = RegularizerSettings()


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
        assert LossSettings(name="proxy_anchor").options() == {"proxies": "class", "margin": 0.1, "alpha": 32.0}
        assert LossSettings(name="proxy_nca").options() == {"proxies": "class", "softmax_scale": 9.0}
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
            ({"name": "contextul"}, "name", 'did you mean "contextual"'),
            ({"name": 3}, "name", "unknown loss: 3"),
            ({"epsilonn": 0.1}, "epsilonn", 'did you mean "epsilon"'),
            ({"regularizer_weight": 0.1}, "regularizer_weight", "unknown option of loss contextual"),
            ({"k": 1}, "k", "greater than or equal to 2"),
            ({"k": 2.5}, "k", "integer"),
            ({"epsilon": float("nan")}, "epsilon", "finite"),
            ({"positive_margin": 1.5}, "positive_margin", "less than or equal to 1"),
            ({"contextual_weight": 1.5}, "", "leaves contrastive_weight below 0"),
            ({"contrastive_weight": "rest"}, "contrastive_weight", "remainder"),
            ({"name": "triplet", "miner": "hardest"}, "miner.name", "unknown miner: 'hardest'"),
            ({"name": "triplet", "miner": {"name": "multi_similarity", "epsilom": 1}}, "miner.epsilom", '"epsilon"'),
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
            ({"name": "contextul"}, 'did you mean "contextual"'),
            ({"name": "contextual", "slop": 3}, 'did you mean "slope"'),
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
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


# For every option of every loss a value that differs from the default.


# Betas start where they stay if they are not learned: `learn_beta` has a test of its own.
OPTIONS = [
    (name, option)
    for name in loss_names()
    for option in LossSettings(name=name).options()
    if (name, option) != ("margin", "learn_beta")
]


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
        if name == "margin" and option == "nu":
            common = {"learn_beta": True}
        plain = training_loss(name=name, **common)
        other = 0.8 if (name, option) == ("margin", "beta") else OTHER_VALUES[option]
        changed = training_loss(name=name, **common, **{option: other})
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

    @pytest.mark.parametrize(
        ("name", "shapes"),
        [
            ("sub_center_arcface", [[16, 24]]),
            ("proxy_nca_plus_plus", [[8, 16]]),
            ("soft_triple", [[16, 80]]),
            ("potential_field", [[120, 16]]),
            ("hist", [[8, 16], [8, 16], [512, 16], [512], [8, 512], [8], [512], [512]]),
        ],
    )
    def test_parameters_of_the_others(self, name: str, shapes: list[list[int]]) -> None:
        loss = training_loss(name=name)
        assert [list(parameter.shape) for parameter in loss.parameters()] == shapes
        total(loss, *batch(32, dtype=torch.float32)).backward()
        assert all(parameter.grad is not None for parameter in loss.parameters())
        with pytest.raises(ValueError, match="needs num_classes and embedding_dim"):
            build_loss(name)

    def test_margin_learns_a_beta_for_each_class(self) -> None:
        loss = training_loss(name="margin", learn_beta=True)
        (betas,) = loss.parameters()
        assert betas.shape == (8,)
        total(loss, *batch(32, dtype=torch.float32)).backward()
        assert betas.grad is not None
        assert betas.grad.abs().max() > 0
        assert not list(training_loss(name="margin").parameters())
        with pytest.raises(ValueError, match=r"learn_beta .* needs num_classes"):
            build_loss("margin", learn_beta=True)

    @pytest.mark.parametrize("name", ["proxy_anchor", "proxy_nca"])
    def test_proxies_by_image_are_as_many_as_images(self, name: str) -> None:
        (weights,) = training_loss(name=name, proxies="image").parameters()
        assert weights.shape == (32, 16)
        with pytest.raises(ValueError, match="needs num_images"):
            build_loss(name, num_classes=8, embedding_dim=16, proxies="image")

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


def test_triplet_distance_is_that_of_normalized_embeddings() -> None:
    loss = build_loss("triplet", miner=None)
    assert isinstance(loss, losses.TripletMarginLoss)
    assert isinstance(loss.distance, distances.LpDistance)
    embeddings, labels = batch(32)
    assert torch.isclose(loss(embeddings, labels), loss(7.0 * embeddings, labels))
