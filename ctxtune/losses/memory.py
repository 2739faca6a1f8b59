"""Cross-batch memory (Wang et al., CVPR 2020) on pytorch-metric-learning's, with its whole state in `state_dict`."""

from typing import Any

import torch
from pytorch_metric_learning import losses
from torch import Tensor, nn

from ctxtune.losses.contextual.loss import ContextualLoss


class CrossBatchMemory(losses.CrossBatchMemory):
    """pytorch-metric-learning's CrossBatchMemory for ContextualLoss too, resumable.

    The library admits losses by the name of their class and keeps its position outside of `state_dict`; this one adds
    ContextualLoss to the list and saves the position along with the remembered embeddings.
    """

    @staticmethod
    def supported_losses() -> list[str]:
        """The names of the classes that can be wrapped."""
        return [*losses.CrossBatchMemory.supported_losses(), ContextualLoss.__name__, _Remembered.__name__]

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: tuple[Tensor, ...] | None = None,
        enqueue_mask: Tensor | None = None,
    ) -> Tensor:
        """As the library's, which only asserts what is checked here.

        Raises:
            ValueError: the batch is larger than the memory, or the mask has another length than the batch.
        """
        if enqueue_mask is not None and len(enqueue_mask) != len(embeddings):
            raise ValueError(f"enqueue_mask has {len(enqueue_mask)} entries for {len(embeddings)} embeddings")
        check_fits(self, len(embeddings) if enqueue_mask is None else int(enqueue_mask.sum()))
        loss: Tensor = super().forward(embeddings, labels, indices_tuple, enqueue_mask)
        return loss

    def get_extra_state(self) -> dict[str, object]:
        """Position and fill of the memory."""
        return {"queue_idx": self.queue_idx, "has_been_filled": self.has_been_filled}

    def set_extra_state(self, state: dict[str, object]) -> None:
        """Restore what `get_extra_state` gave."""
        self.queue_idx, self.has_been_filled = state["queue_idx"], state["has_been_filled"]


def check_fits(memory: losses.CrossBatchMemory, items: int) -> None:
    """Raise ValueError where a batch of so many items is larger than a memory."""
    if items > memory.memory_size:
        raise ValueError(
            f"the memory holds {memory.memory_size} embeddings, fewer than the batch: {items}; make memory_size (in a file "
            "loss.memory.size) at least as large"
        )


class _Remembered(nn.Module):
    """Stands for the wrapped loss where the memory is asked for references only."""


class ReferenceMemory(CrossBatchMemory):
    """The memory without a loss: takes a batch in, and says what to compare it with.

    Args:
        embedding_dim: width of the embeddings.
        size: number of embeddings that are remembered.
        start_step: number of calls of `take` that only wait.
        miner: chooses the pairs between batch and memory; None for all of them.
    """

    embedding_memory: Tensor
    label_memory: Tensor

    def __init__(self, embedding_dim: int, size: int, start_step: int, miner: nn.Module | None) -> None:
        super().__init__(_Remembered(), embedding_size=embedding_dim, memory_size=size, miner=miner)
        self.start_step = start_step
        self.steps = 0

    def take(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor] | None:
        """Remember a batch (n, d), (n,); what is remembered now, this batch included, or None before `start_step`.

        Raises:
            ValueError: the batch is larger than the memory.
        """
        check_fits(self, len(embeddings))
        self.steps += 1
        if self.steps <= self.start_step:
            return None
        self.embedding_memory = self.embedding_memory.to(embeddings)
        self.label_memory = self.label_memory.to(labels)
        self.add_to_memory(embeddings, labels, len(embeddings))
        filled = self.memory_size if self.has_been_filled else self.queue_idx
        return self.embedding_memory[:filled], self.label_memory[:filled]

    def pairs(
        self, embeddings: Tensor, labels: Tensor, remembered: Tensor, remembered_labels: Tensor
    ) -> tuple[Tensor, ...]:
        """The pairs between batch and memory, without those of an item with its own copy."""
        result: tuple[Tensor, ...] = self.create_indices_tuple(
            embeddings, labels, remembered, remembered_labels, None, True
        )
        return result

    def earlier(self, remembered: Tensor, remembered_labels: Tensor) -> tuple[Tensor, Tensor]:
        """What was remembered before the batch that `take` took in last."""
        kept = torch.ones(self.memory_size, dtype=torch.bool, device=remembered.device)
        kept[self.curr_batch_idx] = False
        kept = kept[: len(remembered)]
        return remembered[kept], remembered_labels[kept]

    def get_extra_state(self) -> dict[str, object]:
        """Position, fill and age of the memory."""
        return {**super().get_extra_state(), "steps": self.steps}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` gave."""
        super().set_extra_state(state)
        self.steps = state["steps"]
