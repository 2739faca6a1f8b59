"""Float32 products in fewer bits, as a training script may have asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def reduced_products() -> Iterator[None]:
    """Inside, float32 products may run in bfloat16 on a CPU and in TF32 on a GPU.

    By the switches of each backend where torch has them (2.9 and later): it refuses to mix these with
    `torch.set_float32_matmul_precision`, and training uses them.
    """
    switches: list[tuple[Any, str]] = [(torch.backends.mkldnn.matmul, "bf16"), (torch.backends.cuda.matmul, "tf32")]
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
        return
    kept = [switch.fp32_precision for switch, _ in switches]
    for switch, precision in switches:
        switch.fp32_precision = precision
    try:
        yield
        assert [switch.fp32_precision for switch, _ in switches] == [precision for _, precision in switches]
    finally:
        for (switch, _), precision in zip(switches, kept, strict=True):
            switch.fp32_precision = precision
