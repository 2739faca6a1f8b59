"""Features of a frozen network made and kept on the GPU, and heads trained on features that lie in its memory."""

from __future__ import annotations

import time
from collections.abc import Callable

import losses
import numpy as np
import torch
import training as step_benchmark
from torch import Tensor, nn

from ctxtune.data import EvaluationImages, ValidationSettings, load_dataset
from ctxtune.data.features import open_features
from ctxtune.float32_products import allow_tf32
from ctxtune.losses import ContextualLoss
from ctxtune.training import FoldTrainer, fold_splits
from ctxtune.training.backbone_features import FrozenBackbone
from ctxtune.training.embedding import embed
from ctxtune.training.precision import autocast
from gpu_checks.measuring import compare, relative, synchronize
from gpu_checks.photographs import head_trial, photograph_folder, photograph_run
from gpu_checks.report import Report, Scale


def features(scale: Scale, report: Report) -> None:
    """Embedding every test view of a part, beside the bare forward pass on a batch in memory."""
    run = photograph_run(scale)
    split, settings, batch = run.splits.fit, run.trial.image, scale.pick(256, 16)
    for precision in ("float32", "bfloat16"):
        views = EvaluationImages(split, settings, device=scale.device, cache_dir=photograph_folder(scale) / "cache")

        def whole(precision: str = precision, views: EvaluationImages = views) -> None:
            embed(run.model, views, batch_size=batch, precision=precision, device=scale.device)  # type: ignore[arg-type]

        whole()
        started = time.perf_counter()
        whole()
        rate = len(split) / (time.perf_counter() - started)
        views.close()
        bare = _forward_rate(scale, run.model, settings.test_crop or 224, batch, precision)
        report.row(
            "features, ResNet-50",
            precision=precision,
            images_per_second=rate,
            bare_forward=bare,
            to_bare=rate / bare,
        )
    run.close()
    _kept_features(scale, report)
    if not scale.tiny:
        _vision_transformer(scale, report)


def _kept_features(scale: Scale, report: Report) -> None:
    """Filling the feature cache, and what bfloat16 makes of the features."""
    trial = head_trial(scale)
    table = load_dataset(trial.dataset).train.table
    found = {}
    for precision in ("float32", "bfloat16"):
        backbone = FrozenBackbone(trial, device=scale.device, precision=precision)  # type: ignore[arg-type]
        crop = trial.image.test_crop or 224
        backbone(torch.zeros(64, 3, crop, crop, device=scale.device))  # built and warm before the clock starts
        synchronize(scale.device)
        started = time.perf_counter()
        kept = open_features(table, trial.images, None, backbone, directory=photograph_folder(scale) / "cache")
        taken = time.perf_counter() - started
        again = time.perf_counter()
        open_features(table, trial.images, None, backbone, directory=photograph_folder(scale) / "cache")
        found[precision] = kept.values.float()
        report.row(
            f"the feature cache of {len(table)} images, {trial.model.backbone}",
            precision=precision,
            images_per_second=len(table) / taken,
            seconds=taken,
            seconds_once_it_is_there=time.perf_counter() - again,
        )
    report.check("features in bfloat16 beside float32's", relative(found["bfloat16"], found["float32"]), most=0.02)


@torch.no_grad()
def _forward_rate(scale: Scale, model: nn.Module, crop: int, batch: int, precision: str) -> float:
    images = torch.randn(batch, 3, crop, crop, device=scale.device).to(memory_format=torch.channels_last)
    model.eval()

    def forward() -> Tensor:
        with autocast(precision, scale.device):  # type: ignore[arg-type]
            found: Tensor = model(images)
        return found

    taken = compare({precision: forward}, scale.device, scale.pick(0.7, 0.05))[precision]
    model.train()
    return batch / taken


def _vision_transformer(scale: Scale, report: Report) -> None:
    import timm

    allow_tf32(True)
    model = timm.create_model("vit_small_patch14_dinov2", pretrained=False, num_classes=0, img_size=224)
    model.to(scale.device)
    for precision in ("float32", "bfloat16"):
        rate = _forward_rate(scale, model, 224, 256, precision)
        report.row("features, DINOv2 ViT-S/14 at 224 px (no weights)", precision=precision, images_per_second=rate)


def head(scale: Scale, report: Report) -> None:
    """A linear head on features in the device's memory: what the loss costs where the network costs nothing."""
    items, width = scale.pick((50_000, 384), (500, 32))
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(items, width, generator=generator).to(scale.device)
    labels = (torch.arange(items) // 8).to(scale.device)
    starts = torch.randint(0, items // 8, (4096, 16), generator=generator) * 8
    rows = (starts[:, :, None] + torch.arange(8)).reshape(4096, 128).to(scale.device)  # whole classes of 8
    forms: dict[str, losses.Loss] = {
        "none": lambda embeddings, _: embeddings.mean(),
        "ours": ContextualLoss(),
        "recorded": ContextualLoss().use_cuda_graphs(),
        "direct": losses.direct,
    }

    def step(form: losses.Loss) -> Callable[[], None]:
        layer = nn.Linear(width, 128, device=scale.device)
        optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3, fused=True)
        count = iter(range(10**9))

        def take() -> None:
            chosen = rows[next(count) % len(rows)]
            optimizer.zero_grad(set_to_none=True)
            form(layer(features[chosen]), labels[chosen]).backward()
            optimizer.step()

        return take

    seconds = compare({name: step(form) for name, form in forms.items()}, scale.device, scale.pick(0.7, 0.05))
    for name, taken in seconds.items():
        report.row(
            "a linear head on features in memory, batch 128",
            loss=name,
            steps_per_second=1 / taken,
            images_per_second=128 / taken,
            share_of_step=1 - seconds["none"] / taken,
        )
    _trained_head(scale, report)


def _trained_head(scale: Scale, report: Report) -> None:
    """An epoch of a run on kept features beside a bare loop over tensors in memory with the same loss and optimizer."""
    trial = head_trial(scale)
    splits = fold_splits(trial, ValidationSettings(folds=2), 0, seed=0, benchmark=load_dataset(trial.dataset))
    run = FoldTrainer(trial, splits, seed=0, device=scale.device, cache_dir=photograph_folder(scale) / "cache")
    steps, batch = run.batches_per_epoch, run.trial.sampler.batch_size
    orders = torch.from_numpy(run._sampler.epoch(0)).to(scale.device)
    values = torch.cat([found for found, _ in run._images.batches(np.arange(len(splits.fit))[:, None], 0)])
    labels = run._labels.to(scale.device)
    layer = nn.Linear(values.shape[1], trial.model.embedding_dim, device=scale.device)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3, fused=True)
    losses_of = {"bare loop": ContextualLoss(), "bare loop, recorded loss": ContextualLoss().use_cuda_graphs()}

    def bare(form: losses.Loss) -> Callable[[], float]:
        def epoch() -> float:
            for chosen in orders:
                optimizer.zero_grad(set_to_none=True)
                form(layer(values[chosen].float()), labels[chosen]).backward()
                optimizer.step()
            synchronize(scale.device)
            return float("nan")

        return epoch

    ways = {name: bare(form) for name, form in losses_of.items()} | {"ours": step_benchmark.Ours(run)}
    measured = step_benchmark.measure(ways, scale.pick(3, 1), steps * batch)
    for name, each in measured.items():
        report.row(
            f"epochs of a head on kept features of {trial.model.backbone}, batch {batch}, {run.precision}",
            way=name,
            steps_per_second=each.rate / batch,
            images_per_second=each.rate,
            cpu_ms_a_step=each.least_work * batch,
        )
    ratio = measured["ours"].rate / measured["bare loop"].rate
    report.check("head on kept features: ours / a bare loop in memory", ratio, least=0.8)
    if scale.on_gpu:
        recorder = run.step.recorder
        report.check("head on kept features: its step is recorded", recorder is not None and recorder.recorded)
    run.close()
