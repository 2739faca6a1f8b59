"""The machine and its ceilings: what a copy and a matrix product reach here, beside which other figures can be read."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess

import torch

from gpu_checks.measuring import compare
from gpu_checks.report import Report, Scale


def machine(scale: Scale, report: Report) -> None:
    """Names, versions, bandwidths and rates."""
    device = scale.device
    facts = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": len(os.sched_getaffinity(0)),
        "threads of torch": torch.get_num_threads(),
    }
    if scale.on_gpu:
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "card": properties.name,
            "memory GiB": round(properties.total_memory / 2**30, 1),
            "multiprocessors": properties.multi_processor_count,
            "capability": ".".join(map(str, torch.cuda.get_device_capability(device))),
            "CUDA": torch.version.cuda,
            "cuDNN": torch.backends.cudnn.version(),
            "driver": _driver(),
            "bfloat16": torch.cuda.is_bf16_supported(including_emulation=False),
        }
    for what, value in facts.items():
        report.row("machine", what=what, value=value)
    _copies(scale, report)
    _products(scale, report)


def _driver() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "unknown"
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return answer.stdout.strip() or "unknown"


def _copies(scale: Scale, report: Report) -> None:
    count = scale.pick(2**29, 2**20)
    source = torch.randn(count, device=scale.device)
    target = torch.empty_like(source)
    host = torch.randn(scale.pick(2**26, 2**18), pin_memory=scale.on_gpu)
    there = torch.empty_like(host, device=scale.device)
    seconds = compare(
        {"on the device": lambda: target.copy_(source), "to the device": lambda: there.copy_(host, non_blocking=True)},
        scale.device,
        budget=scale.pick(0.5, 0.05),
    )
    moved = {"on the device": 2 * source.nbytes, "to the device": host.nbytes}  # read and written; over the bus
    for name, taken in seconds.items():
        report.row("copies", what=name, gb_per_second=moved[name] / taken / 1e9)


def _products(scale: Scale, report: Report) -> None:
    size = scale.pick(8192, 256)
    switch = torch.backends.cuda.matmul
    before = switch.fp32_precision
    for name, dtype, mode in (
        ("bfloat16", torch.bfloat16, "ieee"),
        ("float32 in tf32", torch.float32, "tf32"),
        ("float32", torch.float32, "ieee"),
    ):
        switch.fp32_precision = mode
        left, right = (torch.randn(size, size, device=scale.device).to(dtype) for _ in range(2))
        taken = compare({name: lambda left=left, right=right: left @ right}, scale.device, scale.pick(0.4, 0.05))[name]
        report.row("matrix products", what=name, tflop_per_second=2 * size**3 / taken / 1e12)
    switch.fp32_precision = before
