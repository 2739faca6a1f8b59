"""How exactly float32 matrix products are computed: the one place that knows torch's switches.

PyTorch 2.9 replaced the one setting of the process by one for each backend, and refuses to read the old one once the new
ones were written.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch

FULL = ("ieee", "highest", "none")
"""Values of either kind of switch under which products take neither TF32 nor bfloat16."""
_BY_BACKEND = hasattr(torch.backends.cuda.matmul, "fp32_precision")


def full_float32(*device_types: str) -> AbstractContextManager[None]:
    """Inside, products on these kinds of device ("cpu", "cuda") are IEEE float32 and autocast is off.

    Both are as before afterwards. Where nothing has to be changed, nothing is: that costs a few microseconds.
    """
    lowered = [kind for kind in device_types if _precision(kind) not in FULL]
    autocast = [kind for kind in device_types if torch.is_autocast_enabled(kind)]
    return _switched(lowered, autocast) if lowered or autocast else nullcontext()


def allow_tf32(allowed: bool) -> None:
    """Let float32 products and convolutions on CUDA take TF32 (10 bits of mantissa), or not.

    Losses and scores switch it off for themselves, whatever is said here.
    """
    if _BY_BACKEND:
        _set_precision("cuda", "tf32" if allowed else "ieee")
        convolution: Any = torch.backends.cudnn
        convolution.conv.fp32_precision = "tf32" if allowed else "ieee"
    else:
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed


@contextmanager
def _switched(lowered: Sequence[str], autocast: Sequence[str]) -> Iterator[None]:
    before = [_precision(kind) for kind in lowered]
    with ExitStack() as stack:
        for kind in autocast:
            stack.enter_context(torch.autocast(kind, enabled=False))
        try:
            for kind in lowered:
                _set_precision(kind, "ieee")
            yield
        finally:
            for kind, value in zip(lowered, before, strict=True):
                _set_precision(kind, value)


def _precision(device_type: str) -> str:
    if not _BY_BACKEND:
        return torch.get_float32_matmul_precision()
    return str(_switch(device_type).fp32_precision)


def _set_precision(device_type: str, value: str) -> None:
    if _BY_BACKEND:
        _switch(device_type).fp32_precision = value
    else:
        torch.set_float32_matmul_precision("highest" if value == "ieee" else value)


def _switch(device_type: str) -> Any:
    backend: Any = torch.backends.cuda if device_type == "cuda" else torch.backends.mkldnn
    return backend.matmul
