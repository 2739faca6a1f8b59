"""Miners, and losses that remember earlier batches."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses, miners
from torch import nn

from ctxtune.losses import (
    ContextualLoss,
    build_loss,
    loss_names,
)
from tests.helpers.losses import OTHER_VALUES, batch, relative, total, training_loss, value_and_gradient


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
