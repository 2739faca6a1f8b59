"""Images per second of training: the bare step, our trainer, and a plain loop in the manner of the authors' code.

    python benchmarks/training.py [--images 256] [--steps 8] [--rounds 3] [--batch 32] [--crop 224] [--backbone resnet50]

In one run, on the same JPEGs, model, loss and optimizer:
(a) bare: forward, loss, backward and optimizer step on one batch that lies on the device already;
(b) ours: `ctxtune.training.FoldTrainer` over epochs from its image cache, with everything that a run does in an epoch;
(c) plain: PIL DataLoader, float16 autocast with loss scaling (on a CPU float32), `loss.item()` in each step, no
    channels_last.
The rounds alternate between the three; medians, the least processor time (without the plain loop's DataLoader workers)
and the ratios b / a and b / c are printed, and the mean loss of the last epoch of (b) and (c), which should agree up to
noise (tests/training/test_agreement.py looks at that). Targets: b / a at least 0.95; b / c at
least 2.5 on a GPU.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import transforms

from ctxtune.config import TrialSettings
from ctxtune.data import Split, ValidationSettings, load_dataset
from ctxtune.training import FoldTrainer, fold_splits


def write_jpegs(root: Path, count: int, batch: int) -> None:
    """At least `count` pictures of 500 x 375 px, 16 a class, each class with a color pattern; enough for two batches."""

    def write(split: str, label: int) -> None:
        coarse = np.random.default_rng((len(split), label)).integers(0, 256, (6, 8, 3)).astype(np.uint8)
        pattern = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
        folder = root / split / f"{split}{label:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(16):
            rng = np.random.default_rng((label, number))
            noise = Image.fromarray(rng.integers(0, 256, (94, 125, 3)).astype(np.uint8))
            Image.blend(pattern, noise.resize((500, 375)), 0.3).save(folder / f"{number:02d}.jpg", quality=90)

    classes = [("train", label) for label in range(max(batch // 2, count // 16))] + [("test", 0), ("test", 1)]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(write, *zip(*classes, strict=True)))


def build_trial(root: Path, arguments: argparse.Namespace) -> TrialSettings:
    """Contextual loss, trained from scratch: no weights are fetched."""
    small = arguments.backbone == "small_conv"
    model = {"backbone": arguments.backbone, "embedding_dim": 128, "projector_dim": None}
    return TrialSettings.model_validate(
        {
            "dataset": {"name": "class_folders", "root": str(root)},
            "model": model | ({"width": 16} if small else {"weights": None}),
            "sampler": {"batch_size": arguments.batch, "batches_per_epoch": arguments.steps},
            "optimizer": {"lr": 1e-3},
            "schedule": {"name": "constant", "epochs": 10_000},
            "image": {"train_crop": arguments.crop, "test_resize": arguments.crop, "test_crop": arguments.crop},
        }
    )


def wait(device: torch.device) -> None:
    """Until the device has done all."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Bare:
    """The model's step and nothing else."""

    def __init__(self, run: FoldTrainer, steps: int) -> None:
        self.run, self.steps = run, steps
        run.step.prepare()
        self.images, indices = next(iter(run._images.batches(run._sampler.epoch(0), 0)))
        self.images = self.images.to(memory_format=torch.channels_last)
        self.labels = run._labels[indices].to(run.device)

    def __call__(self) -> float:
        """Train `steps` batches."""
        for _ in range(self.steps):
            self.run.step(self.images, self.labels)
        wait(self.run.device)
        return float("nan")


class Ours:
    """An epoch of a run."""

    def __init__(self, run: FoldTrainer) -> None:
        self.run = run

    def __call__(self) -> float:
        """Train an epoch; its mean loss."""
        return self.run.advance(until=self.run.epoch + 1)["train/loss"]


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """Open, convert, torchvision's transforms."""

    def __init__(self, split: Split, root: Path, crop: int) -> None:
        self.paths = [str(root / split.table.paths[int(row)]) for row in split.rows]
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(crop, scale=(0.12, 1.0), ratio=(0.75, 1.33)),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB")), index


class Plain:
    """The peer: same model, loss, sampler and optimizer (not fused), a loop as one writes it."""

    def __init__(self, run: FoldTrainer, root: Path, crop: int, workers: int) -> None:
        self.run = run
        self.model = run.model.to(memory_format=torch.contiguous_format)
        # The workers are started once: starting them anew each epoch would count against the peer.
        self.batches = DataLoader(
            Pictures(run.splits.fit, root, crop),
            batch_sampler=Epochs(run),
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=1e-4, foreach=False)
        self.half = run.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(run.device.type, enabled=self.half)

    def __call__(self) -> float:
        """Train an epoch; its mean loss."""
        total = 0.0
        for images, indices in self.batches:
            images, labels = images.to(self.run.device), self.run._labels[indices].to(self.run.device)
            self.optimizer.zero_grad()
            with torch.autocast(self.run.device.type, dtype=torch.float16, enabled=self.half):
                embeddings = self.model(images)
            loss, _ = self.run.loss(embeddings.float(), labels)
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            total += loss.item()
        return total / len(self.batches)


class Epochs(Sampler[list[int]]):
    """The run's batches, epoch after epoch."""

    def __init__(self, run: FoldTrainer) -> None:
        self.run, self.epoch = run, 0

    def __len__(self) -> int:
        return self.run.batches_per_epoch

    def __iter__(self) -> Iterator[list[int]]:
        batches = self.run._sampler.epoch(self.epoch).tolist()
        self.epoch += 1
        return iter(batches)


def cpu_seconds() -> float:
    """Processor time of this process and its ended children: on a machine that others use too, it says more than a clock."""
    return sum(os.times()[:4])


@dataclass
class Measured:
    """What the rounds of one way came to: images a second and processor milliseconds an image, and its last loss."""

    rates: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)
    loss: float = float("nan")

    @property
    def rate(self) -> float:
        """Images per second: the median."""
        return statistics.median(self.rates)

    @property
    def least_work(self) -> float:
        """Processor milliseconds an image: the least."""
        return min(self.work)


def measure(ways: dict[str, Callable[[], float]], rounds: int, images: int) -> dict[str, Measured]:
    """The ways in turn, so many rounds after one to warm up; each call trains on so many images."""
    found = {name: Measured() for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            started, before = time.perf_counter(), cpu_seconds()
            found[name].loss = way()
            if number:
                found[name].rates.append(images / (time.perf_counter() - started))
                found[name].work.append(1000 * (cpu_seconds() - before) / images)
    return found


def build_runs(
    folder: Path, arguments: argparse.Namespace, device: torch.device, count: int, **changes: object
) -> list[FoldTrainer]:
    """Equal runs on the pictures in `folder`/data, with other values of the trial where `changes` says so."""
    trial = build_trial(folder / "data", arguments).model_copy(update=changes)
    splits = fold_splits(trial, ValidationSettings(folds=2), 0, seed=0, benchmark=load_dataset(trial.dataset))
    return [FoldTrainer(trial, splits, seed=0, device=device, cache_dir=folder / "cache") for _ in range(count)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--steps", type=int, default=8, help="batches in an epoch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--workers", type=int, default=min(16, len(os.sched_getaffinity(0))), help="of the plain loop")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_jpegs(folder / "data", arguments.images, arguments.batch)
        runs = build_runs(folder, arguments, device, 3)
        ways: dict[str, Callable[[], float]] = {
            "bare": Bare(runs[0], arguments.steps),
            "ours": Ours(runs[1]),
            "plain": Plain(runs[2], folder / "data", arguments.crop, arguments.workers),
        }
        found = measure(ways, arguments.rounds, arguments.steps * arguments.batch)
        for run in runs:
            run.close()
    bare, ours, plain = (found[name] for name in ("bare", "ours", "plain"))
    print(f"{arguments.backbone}, {arguments.crop} px, batch {arguments.batch}, {device}, {runs[0].precision}")
    for name, each in found.items():
        print(f"  {name:<6} {each.rate:8.1f} images/s   {each.least_work:8.2f} CPU ms an image   loss {each.loss:.4f}")
    print(f"  ours / bare  {ours.rate / bare.rate:.3f}   (target 0.95)")
    print(f"  the same by processor time  {bare.least_work / ours.least_work:.3f}")
    print(f"  ours / plain {ours.rate / plain.rate:.2f}   (target 2.5 on a GPU)")


if __name__ == "__main__":
    main()
