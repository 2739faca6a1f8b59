"""Features of a frozen network made on the GPU, and a head trained on features that lie in its memory."""

from __future__ import annotations

import time
from collections.abc import Callable

import losses
import torch
from torch import Tensor, nn

from ctxtune.data import EvaluationImages
from ctxtune.losses import ContextualLoss
from ctxtune.training.embedding import embed
from ctxtune.training.precision import allow_tf32, autocast
from gpu_checks.measuring import compare
from gpu_checks.photographs import photograph_folder, photograph_run
from gpu_checks.report import Report, Scale


def features(scale: Scale, report: Report) -> None:
    """Embedding every test view of a part, beside the bare forward pass on a batch in memory."""
    run = photograph_run(scale)
    part, settings, batch = run.parts.fit, run.trial.image, scale.pick(256, 16)
    for precision in ("float32", "bfloat16"):
        views = EvaluationImages(part, settings, device=scale.device, cache_dir=photograph_folder(scale) / "cache")

        def whole(precision: str = precision, views: EvaluationImages = views) -> None:
            embed(run.model, views, batch_size=batch, precision=precision, device=scale.device)  # type: ignore[arg-type]

        whole()
        started = time.perf_counter()
        whole()
        rate = len(part) / (time.perf_counter() - started)
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
    if not scale.tiny:
        _vision_transformer(scale, report)


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
