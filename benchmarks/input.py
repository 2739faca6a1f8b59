"""Images per second per core: ours against PIL decode and torchvision transforms in a DataLoader.

    python benchmarks/input.py [--images 512] [--rounds 3] [--threads 1]

500 x 375 JPEGs, 224 px training crops of Cars196's recipe (min_scale 0.12), flip, normalize. Everything runs on the
CPU, the resize too, unless there is a GPU: then a further line has only the crops copied by the CPU. "Per core" is per
second of processor time, of this process and of the DataLoader's, so that a busy machine does not blur it. The rounds
alternate between ours and the peer; the median ratio is printed. Target: at least 5.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from ctxtune.data import ImageSettings, Split, TrainingImages, load

TARGET = 5.0
BATCH = 64
SETTINGS = ImageSettings(train_crop=224, min_scale=0.12)


def write_jpegs(root: Path, count: int) -> Split:
    """Pictures with structure at many scales, about 100 kB each as photographs of that size have."""
    classes = 8
    for number in range(count + 1 + classes):
        rng = np.random.default_rng(number)
        picture = np.zeros((375, 500, 3))
        for size, weight in ((4, 60), (16, 40), (64, 25), (160, 18)):
            coarse = rng.normal(0, 1, (size, size * 4 // 3, 3))
            planes = [Image.fromarray(coarse[:, :, channel]).resize((500, 375)) for channel in range(3)]
            picture += weight * np.stack([np.asarray(plane) for plane in planes], axis=2)
        folder = root / ("train" if number < count else "test") / f"class{number % classes + 100 * (number >= count)}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((picture + 128).clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)
    return load("class_folders", root).train


class Peer(Dataset[torch.Tensor]):
    """What a training script does: open, convert, torchvision's transforms."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(224, scale=(0.12, 1.0), ratio=(0.75, 1.33)),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB"))


def processor_seconds() -> float:
    """User and system time of this process and of its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(batches: Callable[[], Iterable[torch.Tensor]]) -> tuple[float, float]:
    """Images per second of processor time, and of wall time."""
    wall, processor, count = time.perf_counter(), processor_seconds(), 0
    for images in batches():
        count += len(images)
    return count / (processor_seconds() - processor), count / (time.perf_counter() - wall)


def ways(split: Split, threads: int, cache: Path) -> dict[str, Callable[[], Iterable[torch.Tensor]]]:
    """Name to one epoch of batches."""
    root = split.table.source.root  # type: ignore[attr-defined]
    peer = DataLoader(Peer([str(root / path) for path in split.paths]), BATCH, num_workers=threads)
    order = np.arange(len(split) // BATCH * BATCH).reshape(-1, BATCH)
    epoch = iter(range(1_000_000))

    def ours(device: str, **changes: object) -> Callable[[], Iterable[torch.Tensor]]:
        settings = SETTINGS.model_copy(update=changes)
        images = TrainingImages(split, settings, device=device, cache_dir=cache, workers=threads)
        return lambda: (batch for batch, _ in images.batches(order, next(epoch)))

    found: dict[str, Callable[[], Iterable[torch.Tensor]]] = {
        "peer: PIL, torchvision, DataLoader": lambda: peer,
        "ours: decoded cache": ours("cpu", cache="decoded"),
        "ours: encoded cache": ours("cpu", cache="encoded"),
        "ours: exact, no cache": ours("cpu", exact=True, cache="none"),
    }
    if torch.cuda.is_available():
        found["ours: decoded cache, GPU augments"] = ours("cuda", cache="decoded")
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="threads of ours, DataLoader workers of the peer")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        split = write_jpegs(Path(folder) / "data", options.images)
        size = np.mean([split.table.source.size_in_bytes(path) for path in split.paths])
        chosen = ways(split, options.threads, Path(folder) / "cache")
        print(f"{len(split)} JPEGs of 500 x 375, {size / 1e3:.0f} kB each; crops of 224; {options.threads} thread(s)")
        figures: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
        for batches in chosen.values():
            measure(batches)  # warm: page cache, lazy imports
        for _ in range(options.rounds):
            for name, batches in chosen.items():
                figures[name].append(measure(batches))
    peer, *_ = figures.values()
    for name, rounds in figures.items():
        ratio = statistics.median(mine[0] / theirs[0] for mine, theirs in zip(rounds, peer, strict=True))
        core, wall = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"{name:36} {core:8.0f} images/s per core {wall:8.0f} images/s {ratio:6.1f} x")
    decoded = figures["ours: decoded cache"]
    ratio = statistics.median(mine[0] / theirs[0] for mine, theirs in zip(decoded, peer, strict=True))
    print(
        f"decoded cache against the peer: {ratio:.1f} x (target {TARGET:.0f}: {'met' if ratio >= TARGET else 'MISSED'})"
    )


if __name__ == "__main__":
    main()
