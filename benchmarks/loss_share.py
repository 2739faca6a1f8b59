"""What the contextual loss takes of a training step, and of what: processor time of one thread, in one run.

    python benchmarks/loss_share.py [--sizes 64 96 128] [--steps 5]

A step is forward and backward of network and loss and the optimizer's own, on random images that are there already. "fixed" is
the share of the loss's time that it takes for eight embeddings as well: operations to be called, not arithmetic. `direct` is
the formula written out (`benchmarks/losses.py`). Processor time counts, so that others may use the machine.
"""

import argparse
import time
from collections.abc import Callable

import timm
import torch
from losses import batch, direct, launches
from torch import Tensor, nn

from ctxtune.losses import ContextualLoss
from ctxtune.models import ModelSettings, build_model

DIM = 128


def head() -> tuple[nn.Module, tuple[int, ...]]:
    """A linear head on kept features."""
    return nn.Linear(1280, DIM), (1280,)


def small_conv() -> tuple[nn.Module, tuple[int, ...]]:
    """The network of the quickstart."""
    settings = ModelSettings(backbone="small_conv", width=24, embedding_dim=DIM, layer_norm=True)
    return build_model(settings), (3, 32, 32)


def named(name: str, size: int) -> Callable[[], tuple[nn.Module, tuple[int, ...]]]:
    """A network of timm's."""
    return lambda: (timm.create_model(name, num_classes=DIM), (3, size, size))


NETWORKS = {
    "linear head on kept features": head,
    "small_conv, 32 px": small_conv,
    "EfficientNet-Lite0, 112 px": named("tf_efficientnet_lite0", 112),
    "ResNet-50, 224 px": named("resnet50", 224),
}


def seconds(call: Callable[[], object], count: int) -> float:
    """Processor seconds of the quickest of so many calls, after one that warms up."""
    call()
    found = []
    for _ in range(count):
        began = time.process_time()
        call()
        found.append(time.process_time() - began)
    return min(found)


def loss_seconds(loss: Callable[[Tensor, Tensor], Tensor], size: int, count: int) -> float:
    """Forward and backward of the loss alone."""
    embeddings, labels = batch(size, DIM, "trained", "cpu")

    def step() -> None:
        leaf = embeddings.detach().requires_grad_()
        loss(leaf, labels).backward()

    return seconds(step, count)


def step_seconds(network: nn.Module, shape: tuple[int, ...], size: int, count: int) -> float:
    """A whole step."""
    optimizer, loss = torch.optim.AdamW(network.parameters(), lr=1e-4), ContextualLoss()
    images = torch.randn(size, *shape)
    images = images.to(memory_format=torch.channels_last) if images.ndim == 4 else images
    labels = torch.arange(size) // 4
    network = network.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def step() -> None:
        optimizer.zero_grad()
        loss(network(images), labels).backward()
        optimizer.step()

    return seconds(step, count)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 96, 128])
    parser.add_argument(
        "--steps", type=int, default=5, help="of the large networks; the small ones take ten times as many"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    fixed = loss_seconds(ContextualLoss(), 8, 200)
    print("| n | loss, ms | / direct | operations | fixed |" + "".join(f" share of {name} |" for name in NETWORKS))
    print("|---" * (5 + len(NETWORKS)) + "|")
    for size in arguments.sizes:
        ours, written_out = (loss_seconds(each, size, 200) for each in (ContextualLoss(), direct))
        embeddings, labels = batch(size, DIM, "trained", "cpu")
        cells = [f"{1e3 * ours:.2f}", f"{ours / written_out:.2f}", str(launches(ContextualLoss(), embeddings, labels))]
        cells.append(f"{min(1.0, fixed / ours):.0%}")
        for number, build in enumerate(NETWORKS.values()):
            network, shape = build()
            count = arguments.steps if number > 1 else 10 * arguments.steps
            cells.append(f"{ours / step_seconds(network, shape, size, count):.2%}")
        print(f"| {size} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
