"""Matrix products in true float32, whatever the process has allowed for training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Inside, float32 products use no TF32 and no bfloat16, and autocast is off; both as before afterwards.

    The error bounds of the approximate similarities hold for IEEE float32 only.
    """
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        # torch 2.9 replaced the one setting by one for each backend, and refuses to read the old one if both were used.
        if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
            settings = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]  # type: ignore[attr-defined]
            before = [setting.fp32_precision for setting in settings]
            try:
                for setting in settings:
                    setting.fp32_precision = "ieee"
                yield
            finally:
                for setting, value in zip(settings, before, strict=True):
                    setting.fp32_precision = value
        else:
            previous = torch.get_float32_matmul_precision()
            try:
                torch.set_float32_matmul_precision("highest")
                yield
            finally:
                torch.set_float32_matmul_precision(previous)
