"""What a smaller decoded cache (image.cache_short_side) does to Recall@1, beside its size: a change of the recipe, shown.

    python benchmarks/cache_short_side.py OMNIGLOT_ZIP [--seeds 3] [--epochs 6]

Omniglot's characters at their 105 px as image files, crops of 48 px with min_scale 0.25 (which no longer upsamples from
112 px on, so 105 px are kept whole), a small convolutional network, the contextual loss; Recall@1 on the test alphabets
from their original images. Same seeds, batches and crops for every size.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch

from ctxtune.data import (
    Benchmark,
    EvaluationImages,
    ImageSettings,
    SamplerSettings,
    TrainingImages,
    build_sampler,
    load,
)
from ctxtune.data.stores import Building, decoded_store
from ctxtune.losses import ContextualLoss
from ctxtune.models import ModelSettings, build_model
from ctxtune.retrieval import score

SIDES = (None, 72, 48)
SETTINGS = ImageSettings(train_crop=48, min_scale=0.25, flip=False, test_resize=52, test_crop=48, cache="decoded")


def write_folders(archive: Path, root: Path) -> Benchmark:
    """Omniglot as class folders of PNG files at 105 px."""
    omniglot = load("omniglot", archive, image_size=105)
    for side, split in omniglot.splits().items():
        for index in range(len(split)):
            folder = root / side / f"{split.labels[index]:04d}"
            folder.mkdir(parents=True, exist_ok=True)
            split.read(index).save(folder / f"{index:05d}.png")
    return load("class_folders", root)


def recall_at_1(data: Benchmark, settings: ImageSettings, cache: Path, seed: int, epochs: int) -> float:
    """Train once and score the test alphabets."""
    torch.manual_seed(seed)
    model = build_model(ModelSettings(backbone="small_conv", width=16, embedding_dim=64), image_size=48)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    loss = ContextualLoss()
    sampler = build_sampler(SamplerSettings(batch_size=64), data.train.labels, None, seed)
    images = TrainingImages(data.train, settings, seed=seed, cache_dir=cache)
    labels = torch.from_numpy(data.train.labels)
    model.train()
    for epoch in range(epochs):
        for batch, indices in images.batches(sampler.epoch(epoch), epoch):
            optimizer.zero_grad()
            loss(model(batch), labels[indices]).backward()
            optimizer.step()
    images.close()
    model.eval()
    assert data.test is not None
    with torch.inference_mode():
        evaluation = EvaluationImages(data.test, settings, cache_dir=cache)
        embeddings = torch.cat([model(batch) for batch, _ in evaluation.batches(256)])
    return score(embeddings, data.test.labels, recall_at=(1,)).recall_at[1]


def main() -> None:
    """Train at each size with each seed, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path, help="omniglot-small.zip, or another form of omniglot")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        data, cache = write_folders(options.archive, Path(folder) / "data"), Path(folder) / "cache"
        whole: list[float] = []
        for side in SIDES:
            settings = SETTINGS.model_copy(update={"cache_short_side": side})
            size = decoded_store(data.train.table, settings, Building(cache)).data.nbytes / 2**20
            found = [recall_at_1(data, settings, cache, seed, options.epochs) for seed in range(options.seeds)]
            whole = whole or found
            difference = [mine - theirs for mine, theirs in zip(found, whole, strict=True)]
            spread = statistics.stdev(difference) if options.seeds > 1 else float("nan")
            print(
                f"cache_short_side {side!s:5} {size:6.1f} MiB  Recall@1 {np.mean(found):.4f}  "
                f"difference {np.mean(difference):+.4f} (deviation {spread:.4f} over {options.seeds} seeds)",
                flush=True,
            )


if __name__ == "__main__":
    main()
