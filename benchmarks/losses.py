"""The contextual loss against its direct implementation: time, peak memory and launches, forward + backward, one run.

    python benchmarks/losses.py [--sizes 64 128 ...] [--device cpu|cuda] [--threads 2] [--scenes trained untrained collapsed]

`direct` is the formula of the paper written out (both overlaps as dense products, autograd through every step), with
the contrastive term and the regularizer. Both see the same embeddings and their values and gradients are compared.
Times are the quickest of interleaved calls (others may be using the machine); memory is the peak of what the allocator
hands out during one call, the embeddings themselves not counted; launches are calls of the driver on a GPU, where
small batches are replayed as CUDA graphs, and operations that compute something on a CPU.
"""

import argparse
import itertools
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler's own chatter

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from ctxtune.losses import ContextualLoss

Loss = Callable[[Tensor, Tensor], Tensor]
SCENES = {"trained": (1.0, 0.0), "untrained": (3.0, 0.0), "collapsed": (1.0, 20.0)}  # spread within a class, offset


class _Step(torch.autograd.Function):
    """1[x >= 0] with a constant slope backward."""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:  # type: ignore[no-untyped-def, override]
        return (values >= 0).to(values.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def, override]
        return 10.0 * gradient


def direct(embeddings: Tensor, labels: Tensor) -> Tensor:
    """0.8 L_context + 0.2 L_contrast + 0.1 L_reg with the default options, step by step (docs/contextual_loss.md)."""
    k, epsilon, positive_margin, negative_margin, target = 4, 0.05, 0.75, 0.6, 0.3
    count = len(labels)
    units = torch.nn.functional.normalize(embeddings, dim=1)
    similarities = units @ units.T
    same = (labels.unsqueeze(1) == labels).to(units.dtype)
    distances = (2.0 - 2.0 * similarities).clamp(min=0.0)

    def neighborhood(size: int) -> Tensor:
        reach = distances.detach().topk(size, dim=1, largest=False).values[:, -1:]
        step: Tensor = _Step.apply(-distances + epsilon + reach)
        return step

    inside = neighborhood(k)
    outside = 1.0 - inside
    shared = inside @ inside.T / inside.sum(dim=1, keepdim=True).detach()
    shared_outside = outside @ outside.T / outside.sum(dim=1, keepdim=True).detach()
    weights = 0.5 * inside * (shared + shared_outside)
    closest = neighborhood(k // 2)
    reciprocal = closest * closest.T
    expanded = reciprocal @ weights / reciprocal.sum(dim=1, keepdim=True)
    contextual = 0.5 * (expanded + expanded.T)
    off_diagonal = 1.0 - torch.eye(count, dtype=units.dtype, device=units.device)
    contextual_loss = ((same - contextual).square() * off_diagonal).sum() / count**2
    pull = torch.relu(positive_margin - similarities) * same
    push = torch.relu(similarities - negative_margin) * (1.0 - same)
    contrastive = pull.sum() / (pull > 0).sum().clamp(min=1) + push.sum() / (push > 0).sum().clamp(min=1)
    return 0.8 * contextual_loss + 0.2 * contrastive + 0.1 * (target - similarities.mean()).square()


def batch(size: int, dim: int, scene: str, device: str) -> tuple[Tensor, Tensor]:
    """Four items of each class around a random center; `scene` says how far and how far all of them lie from 0."""
    generator = torch.Generator().manual_seed(0)
    spread, offset = SCENES[scene]
    labels = torch.arange(size) // 4
    centers = torch.randn(size // 4 + 1, dim, generator=generator)
    embeddings = centers[labels] + spread * torch.randn(size, dim, generator=generator)
    embeddings += offset * torch.randn(1, dim, generator=generator)
    return embeddings.to(device).requires_grad_(True), labels.to(device)


def step(loss: Loss, embeddings: Tensor, labels: Tensor) -> Tensor:
    """Forward and backward; the value."""
    embeddings.grad = None
    value = loss(embeddings, labels)
    value.backward()
    if embeddings.is_cuda:
        torch.cuda.synchronize()
    return value.detach()


def peak_memory(loss: Loss, embeddings: Tensor, labels: Tensor) -> int:
    """Bytes that the allocator holds at most during one step, beyond what it held before."""
    if embeddings.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(loss, embeddings, labels)
        return int(torch.cuda.max_memory_allocated() - before)
    embeddings.grad = None
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step(loss, embeddings, labels)
    results = profiler.profiler.kineto_results  # type: ignore[union-attr]
    changes = [(event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]"]
    return max(0, *itertools.accumulate(size for _, size in sorted(changes, key=lambda change: change[0])))


class _Operations(TorchDispatchMode):
    """Counts the operations that write something: no views, no allocations."""

    silent = (
        *(
            "view",
            "as_strided",
            "expand",
            "transpose",
            "t",
            "select",
            "slice",
            "detach",
            "alias",
            "diagonal",
            "permute",
        ),
        *(
            "unsqueeze",
            "squeeze",
            "_unsafe_view",
            "split",
            "unbind",
            "empty",
            "empty_like",
            "new_empty",
            "empty_strided",
        ),
        "_local_scalar_dense",
    )

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += func.overloadpacket.__name__ not in self.silent
        return func(*args, **(kwargs or {}))


def launches(loss: Loss, embeddings: Tensor, labels: Tensor) -> int:
    """Kernels of one step on a GPU; on a CPU the operations that would be one at least."""
    if not embeddings.is_cuda:
        with _Operations() as operations:
            step(loss, embeddings, labels)
        return operations.count
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        step(loss, embeddings, labels)
    calls = ("cudaLaunch", "cuLaunch", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaMemsetAsync")
    return sum(event.name.startswith(calls) for event in profiler.events() or ())


@dataclass
class Row:
    """What was measured for one size."""

    size: int
    ours_seconds: float
    direct_seconds: float
    ours_bytes: int
    direct_bytes: int
    ours_launches: int
    direct_launches: int
    difference: float


def measure(size: int, dim: int, scene: str, device: str, seconds: float) -> Row:
    """Both implementations on one batch, taking turns for about `seconds`."""
    embeddings, labels = batch(size, dim, scene, device)
    ours: Loss = ContextualLoss().use_cuda_graphs()
    values, gradients = [], []
    for loss in (ours, direct):
        values.append(step(loss, embeddings, labels))
        assert embeddings.grad is not None
        gradients.append(embeddings.grad.clone())
    difference = float((gradients[0] - gradients[1]).abs().max() / gradients[1].abs().max())
    difference = max(difference, float((values[0] - values[1]).abs() / values[1].abs()))
    del gradients
    times: tuple[list[float], list[float]] = ([], [])
    began = time.perf_counter()
    while len(times[0]) < 3 or (time.perf_counter() - began < seconds and len(times[0]) < 200):
        for loss, taken in zip((ours, direct), times, strict=True):
            start = time.perf_counter()
            step(loss, embeddings, labels)
            taken.append(time.perf_counter() - start)
    ours_seconds, direct_seconds = (min(taken) for taken in times)
    ours_bytes, direct_bytes = (peak_memory(loss, embeddings, labels) for loss in (ours, direct))
    ours_launches, direct_launches = (launches(loss, embeddings, labels) for loss in (ours, direct))
    return Row(size, ours_seconds, direct_seconds, ours_bytes, direct_bytes, ours_launches, direct_launches, difference)


def growth_exponent(first: Row, second: Row) -> float:
    """The power of n with which our time grows between two sizes."""
    return math.log(second.ours_seconds / first.ours_seconds, second.size / first.size)


def main() -> None:
    """Measure, and print a table for each scene."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256, 512, 1024, 2048, 4096])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=3.0, help="for each size")
    parser.add_argument("--scenes", nargs="+", choices=list(SCENES), default=["trained"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    name = torch.cuda.get_device_name() if options.device == "cuda" else f"cpu, {options.threads} threads"
    print(f"torch {torch.__version__}, {name}, {options.dim} dimensions, 4 items a class, float32")
    for scene in options.scenes:
        print(f"\n{scene}: forward + backward")
        print("     n   ours ms  direct ms  faster   ours MiB  direct MiB  memory  launches  growth  difference")
        previous: Row | None = None
        for size in options.sizes:
            row = measure(size, options.dim, scene, options.device, options.seconds)
            growth = "" if previous is None else f"{growth_exponent(previous, row):.2f}"
            print(
                f"{size:6d} {row.ours_seconds * 1e3:9.2f} {row.direct_seconds * 1e3:10.2f} "
                f"{row.direct_seconds / row.ours_seconds:6.2f}x {row.ours_bytes / 2**20:10.1f} "
                f"{row.direct_bytes / 2**20:11.1f} {row.ours_bytes / row.direct_bytes:7.2f} "
                f"{row.ours_launches:4d}/{row.direct_launches:<4d} {growth:>7} {row.difference:11.1e}",
                flush=True,
            )
            previous = row


if __name__ == "__main__":
    main()
