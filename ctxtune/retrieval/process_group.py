"""The processes among which the work is shared."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
import torch.distributed as distributed
from torch import Tensor

Item = TypeVar("Item")


class Processes:
    """The processes of a torch.distributed group, or this process alone."""

    def __init__(self, group: "distributed.ProcessGroup | None" = None) -> None:
        self.group = group
        self.rank = 0 if group is None else distributed.get_rank(group)
        self.number = 1 if group is None else distributed.get_world_size(group)
        # NCCL moves tensors of GPUs only.
        self._through_gpu = group is not None and distributed.get_backend(group) == "nccl"

    def share(self, items: Iterable[Item], first: int = 0) -> Iterator[Item]:
        """Those of the items, the same on every rank and numbered from `first`, that fall to this one."""
        for number, item in enumerate(items, first):
            if number % self.number == self.rank:
                yield item

    def all_reduce(self, tensor: Tensor) -> None:
        """Replace the tensor by its sum over all ranks."""
        if self.number > 1:
            moved = tensor.cuda() if self._through_gpu and not tensor.is_cuda else tensor
            distributed.all_reduce(moved, group=self.group)
            if moved is not tensor:
                tensor.copy_(moved)

    def agree(self, *tensors: Tensor) -> bool:
        """Whether tensors of 64 bits an element, each at least one element long, are the same on all ranks."""
        if self.number == 1:
            return True
        marks = torch.stack([_fingerprint(tensor) for tensor in tensors]).reshape(-1)
        table = torch.zeros(self.number, len(marks), dtype=torch.int64)
        table[self.rank] = marks
        self.all_reduce(table)
        return bool((table == table[0]).all())


def _fingerprint(tensor: Tensor) -> Tensor:
    """Length and two sums of the bits, wrapping around, which no order of addition changes; int64 (3,)."""
    bits = tensor.reshape(-1).view(torch.int64)
    place = torch.arange(1, len(bits) + 1, device=bits.device)
    return torch.stack([torch.tensor(len(bits)), bits.sum().cpu(), (bits * place).sum().cpu()])
