"""Heads on the kept features of a frozen backbone: an epoch, a step, and a whole sweep.

    python benchmarks/features.py [--images 480] [--backbone timm/tf_efficientnet_lite0] [--crop 128] [--batch 128]
                                  [--rounds 5] [--sweep TRIALS]

In one run, on the same JPEGs (made for it), with the same head, loss and optimizer; processor time, least of the rounds:
(live) an epoch of `ctxtune.training.FoldTrainer` with the frozen backbone in every step (`image.views: live`);
(kept) the same on kept features;
(bare) a loop over tensors in memory: rows gathered, head, loss, backward and optimizer step, nothing else.
Printed: milliseconds an epoch of each, the seconds that making the features took, and the ratios live / kept (target: at
least 100 on a CPU at 128 px) and bare / kept (target: at least 0.8 at batch 128), each per image.
`--sweep 200` also runs a sweep of so many head trials on two cores, without confirmation, and prints the share of its
wall time that is not training or scoring in a trial (target: below a quarter), and a trial's mean seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import nn
from training import write_jpegs

from ctxtune.config import SweepConfig, TrialSettings
from ctxtune.data import ValidationSettings
from ctxtune.losses import TrainingLoss
from ctxtune.training import FoldTrainer, fold_splits
from ctxtune.tuning.record.journal import Journal
from ctxtune.tuning.record.run_spec import RunSpec
from ctxtune.tuning.run_trainer import open_trainer

PROCESSES = 2
ALONE = 9
"""Trials of the sweep that are run again outside it, the first to warm up."""
ROLES = {
    "raylet/raylet": "raylet",
    "gcs_server": "GCS",
    "ray/dashboard": "Ray's dashboard and agents",
    "ray/_private": "Ray's monitors",
    "ctxtune.tracking": "tracking",
    "spawn_main": "features or tracking",
}


def tree_of(root: Path, arguments: argparse.Namespace, views: str | None) -> dict[str, Any]:
    crop = arguments.crop
    return {
        "dataset": {"name": "class_folders", "root": str(root)},
        "model": {
            "backbone": arguments.backbone,
            "weights": None,
            "train": "head",
            "embedding_dim": 128,
            "projector_dim": None,
        },
        "loss": {"name": "contextual"},
        "regularizer": {"weight": 0.1},
        "sampler": {"batch_size": arguments.batch},
        "optimizer": {"lr": 1e-3},
        "schedule": {"name": "constant", "epochs": 10_000},
        "image": {"train_crop": crop, "test_resize": crop, "test_crop": crop, "views": views},
    }


def least(work: Callable[[], object], rounds: int) -> float:
    """Least processor seconds of some rounds, after one to warm up."""
    work()
    seconds = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return min(seconds)


def open_run(root: Path, arguments: argparse.Namespace, views: str | None, batches: int | None) -> FoldTrainer:
    tree = tree_of(root, arguments, views)
    tree["sampler"]["batches_per_epoch"] = batches
    trial = TrialSettings.model_validate(tree)
    splits = fold_splits(trial, ValidationSettings(folds=4), 0, seed=0)
    return FoldTrainer(trial, splits, seed=0, cache_dir=root / "cache", cores=1)


def bare_epoch(run: FoldTrainer) -> Callable[[], object]:
    """A loop over the same features in memory: what an epoch costs where nothing else is done."""
    order = np.concatenate(list(run._sampler.epoch(0)))
    features = torch.cat([batch for batch, _ in run._images.batches(np.arange(len(run.splits.fit))[None], 0)])
    labels = torch.from_numpy(np.unique(run.splits.fit.labels, return_inverse=True)[1].astype(np.int64))
    head = nn.Linear(features.shape[1], 128)
    loss = TrainingLoss(run.trial.loss, run.trial.regularizer, num_classes=int(labels.max()) + 1, embedding_dim=128)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, fused=True)
    batches = torch.from_numpy(order).split(run.trial.sampler.batch_size)

    def epoch() -> None:
        for indices in batches:
            optimizer.zero_grad(set_to_none=True)
            total, _ = loss(head(features[indices]), labels[indices])
            total.backward()
            optimizer.step()

    return epoch


def epochs(root: Path, arguments: argparse.Namespace) -> None:
    started = time.process_time()
    kept = open_run(root, arguments, None, None)
    making = time.process_time() - started
    kept_batches = kept.batches_per_epoch
    live = open_run(root, arguments, "live", 1)

    def epoch_of(run: FoldTrainer) -> Callable[[], object]:
        return lambda: run.advance(until=run.epoch + 1)

    seconds = {
        "kept": least(epoch_of(kept), arguments.rounds * 4) / kept_batches,
        "bare": least(bare_epoch(kept), arguments.rounds * 4) / kept_batches,
        "live": least(epoch_of(live), min(3, arguments.rounds)),
    }
    batch = arguments.batch
    print(f"{arguments.backbone} at {arguments.crop} px, batch {batch}, {torch.get_num_threads()} thread(s)")
    print(f"making the features of {len(kept.splits.fit.table):,} images: {making:.1f} s of processor time")
    for name, taken in seconds.items():
        print(f"{name:>5}: {1000 * taken:8.2f} ms a batch, {batch / taken:10,.0f} images/s")
    print(
        f"live / kept: {seconds['live'] / seconds['kept']:.0f}    bare / kept: {seconds['bare'] / seconds['kept']:.2f}"
    )
    kept.close()
    live.close()


def sweep(root: Path, arguments: argparse.Namespace) -> None:
    """A sweep of head trials from its start to its last trial."""
    from ctxtune.tuning.sweep import run_sweep

    os.environ["CTXTUNE_CACHE"] = str(root / "cache")
    trial = tree_of(root, arguments, None)
    trial["sampler"]["batch_size"] = min(96, arguments.batch)
    trial["schedule"]["epochs"] = arguments.epochs
    trial["evaluation"] = {"every": max(1, arguments.epochs // 4), "recall_at": [1]}
    space = SweepConfig.model_validate(
        {
            "name": "features",
            "trial": trial,
            "search": {
                "space": {
                    "loss.contextual_weight": {"uniform": [0.1, 1.0]},
                    "optimizer.lr": {"loguniform": [1e-4, 1e-2]},
                },
                "scheduler": {"name": "none"},
                "trials": arguments.sweep,
            },
            "select": None,
            "confirm": None,
            "resources": {"gpus": 0, "cpus": 1},
            "tracking": {"uri": f"sqlite:///{root}/mlflow.db"},
        }
    )
    started = time.perf_counter()
    with _watched_processes() as seen:
        run_sweep(space, root=root / "results")
    wall = time.perf_counter() - started
    total = sum(seen.values())
    journal = Journal(root / "results" / "features" / "journal.jsonl")
    finished = journal.completed("search")
    training = sum(run.reports[-1].metrics["time/seconds"] for run in finished)
    opening, work = _alone([run.spec for run in finished[:: max(1, len(finished) // ALONE)]], root / "cache")
    slots = min(PROCESSES, len(os.sched_getaffinity(0)))
    number = len(finished)
    print(f"sweep: {number} trials of {arguments.epochs} epochs in {wall:.0f} s on {slots} cores, all included")
    print(
        f"a trial trains and is scored for {training / number:.2f} s, {work:.2f} s of processor time when it is alone"
    )
    print(f"share of the wall time that is none of that: {1 - training / (slots * wall):.2f}")
    print(
        f"processor time of all processes: {total:.0f} s; share that is none of that: {1 - number * work / total:.2f}"
    )
    print(f"seconds a trial: opening one alone {opening:.3f}; by process ", end="")
    print(
        ", ".join(f"{role} {seconds / number:.3f}" for role, seconds in sorted(seen.items(), key=lambda item: -item[1]))
    )


def _alone(specs: list[RunSpec], cache: Path) -> tuple[float, float]:
    """Mean processor seconds of opening a trial and of training and scoring it, in this process."""
    opening, work = [], []
    for spec in specs:
        started = time.process_time()
        trainer = open_trainer(spec, device="cpu", cache_dir=cache, cores=1)
        opened = time.process_time()
        trainer.run(lambda report: None)
        work.append(time.process_time() - opened)
        opening.append(opened - started)
        trainer.close()
    return sum(opening[1:]) / len(opening[1:]), sum(work[1:]) / len(work[1:])


@contextlib.contextmanager
def _watched_processes() -> Iterator[dict[str, float]]:
    """Processor seconds of this process and its descendants by what they do, filled in at the end.

    They are asked while they live: Ray's daemon has its children's time forgotten. The last half second of each is missed.
    """
    seen: dict[int, tuple[str, float]] = {}
    ended = threading.Event()
    own = psutil.Process()
    begun = sum(own.cpu_times()[:2])

    def look() -> None:
        while not ended.wait(0.5):
            for process in own.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if command := " ".join(process.cmdline()):  # none: it is about to end
                        seen[process.pid] = (_role(command), sum(process.cpu_times()[:2]))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    result: dict[str, float] = {}
    yield result
    ended.set()
    watcher.join()
    for role, seconds in [*seen.values(), ("driver", sum(own.cpu_times()[:2]) - begun)]:
        result[role] = result.get(role, 0.0) + seconds


def _role(command: str) -> str:
    if command.startswith("ray::"):
        return "trials" if "ImplicitFunc" in command else "other workers"
    return next((role for mark, role in ROLES.items() if mark in command), "other")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=480)
    parser.add_argument("--backbone", default="timm/tf_efficientnet_lite0")
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=40, help="of a trial of the sweep")
    parser.add_argument("--sweep", type=int, default=0, metavar="TRIALS")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        # A quarter of the classes is for validation.
        write_jpegs(root, max(arguments.images, 16 * (2 * arguments.batch // 4)), arguments.batch)
        epochs(root, arguments)
        if arguments.sweep:
            sweep(root, arguments)


if __name__ == "__main__":
    main()
