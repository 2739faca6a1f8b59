"""Our training step against the bare one and a plain loop, number formats, and the way of images to the device."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import training as step_benchmark
from torch import Tensor

from ctxtune.data import EvaluationImages, TrainingImages
from ctxtune.data.batching import PackingBatcher
from ctxtune.losses import ContextualLoss
from ctxtune.training import FoldTrainer
from ctxtune.training.precision import autocast
from gpu_checks.measuring import activity, compare, relative, seconds_of, synchronize
from gpu_checks.photographs import arguments_for, first_batch, photograph_folder, photograph_run, photograph_runs
from gpu_checks.report import Report, Scale

TO_BARE, TO_PLAIN = 0.95, 2.5


def step(scale: Scale, report: Report) -> None:
    """`benchmarks/training.py` with ResNet-50 at 224 px and batches of 128, the steps recorded and not."""
    arguments = arguments_for(scale, steps=48)
    runs = photograph_runs(scale, arguments, 5)
    workers = scale.pick(16, 0)
    for run in runs[3:]:
        unrecorded(run)
    ways: dict[str, Callable[[], float]] = {
        "bare": step_benchmark.Bare(runs[0], arguments.steps),
        "ours": step_benchmark.Ours(runs[1]),
        "plain": step_benchmark.Plain(runs[2], photograph_folder(scale) / "data", arguments.crop, workers),
        "bare, not recorded": step_benchmark.Bare(runs[3], arguments.steps),
        "ours, not recorded": step_benchmark.Ours(runs[4]),
    }
    found = step_benchmark.measure(ways, scale.pick(3, 1), arguments.steps * arguments.batch)
    for name, each in found.items():
        report.row(
            f"training, {arguments.backbone}, {arguments.crop} px, batch {arguments.batch}, {runs[0].precision}",
            way=name,
            images_per_second=each.rate,
            slowest=min(each.rates),
            fastest=max(each.rates),
            cpu_ms_an_image=each.least_work,
            loss=each.loss,
        )
    report.check("ours / bare", found["ours"].rate / found["bare"].rate, least=TO_BARE)
    report.check("ours / plain", found["ours"].rate / found["plain"].rate, least=TO_PLAIN)
    if scale.on_gpu:
        recorders = [run.step.recorder for run in runs[:2]]
        report.check("steps are recorded", all(each is not None and each.recorded for each in recorders))
    for name in ("bare", "ours", "ours, not recorded"):
        work = activity(ways[name], scale.device)
        if work is not None:
            report.row(
                "what the GPU does in an epoch",
                way=name,
                launches_a_step=work.launches / arguments.steps,
                busy_share_of_wall=work.busy / work.wall,
                busy_ms_a_step=1000 * work.busy / arguments.steps,
            )
    for run in runs:
        run.close()


def unrecorded(run: FoldTrainer) -> None:
    """Have a run take its steps without CUDA graphs."""
    run.step.recorder = None
    for part in run.loss.modules():
        if isinstance(part, ContextualLoss):
            part.use_cuda_graphs(False)


FORMATS: dict[str, dict[str, Any]] = {
    "float32": {"precision": "float32", "tf32": False},
    "tf32": {"precision": "float32", "tf32": True},
    "bfloat16": {"precision": "bfloat16"},
    "float16": {"precision": "float16"},
}
COMPILED: dict[str, dict[str, Any]] = {
    "bfloat16, compiled": {"precision": "bfloat16", "compile": True},
    "tf32, compiled": {"precision": "float32", "tf32": True, "compile": True},
}


def precision(scale: Scale, report: Report) -> None:
    """Each number format on one batch: speed, memory, embeddings and losses beside those of plain float32."""
    _formats(scale, report, FORMATS)


def compiled(scale: Scale, report: Report) -> None:
    """The same with torch.compile, which takes most of a minute for each."""
    _formats(scale, report, {"float32": FORMATS["float32"]} | (COMPILED if scale.on_gpu else {}))


def _formats(scale: Scale, report: Report, formats: dict[str, dict[str, Any]]) -> None:
    wanted: Tensor | None = None
    expected: list[float] = []
    images: Tensor | None = None
    for name, changes in formats.items():
        run = photograph_run(scale, **changes)
        if images is None:
            images, labels = first_batch(run)
        embeddings = _embeddings(run, images)
        wanted = embeddings if wanted is None else wanted
        if scale.on_gpu:
            torch.cuda.reset_peak_memory_stats(scale.device)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            started = time.perf_counter()
            # float16 leaves out its first few steps, until the loss scale has come down.
            curve = [float(run.step(images, labels)["loss"]) for _ in range(scale.pick(30, 2))]
            first = time.perf_counter() - started
        expected = expected or curve
        again = partial(run.step, images, labels)
        taken = compare({name: again}, scale.device, scale.pick(0.7, 0.05))[name]
        report.row(
            "number formats, one batch",
            format=name,
            images_per_second=len(images) / taken,
            peak_gib=torch.cuda.max_memory_allocated(scale.device) / 2**30 if scale.on_gpu else None,
            seconds_of_first_steps=first,
            embedding_error=relative(embeddings, wanted),
            first_loss=curve[0],
            last_loss=curve[-1],
            loss_scale=run.scaler.get_scale() if run.scaler.is_enabled() else None,
            warnings="; ".join(str(each.message)[:200] for each in told) or None,
        )
        report.check(f"{name}: first loss beside float32's", abs(curve[0] / expected[0] - 1), most=0.05)
        report.check(f"{name}: the loss falls", curve[-1] < curve[0])
        if scale.on_gpu and not changes.get("compile"):
            recorder = run.step.recorder
            report.check(f"{name}: the step is recorded", recorder is not None and recorder.recorded)
        if changes.get("compile"):
            report.check(f"{name}: the compiler did not fail", not run.step._call.fell_back)
        run.step.finite.check(0)
        run.close()
        del run, again
        if scale.on_gpu:
            torch.cuda.empty_cache()


@torch.no_grad()
def _embeddings(run: FoldTrainer, images: Tensor) -> Tensor:
    run.model.eval()
    with autocast(run.precision, run.device):
        found = run.model(images).float()
    run.model.train()
    return found


def images(scale: Scale, report: Report) -> None:
    """From the decoded cache to normalized crops on the device, and what each part of the way takes."""
    run = photograph_run(scale)
    split, settings = run.splits.fit, run.trial.image
    order = np.resize(np.arange(len(split)), (scale.pick(32, 2), run.trial.sampler.batch_size))
    training = TrainingImages(split, settings, device=scale.device, cache_dir=photograph_folder(scale) / "cache")
    rates = []
    for epoch in range(scale.pick(4, 1)):
        started = time.perf_counter()
        count = sum(len(batch) for batch, _ in training.batches(order, epoch))
        synchronize(scale.device)
        rates.append(count / (time.perf_counter() - started))
    title = f"images to the device, crops of {settings.train_crop}"
    report.row(title, what="training crops, whole way", images_per_second=max(rates))
    _parts_of_the_way(scale, report, training, title)
    training.close()
    evaluation = EvaluationImages(split, settings, device=scale.device, cache_dir=photograph_folder(scale) / "cache")
    for _ in range(2):
        started = time.perf_counter()
        count = sum(len(batch) for batch, _ in evaluation.batches(run.trial.sampler.batch_size))
        synchronize(scale.device)
        rate = count / (time.perf_counter() - started)
    report.row(title, what="test views, whole way", images_per_second=rate)
    evaluation.close()
    run.close()


def _parts_of_the_way(scale: Scale, report: Report, images: TrainingImages, title: str) -> None:
    batcher, rows = images._batcher, images.split.rows[: scale.pick(128, 16)]
    draws = iter(range(10**6))
    report.row(
        title,
        what="the host's part",
        images_per_second=len(rows)
        / seconds_of(
            lambda: batcher.host(rows, np.random.default_rng(next(draws))), scale.pick(16, 1), torch.device("cpu")
        ),
    )
    batch = batcher.host(rows, np.random.default_rng(0))
    taken = compare({"device": lambda: batcher.device(batch)}, scale.device, scale.pick(0.5, 0.05))["device"]
    report.row(title, what="the device's part", images_per_second=len(rows) / taken, ms_a_batch=1000 * taken)
    work = activity(lambda: batcher.device(batch), scale.device)
    if work is not None:
        report.row(title, what="kernels of it", launches=work.launches, ms_a_batch=1000 * work.busy)
    if isinstance(batcher, PackingBatcher):
        there = torch.empty_like(batch.pixels, device=scale.device)
        taken = compare({"copy": lambda: there.copy_(batch.pixels, non_blocking=True)}, scale.device, 0.3)["copy"]
        report.row(title, what="its copy alone", ms_a_batch=1000 * taken, gb_per_second=there.nbytes / taken / 1e9)
