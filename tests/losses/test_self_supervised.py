"""The library's wrapper for two views of each image, around this package's losses."""

import pytest
import torch
from torch import Tensor

from ctxtune.losses import ContextualLoss, CrossBatchMemory, SelfSupervisedLoss, build_loss


def views(items: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    one = torch.randn(items, 8, generator=generator, dtype=torch.float64)
    return one.requires_grad_(), one.detach() + 0.3 * torch.randn(items, 8, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", ["contextual", "roadmap", "smooth_ap", "softbin_ap", "sup_ap", "contrastive"])
def test_it_is_the_loss_of_labels_that_number_the_images(name: str, symmetric: bool) -> None:
    loss = build_loss(name)
    one, other = views()
    found = SelfSupervisedLoss(loss, symmetric=symmetric)(one, other)
    numbers = torch.arange(len(one))
    if symmetric:
        wanted = loss(torch.cat([one, other]), torch.cat([numbers, numbers]))
    else:
        wanted = loss(one, numbers, ref_emb=other, ref_labels=numbers)
    torch.testing.assert_close(found, wanted)
    found.backward()
    assert one.grad is not None and bool(torch.isfinite(one.grad).all()) and bool((one.grad != 0).any())


def test_a_batch_above_the_size_of_the_memory_is_told() -> None:
    memory = CrossBatchMemory(ContextualLoss(), embedding_size=8, memory_size=10)
    one, _ = views(12)
    with pytest.raises(ValueError, match="the memory holds 10 embeddings, fewer than the batch: 12"):
        memory(one, torch.arange(12) % 3)
    mask = torch.arange(12) < 4
    with pytest.raises(ValueError, match="enqueue_mask has 3 entries for 12 embeddings"):
        memory(one, torch.arange(12) % 3, enqueue_mask=mask[:3])
    assert bool(torch.isfinite(memory(one, torch.arange(12) % 3, enqueue_mask=mask)))
