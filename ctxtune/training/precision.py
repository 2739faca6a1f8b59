"""Number and memory formats: which one the forward pass runs in, and whether float32 products on CUDA may take TF32."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

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


def allow_tf32(allowed: bool) -> None:
    """Let float32 products and convolutions on CUDA take TF32 (10 bits of mantissa), or not.

    Losses and scores switch it off for themselves, whatever is said here.
    """
    matmul: Any = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):  # PyTorch 2.9 and later; the older switches must not be mixed with it
        matmul.fp32_precision = "tf32" if allowed else "ieee"
        convolution: Any = torch.backends.cudnn
        convolution.conv.fp32_precision = "tf32" if allowed else "ieee"
    else:
        matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed
