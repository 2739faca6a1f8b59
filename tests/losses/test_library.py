"""The losses inside pytorch-metric-learning: its trainer, wrappers, memory, miners and reducers."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_metric_learning import distances, losses, miners, reducers, regularizers, samplers, trainers
from pytorch_metric_learning.utils import distributed, loss_and_miner_utils
from torch import Tensor, nn

from ctxtune.losses import ContextualLoss, CrossBatchMemory, build_loss, contextual_similarity
from ctxtune.losses.average_precision import SmoothAPLoss, SoftBinAPLoss, SupAPLoss
from ctxtune.losses.roadmap import RoadmapLoss
from tests.helpers.losses import batch, naive_loss, naive_similarity, relative, value_and_gradient
from tests.helpers.ranks import on_two_ranks

WEIGHTS: dict[str, Any] = {"contextual_weight": 0.7, "contrastive_weight": 0.2, "regularizer_weight": 0.3}


class TestTrainer:
    @pytest.mark.parametrize(
        "loss",
        [ContextualLoss(), losses.MultiSimilarityLoss(), build_loss("roadmap")],
        ids=lambda loss: type(loss).__name__,
    )
    def test_learns_in_the_library_s_trainer(self, loss: nn.Module) -> None:
        torch.manual_seed(0)
        images, labels = batch(64, dim=12, spread=1.0, dtype=torch.float32)
        dataset = [(image, int(label)) for image, label in zip(images, labels, strict=True)]
        trunk = nn.Linear(12, 8)
        before = float(loss(trunk(images), labels).detach())
        trainer = trainers.MetricLossOnly(
            models={"trunk": trunk},
            optimizers={"trunk_optimizer": torch.optim.Adam(trunk.parameters(), lr=0.01)},
            batch_size=32,
            loss_funcs={"metric_loss": loss},
            dataset=dataset,
            mining_funcs={},
            sampler=samplers.MPerClassSampler(labels.tolist(), m=4, batch_size=32, length_before_new_iter=64),
            dataloader_num_workers=0,
            iterations_per_epoch=20,
        )
        trainer.train(num_epochs=2)
        assert float(loss(trunk(images), labels).detach()) < before

    def test_embedding_regularizer_of_the_library(self) -> None:
        embeddings, labels = batch(32)
        plain = ContextualLoss()(embeddings, labels)
        regularizer = regularizers.LpRegularizer()
        loss = ContextualLoss(embedding_regularizer=regularizer, embedding_reg_weight=0.5)
        assert torch.isclose(loss(embeddings, labels), plain + 0.5 * regularizer(embeddings))

    def test_copies_and_pickles(self) -> None:
        embeddings, labels = batch(32)
        loss = ContextualLoss(k=6).use_cuda_graphs()
        for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
            assert torch.equal(other(embeddings, labels), loss(embeddings, labels))


class TestReducersAndDistances:
    @pytest.mark.parametrize(
        "reducer", [reducers.MeanReducer(), reducers.MultipleReducers({"loss": reducers.MeanReducer()})]
    )
    def test_reducers_that_mean_the_same(self, reducer: Any) -> None:
        embeddings, labels = batch(32)
        assert torch.isclose(ContextualLoss(reducer=reducer)(embeddings, labels), ContextualLoss()(embeddings, labels))

    def test_reducer_that_does_nothing(self) -> None:
        embeddings, labels = batch(32)
        found = ContextualLoss(reducer=reducers.DoNothingReducer())(embeddings, labels)
        assert torch.equal(found["loss"]["losses"], ContextualLoss()(embeddings, labels))

    @pytest.mark.parametrize(
        "reducer", [reducers.SumReducer(), reducers.AvgNonZeroReducer(), reducers.ThresholdReducer(low=0.1)]
    )
    def test_reducers_that_would_be_passed_over(self, reducer: Any) -> None:
        with pytest.raises(ValueError, match=f"{type(reducer).__name__} would change nothing"):
            ContextualLoss(reducer=reducer)
        with pytest.raises(ValueError, match=f"{type(reducer).__name__} would change nothing"):
            ContextualLoss(reducer=reducers.MultipleReducers({"loss": reducer}))

    def test_other_distances(self) -> None:
        for loss in (ContextualLoss, SmoothAPLoss, SoftBinAPLoss, SupAPLoss, RoadmapLoss):
            with pytest.raises(ValueError, match="CosineSimilarity, not for LpDistance"):
                loss(distance=distances.LpDistance())
        with pytest.raises(ValueError, match="MeanReducer, not SumReducer"):
            RoadmapLoss(reducer=reducers.SumReducer())


def pairs_mask(pairs: tuple[Tensor, ...], rows: int, columns: int) -> Tensor:
    mask = torch.zeros(rows, columns, dtype=torch.bool)
    first, positive, second, negative = pairs if len(pairs) == 4 else (pairs[0], pairs[1], pairs[0], pairs[2])
    mask[first, positive] = True
    mask[second, negative] = True
    return mask


class TestIndicesTuple:
    @pytest.mark.parametrize(
        "miner",
        [miners.MultiSimilarityMiner(epsilon=0.0), miners.TripletMarginMiner(margin=0.05, type_of_triplets="hard")],
    )
    @pytest.mark.parametrize("items", [32, 240])
    def test_narrows_the_contrastive_term_only(self, miner: nn.Module, items: int) -> None:
        embeddings, labels = batch(items, spread=1.5)
        pairs = miner(embeddings, labels)
        mask = pairs_mask(pairs, items, items)
        assert 0 < mask.sum() < items * items / 2
        found = value_and_gradient(ContextualLoss(**WEIGHTS), embeddings, labels, pairs)
        wanted = value_and_gradient(naive_loss, embeddings, labels, allowed=mask, **WEIGHTS)
        assert relative(found[0], wanted[0]) < 1e-9
        assert relative(found[1], wanted[1]) < 1e-8

    def test_nothing_to_narrow(self) -> None:
        embeddings, labels = batch(32, spread=1.5)
        loss = ContextualLoss(1.0)
        with pytest.raises(ValueError, match="leaves out pairs, but the contrastive term"):
            loss(embeddings, labels, miners.BatchHardMiner()(embeddings, labels))
        everything = loss_and_miner_utils.get_all_pairs_indices(labels)
        assert torch.equal(loss(embeddings, labels, everything), loss(embeddings, labels))

    def test_wrong_length(self) -> None:
        embeddings, labels = batch(32)
        with pytest.raises(ValueError, match="3 tensors"):
            ContextualLoss()(embeddings, labels, (torch.zeros(1).long(),) * 2)


class TestReference:
    @pytest.mark.parametrize("items", [24, 240])
    @pytest.mark.parametrize("options", [{}, {"query_expansion": False}, {"step": "sigmoid"}], ids=str)
    def test_neighborhoods_over_batch_and_memory(self, items: int, options: dict[str, Any]) -> None:
        embeddings, labels = batch(items, spread=1.0)
        memory, memory_labels = batch(items + 6, spread=1.0, seed=1)
        order = torch.randperm(2 * items + 6, generator=torch.Generator().manual_seed(0))
        with_copies = torch.cat([embeddings, memory])[order]
        with_copies_labels = torch.cat([labels, memory_labels])[order]

        def ours(joint: Tensor) -> Tensor:
            reference = torch.cat([joint[:items].detach(), joint[items:]])[order]
            loss: Tensor = ContextualLoss(**WEIGHTS, **options)(
                joint[:items], labels, ref_emb=reference, ref_labels=with_copies_labels
            )
            return loss

        assert torch.equal(with_copies, torch.cat([embeddings, memory])[order])
        joint, joint_labels = torch.cat([embeddings, memory]), torch.cat([labels, memory_labels])
        found = value_and_gradient(ours, joint)
        oracle = naive_similarity if items < 100 else contextual_similarity
        wanted = value_and_gradient(
            naive_loss, joint, joint_labels, rows=items, similarity=oracle, **WEIGHTS, **options
        )
        assert relative(found[0], wanted[0]) < 1e-9
        assert relative(found[1], wanted[1]) < 1e-8

    def test_pairs_into_the_memory(self) -> None:
        embeddings, labels = batch(24, spread=1.5)
        memory, memory_labels = batch(30, spread=1.5, seed=1)
        reference, reference_labels = torch.cat([memory, embeddings]), torch.cat([memory_labels, labels])
        pairs = miners.MultiSimilarityMiner(epsilon=0.0)(embeddings, labels, reference, reference_labels)
        found = ContextualLoss(**WEIGHTS)(embeddings, labels, pairs, reference, reference_labels)
        mask = pairs_mask(pairs, 24, 54).roll(24, dims=1)
        joint, joint_labels = torch.cat([embeddings, memory]), torch.cat([labels, memory_labels])
        assert torch.isclose(found, naive_loss(joint, joint_labels, rows=24, allowed=mask, **WEIGHTS))

    def test_a_memory_of_copies_alone_changes_nothing(self) -> None:
        embeddings, labels = batch(24)
        found = ContextualLoss()(embeddings, labels, ref_emb=embeddings.clone(), ref_labels=labels)
        assert torch.isclose(found, ContextualLoss()(embeddings, labels))

    def test_equal_embeddings_of_another_class_are_no_copies(self) -> None:
        embeddings, labels = batch(24)
        found = ContextualLoss()(embeddings, labels, ref_emb=embeddings[:4].clone(), ref_labels=labels[:4] + 100)
        joint, joint_labels = torch.cat([embeddings, embeddings[:4]]), torch.cat([labels, labels[:4] + 100])
        assert torch.isclose(found, naive_loss(joint, joint_labels, rows=24))

    def test_reference_without_labels(self) -> None:
        embeddings, labels = batch(24)
        with pytest.raises(ValueError, match="needs ref_labels"):
            ContextualLoss()(embeddings, labels, ref_emb=embeddings.clone())


class TestCrossBatchMemory:
    def test_the_batch_does_not_meet_its_own_copies(self) -> None:
        memory = CrossBatchMemory(ContextualLoss(**WEIGHTS), embedding_size=16, memory_size=72)
        seen: list[tuple[Tensor, Tensor]] = []
        for step in range(5):
            embeddings, labels = batch(24, spread=1.0, seed=step)
            found = value_and_gradient(memory, embeddings, labels)
            earlier = seen[-2:]
            joint = torch.cat([embeddings, *(e for e, _ in earlier)])
            joint_labels = torch.cat([labels, *(y for _, y in earlier)])
            wanted = value_and_gradient(naive_loss, joint, joint_labels, rows=24, **WEIGHTS)
            assert relative(found[0], wanted[0]) < 1e-9
            assert relative(found[1], wanted[1][:24]) < 1e-8
            seen.append((embeddings, labels))

    def test_pure_contextual_loss(self) -> None:
        memory = CrossBatchMemory(ContextualLoss(1.0), embedding_size=16, memory_size=48)
        for step in range(3):
            assert torch.isfinite(memory(*batch(24, seed=step)))

    def test_beside_a_loss_of_the_library(self) -> None:
        embeddings, labels = batch(24)
        ours = CrossBatchMemory(losses.TripletMarginLoss(), embedding_size=16, memory_size=48)
        theirs = losses.CrossBatchMemory(losses.TripletMarginLoss(), embedding_size=16, memory_size=48)
        assert torch.equal(ours(embeddings, labels), theirs(embeddings, labels))

    def test_goes_on_from_its_state(self, tmp_path: Path) -> None:
        first = CrossBatchMemory(ContextualLoss(), embedding_size=16, memory_size=60)
        for step in range(3):
            first(*batch(24, seed=step))
        torch.save(first.state_dict(), tmp_path / "memory.pt")
        second = CrossBatchMemory(ContextualLoss(), embedding_size=16, memory_size=60)
        second.load_state_dict(torch.load(tmp_path / "memory.pt"))
        # The library keeps what it remembers in float32 until the first batch comes.
        second.embedding_memory = first.embedding_memory.clone()
        assert torch.equal(first(*batch(24, seed=9)), second(*batch(24, seed=9)))


class TestWrappers:
    """The table of docs/losses.md."""

    def test_multiple_losses_with_weights_and_miners(self) -> None:
        embeddings, labels = batch(32)
        ours, theirs = ContextualLoss(**WEIGHTS), losses.TripletMarginLoss()
        found = losses.MultipleLosses([ours, theirs], weights=[0.5, 2.0])(embeddings, labels)
        assert torch.isclose(found, 0.5 * ours(embeddings, labels) + 2 * theirs(embeddings, labels))
        miner = miners.MultiSimilarityMiner()
        found = losses.MultipleLosses({"ours": ours}, miners={"ours": miner})(embeddings, labels)
        assert torch.isclose(found, ours(embeddings, labels, miner(embeddings, labels)))

    @pytest.mark.parametrize("wrapper", [losses.SelfSupervisedLoss, losses.CrossBatchMemory])
    def test_the_library_s_own_refuse_losses_that_they_do_not_know(self, wrapper: Any) -> None:
        sizes = {} if wrapper is losses.SelfSupervisedLoss else {"embedding_size": 16}
        with pytest.raises(Exception, match=f"{wrapper.__name__} not supported for ContextualLoss"):
            wrapper(ContextualLoss(), **sizes)

    @pytest.mark.parametrize("name", ["roadmap", "smooth_ap", "softbin_ap", "sup_ap"])
    def test_losses_of_whole_rankings_take_no_pairs_and_say_so(self, name: str) -> None:
        embeddings, labels = batch(32)
        loss = build_loss(name)
        assert torch.isfinite(losses.MultipleLosses([loss])(embeddings, labels))
        with pytest.raises(ValueError, match="indices_tuple is not supported"):
            losses.MultipleLosses([loss], miners=[miners.MultiSimilarityMiner()])(embeddings, labels)
        with pytest.raises(Exception, match=f"CrossBatchMemory not supported for {type(loss).__name__}"):
            CrossBatchMemory(loss, embedding_size=16)

    def test_two_streams_are_a_batch_and_its_reference(self) -> None:
        torch.manual_seed(0)
        images, labels = batch(32, dim=12, dtype=torch.float32)
        pairs = [(image, image + 0.1, int(label)) for image, label in zip(images, labels, strict=True)]
        trunk = nn.Linear(12, 8)
        before = trunk.weight.detach().clone()
        trainers.TwoStreamMetricLoss(
            models={"trunk": trunk},
            optimizers={"trunk_optimizer": torch.optim.Adam(trunk.parameters(), lr=0.01)},
            batch_size=16,
            loss_funcs={"metric_loss": ContextualLoss()},
            dataset=pairs,
            mining_funcs={},
            dataloader_num_workers=0,
        ).train(num_epochs=1)
        assert torch.isfinite(trunk.weight).all() and not torch.equal(before, trunk.weight)


class TestDistributedLossWrapper:
    def test_one_process(self) -> None:
        embeddings, labels = batch(32)
        wrapped = distributed.DistributedLossWrapper(ContextualLoss())
        with pytest.warns(UserWarning, match="non-distributed"):
            assert torch.equal(wrapped(embeddings, labels), ContextualLoss()(embeddings, labels))

    def test_two_processes_see_one_batch(self, tmp_path: Path) -> None:
        embeddings, labels = batch(32)
        wanted = value_and_gradient(ContextualLoss(), embeddings, labels)
        for rank, found in enumerate(on_two_ranks(_one_of_two, tmp_path)):
            for name in ("loss", "combined", "memory"):
                value, gradient = found[name]
                assert relative(value / 2, wanted[0]) < 1e-9, name
                assert relative(gradient / 2, wanted[1][16 * rank : 16 * rank + 16]) < 1e-8, name
            # With `efficient` each process has the loss of its own items, among those of all.
            order = torch.arange(32).roll(-16 * rank)
            value, _ = found["efficient"]
            assert relative(value / 2, naive_loss(embeddings[order], labels[order], rows=16)) < 1e-9


def _one_of_two(rank: int) -> dict[str, tuple[Tensor, Tensor]]:
    embeddings, labels = batch(32)
    mine = slice(16 * rank, 16 * rank + 16)
    wrapped = {
        "loss": ContextualLoss(),
        "combined": build_loss("contrastive", positive_margin=0.75, contextual={"weight": 0.8}, regularizer_weight=0.1),
        "memory": CrossBatchMemory(ContextualLoss(), embedding_size=16, memory_size=32),
    }
    found = {
        name: value_and_gradient(distributed.DistributedLossWrapper(loss), embeddings[mine], labels[mine])
        for name, loss in wrapped.items()
    }
    efficient = distributed.DistributedLossWrapper(ContextualLoss(), efficient=True)
    return found | {"efficient": value_and_gradient(efficient, embeddings[mine], labels[mine])}
