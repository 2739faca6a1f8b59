"""A named loss with its miner, its memory and the contextual term beside it."""

from typing import Any

import torch
from pytorch_metric_learning.losses import BaseMetricLossFunction
from torch import Tensor, nn

from ctxtune.float32_products import full_float32
from ctxtune.losses.checks import check_not_empty
from ctxtune.losses.contextual.loss import ContextualLoss
from ctxtune.losses.memory import ReferenceMemory
from ctxtune.losses.noise_filter import NoiseFilter
from ctxtune.losses.numerics import at_least_float32
from ctxtune.losses.regularizer import similarity_regularizer
from ctxtune.losses.roadmap import RoadmapLoss


class CombinedLoss(BaseMetricLossFunction):
    """other_weight * loss(mined pairs, memory) + contextual_weight * contextual loss.

    Args:
        name: what the term of `loss` is called.
        loss: called with (embeddings, labels), and with indices_tuple, ref_emb, ref_labels where there are any.
        miner: chooses the pairs or triplets that `loss` sees.
        memory: remembers embeddings of earlier batches.
        noise_filter: chooses the items of the batch that everything else sees.
        joint_memory: remembered embeddings join the batch, for losses that know no reference set.
        pairs_with_memory: the loss must be told which pairs are not those of an item with its copy in the memory.
        contextual, contextual_weight: a ContextualLoss with the contextual term alone, and its weight.
        other_weight: the weight of `loss`.
        regularizer_weight, similarity_target: of the similarity regularizer over the batch; none where the weight is 0.
    """

    def __init__(
        self,
        name: str,
        loss: nn.Module,
        *,
        miner: nn.Module | None = None,
        memory: ReferenceMemory | None = None,
        noise_filter: NoiseFilter | None = None,
        joint_memory: bool = False,
        pairs_with_memory: bool = True,
        contextual: ContextualLoss | None = None,
        contextual_weight: float = 0.0,
        other_weight: float = 1.0,
        regularizer_weight: float = 0.0,
        similarity_target: float = 0.3,
    ) -> None:
        super().__init__()
        self.name, self.loss, self.miner, self.memory = name, loss, miner, memory
        self.noise_filter = noise_filter
        self.joint_memory, self.pairs_with_memory = joint_memory, pairs_with_memory
        self.contextual, self.contextual_weight = contextual, contextual_weight
        self.other_weight = other_weight
        self.regularizer_weight, self.similarity_target = regularizer_weight, similarity_target

    def compute_loss(
        self, embeddings: Tensor, labels: Tensor, indices_tuple: Any, ref_emb: Tensor, ref_labels: Tensor
    ) -> dict[str, dict[str, Any]]:
        """Called by `forward`; see `weighted_terms`. Pairs or references from outside go before its own."""
        reference = None if ref_emb is embeddings else (ref_emb, ref_labels)
        total, _ = self.weighted_terms(embeddings, labels, indices_tuple, reference)
        return {"loss": {"losses": total, "indices": None, "reduction_type": "already_reduced"}}

    def weighted_terms(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: tuple[Tensor, ...] | None = None,
        reference: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and its terms by name, unweighted and detached.

        Args:
            embeddings: (n, d); half precision is raised to float32.
            labels: (n,) integers.
            indices_tuple: pairs or triplets in place of the miner's.
            reference: (m, d) and (m,) in place of the memory.

        Raises:
            ValueError: the batch is empty, or too small for the loss.
        """
        check_not_empty(len(embeddings))
        with full_float32(embeddings.device.type):
            embeddings = at_least_float32(embeddings)
            kept = None
            if self.noise_filter is not None and indices_tuple is None and reference is None:
                kept = self.noise_filter(embeddings, labels)
                embeddings, labels = embeddings[kept], labels[kept]
            own_memory = self.memory is not None and reference is None
            if own_memory:
                assert self.memory is not None
                reference = self.memory.take(embeddings, labels)
            inputs = self._inputs(embeddings, labels, indices_tuple, reference, own_memory)
            total, terms = _terms_of(self.name, self.loss, inputs)
            if self.contextual is not None:
                remembered = (None, None) if reference is None else reference
                contextual, beside = self.contextual.weighted_terms(embeddings, labels, None, *remembered)
                total = self.other_weight * total + self.contextual_weight * contextual
                terms |= beside
            if self.regularizer_weight:
                regularizer = similarity_regularizer(embeddings, self.similarity_target)
                total = total + self.regularizer_weight * regularizer
                terms["regularizer"] = regularizer.detach()
            if kept is not None:
                terms["kept_share"] = kept.to(total.dtype).mean()
            return total, terms

    def _inputs(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: tuple[Tensor, ...] | None,
        reference: tuple[Tensor, Tensor] | None,
        own_memory: bool,
    ) -> dict[str, object]:
        """What the named loss is called with."""
        if reference is not None and self.joint_memory:
            if own_memory:
                assert self.memory is not None
                reference = self.memory.earlier(*reference)
            embeddings = torch.cat([embeddings, reference[0].to(embeddings)])
            labels = torch.cat([labels, reference[1].to(labels)])
            reference = None
        inputs: dict[str, object] = {"embeddings": embeddings, "labels": labels}
        if reference is not None:
            inputs["ref_emb"], inputs["ref_labels"] = reference
            if indices_tuple is None and own_memory and self.pairs_with_memory:
                assert self.memory is not None
                indices_tuple = self.memory.pairs(embeddings, labels, *reference)
        elif indices_tuple is None and self.miner is not None:
            indices_tuple = self.miner(embeddings, labels)
        if indices_tuple is not None:
            inputs["indices_tuple"] = indices_tuple
        return inputs


def _terms_of(name: str, loss: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    if isinstance(loss, (ContextualLoss, RoadmapLoss)) and not _computes_otherwise(loss):
        total, terms = loss.weighted_terms(**inputs)
        return total, dict(terms)
    others = {key: value for key, value in inputs.items() if key not in ("embeddings", "labels")}
    total = loss(inputs["embeddings"], inputs["labels"], **others)
    return total, {name: total.detach()}


def _computes_otherwise(loss: ContextualLoss | RoadmapLoss) -> bool:
    """Whether a user's subclass computes its value in a method that `weighted_terms` does not call."""
    ours = ContextualLoss if isinstance(loss, ContextualLoss) else RoadmapLoss
    return any(getattr(type(loss), name) is not getattr(ours, name) for name in ("forward", "compute_loss"))
