"""Noticing at once, and cheaply, that a run cannot come to anything."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ctxtune.errors import RunFailed

CHECK_EVERY = 50
"""Steps between two reads of the flag: reading it waits for the device."""
MEMORY_ERRORS = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED")
"""In the text of a plain RuntimeError: torch's allocator for the CPU, the CUDA driver, and status codes of cuBLAS, cuDNN
and the like, which allocate past torch. `torch.OutOfMemoryError` is that of torch's own allocator on a GPU only."""
SMALLER_STEPS = "take a smaller one, optimizer.micro_batch, a smaller image.train_crop"
SMALLER_MODEL = "take a smaller one"
SMALLEST_SCALE = 1.0
"""A loss scale below this means that gradients overflow whatever is done."""


class FiniteFlag:
    """A flag on the device that any non-finite loss or embedding raises; read every `CHECK_EVERY` steps.

    Gradients are not looked at: that they overflow now and then under loss scaling is normal, the scaler then leaves
    the step out. In other precisions a gradient that is not finite shows in the next step's embeddings.
    """

    def __init__(self, device: torch.device) -> None:
        self._finite = torch.ones((), dtype=torch.bool, device=device)

    def update(self, loss: Tensor, embeddings: Tensor) -> None:
        """Note whether the loss () and the embeddings (n, d) of this step are finite; does not wait for the device."""
        self._finite &= torch.isfinite(loss.detach()) & torch.isfinite(embeddings.detach()).all()

    def check(self, epoch: int) -> None:
        """Raise `RunFailed` if any step since the start was not finite. Waits for the device."""
        if not bool(self._finite):
            raise non_finite(epoch)


def non_finite(epoch: int) -> RunFailed:
    """The failure of a run whose loss or embeddings were not finite in an epoch, counted from 0."""
    return RunFailed("non_finite", f"the loss or an embedding was not finite in epoch {epoch + 1}")


def check_scale(scaler: torch.amp.GradScaler, epoch: int) -> None:
    """Raise `RunFailed` if the loss scale has fallen so low that float16 cannot hold the gradients."""
    if scaler.is_enabled() and scaler.get_scale() < SMALLEST_SCALE:
        raise RunFailed(
            "loss_scale", f"the loss scale fell below 1 in epoch {epoch + 1}; take precision bfloat16 or float32"
        )


def check_embeddings(embeddings: Tensor, epoch: int) -> None:
    """Raise `RunFailed` if embeddings (n, d) are not finite or have collapsed to one point."""
    if not bool(torch.isfinite(embeddings).all()):
        raise RunFailed("non_finite", f"embeddings are not finite at the evaluation after epoch {epoch}")
    norms = embeddings.norm(dim=1)
    if not bool((norms > 0).all()):
        raise RunFailed("collapse", f"an embedding is the zero vector at the evaluation after epoch {epoch}")
    directions = embeddings / norms[:, None]
    spread = (directions - directions.mean(0)).norm(dim=1).max()
    if float(spread) < 1e-3:
        raise RunFailed("collapse", f"all embeddings point the same way at the evaluation after epoch {epoch}")


@contextmanager
def memory_errors_named(setting: str, value: object, remedy: str = SMALLER_STEPS) -> Iterator[None]:
    """Turn memory errors inside, of a GPU or of the machine, into a `RunFailed` that says which setting to change."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(error, setting, value, remedy) from None
    except RuntimeError as error:
        if not any(words in str(error) for words in MEMORY_ERRORS):
            raise
        raise _out_of_memory(error, setting, value, remedy) from None


def _out_of_memory(error: BaseException, setting: str, value: object, remedy: str) -> RunFailed:
    details = str(error).strip().splitlines()
    return RunFailed(
        "out_of_memory",
        f"the device ran out of memory with {setting} {value}; {remedy}, or more GPU per trial (resources.gpus). "
        f"{details[0] if details else ''}".rstrip(),
    )
