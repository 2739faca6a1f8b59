"""Time, memory and launches, on a GPU by its own events and counters."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

Work = Callable[[], object]
WARM_UPS = 3
SAMPLE_SECONDS = 0.02
"""Calls are timed in groups that take at least this long."""
MOST_SAMPLES = 50
DRIVER_CALLS = ("cudaLaunch", "cuLaunch", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaMemsetAsync")


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Work, calls: int, device: torch.device) -> float:
    """Seconds a call of so many in a row: between two events on a GPU, which see launches that come too late too."""
    if device.type != "cuda":
        started = time.perf_counter()
        for _ in range(calls):
            work()
        return (time.perf_counter() - started) / calls
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    first.record()
    for _ in range(calls):
        work()
    last.record()
    torch.cuda.synchronize(device)
    return first.elapsed_time(last) / 1000 / calls


def compare(
    ways: dict[str, Work], device: torch.device, budget: float = 1.0, warm_ups: int = WARM_UPS
) -> dict[str, float]:
    """Median seconds a call of each way; they take turns for about `budget` seconds each, after a warm-up."""
    calls: dict[str, int] = {}
    for name, work in ways.items():
        seconds_of(work, warm_ups, device)
        calls[name] = max(1, round(SAMPLE_SECONDS / max(seconds_of(work, 1, device), 1e-6)))
    samples: dict[str, list[float]] = {name: [] for name in ways}
    until = time.perf_counter() + budget * len(ways)
    for number in range(MOST_SAMPLES):
        if number >= 3 and time.perf_counter() > until:
            break
        for name, work in ways.items():
            samples[name].append(seconds_of(work, calls[name], device))
    return {name: statistics.median(taken) for name, taken in samples.items()}


def peak_bytes(work: Work, device: torch.device) -> int | None:
    """What torch's allocator holds at most during one call, beyond what it held before; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    torch.cuda.synchronize(device)
    return int(torch.cuda.max_memory_allocated(device) - before)


@dataclass(frozen=True)
class Activity:
    """What one piece of work makes a GPU do.

    `launches`: calls of the driver that start something. `kernels`: what ran on the device, copies included, and
    `busy`, the seconds of it; `wall`: the seconds of the whole, under the profiler.
    """

    launches: int
    kernels: int
    busy: float
    wall: float


def activity(work: Work, device: torch.device) -> Activity | None:
    """Of one call, warmed up already; None on a CPU. The host's own operations are not recorded: they are many."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        started = time.perf_counter()
        work()
        torch.cuda.synchronize(device)
        wall = time.perf_counter() - started
    events = profiler.events() or []
    launches = sum(event.name.startswith(DRIVER_CALLS) for event in events)
    on_device = [
        event
        for event in events
        if event.device_type == DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
    ]
    busy = sum(event.time_range.elapsed_us() for event in on_device) / 1e6
    return Activity(launches, len(on_device), busy, wall)


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Length of the difference over the length of what is wanted, in float64 on the CPU; NaN stays NaN."""
    found, wanted = found.detach().double().cpu(), wanted.detach().double().cpu()
    return float((found - wanted).norm() / wanted.norm())
