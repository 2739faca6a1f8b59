"""Number and memory formats of the forward pass."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["float32", "bfloat16", "float16"]


def resolve_precision(asked: str, device: torch.device) -> Precision:
    """``auto`` made definite: bfloat16 where the GPU has it, else float16 with loss scaling; float32 on a CPU.

    A sweep resolves it once, for all its runs.
    """
    if asked != "auto":
        return asked  # type: ignore[return-value]
    if device.type != "cuda":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def autocast(precision: Precision, device: torch.device, *, cached: bool = True) -> AbstractContextManager[object]:
    """The autocast context of a precision; `cached`: weights are cast once within it, not at each use."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision), cache_enabled=cached)


def channels_last(batch: Tensor) -> Tensor:
    """Images (b, 3, h, w) in the memory format that convolutions like best; features (b, channels) as they are."""
    return batch.to(memory_format=torch.channels_last) if batch.ndim == 4 else batch


def gradient_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """The loss scaler: at work for float16 only."""
    return torch.amp.GradScaler(device.type, enabled=precision == "float16")
