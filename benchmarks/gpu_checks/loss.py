"""The contextual loss against its direct form, and what of a training step it takes."""

from __future__ import annotations

from collections.abc import Callable

import losses
import torch
from torch import Tensor, nn

from ctxtune.losses import ContextualLoss
from ctxtune.losses.contextual.closed_form import sparse_from
from ctxtune.training.step import TrainingStep
from gpu_checks.measuring import activity, compare, peak_bytes, relative
from gpu_checks.photographs import first_batch, photograph_run
from gpu_checks.report import Report, Scale

DIM = 512
SMALL_SHARE = 0.02
"""Below this share of a step the loss is not worth more work."""


def loss(scale: Scale, report: Report) -> None:
    """Time, launches, memory and values, by batch size: the direct form, ours, and ours recorded as a CUDA graph."""
    device = scale.device
    for size in scale.pick((64, 128, 256, 512, 1024, 2048, 4096), (64, 256)):
        embeddings, labels = losses.batch(size, DIM, "trained", device.type)
        forms: dict[str, losses.Loss] = {"direct": losses.direct, "ours": ContextualLoss()}
        if size < sparse_from(device):
            forms["recorded"] = ContextualLoss().use_cuda_graphs()
        ways = {name: _step(form, embeddings, labels) for name, form in forms.items()}
        seconds = compare(ways, device, scale.pick(0.4, 0.05))
        wanted = _value_and_gradient(losses.direct, embeddings, labels)
        for name, way in ways.items():
            value, gradient = _value_and_gradient(forms[name], embeddings, labels)
            work, peak = activity(way, device), peak_bytes(way, device)
            report.row(
                "contextual loss, forward and backward",
                n=size,
                form=name,
                ms=1000 * seconds[name],
                faster=seconds["direct"] / seconds[name],
                launches=work and work.launches,
                kernels=work and work.kernels,
                busy_ms=work and 1000 * work.busy,
                peak_mib=peak and peak / 2**20,
                difference=max(relative(value, wanted[0]), relative(gradient, wanted[1])),
            )
        if scale.on_gpu:
            slowest = max(seconds[name] for name in forms if name != "direct")
            report.check(f"n = {size}: our slowest form beside the direct one", seconds["direct"] / slowest, least=1.0)
        if size <= 512:
            _check_values(scale, report, size)
    _check_tf32(scale, report)


def _step(form: losses.Loss, embeddings: Tensor, labels: Tensor) -> Callable[[], None]:
    def step() -> None:
        embeddings.grad = None
        form(embeddings, labels).backward()

    return step


def _value_and_gradient(form: losses.Loss, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    leaf = embeddings.detach().clone().requires_grad_()
    value = form(leaf, labels)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


def _check_values(scale: Scale, report: Report, size: int) -> None:
    """In float64 the device's values are those of the direct form on the CPU."""
    embeddings, labels = losses.batch(size, DIM, "untrained", "cpu")
    embeddings = embeddings.detach().double()
    wanted = _value_and_gradient(losses.direct, embeddings, labels)
    for name, form in {"ours": ContextualLoss(), "recorded": ContextualLoss().use_cuda_graphs()}.items():
        for _ in range(2):  # the second call replays the recording
            found = _value_and_gradient(form, embeddings.to(scale.device), labels.to(scale.device))
        worst = max(relative(mine, other) for mine, other in zip(found, wanted, strict=True))
        report.check(f"{name}, n = {size}, float64: difference from the direct form on the CPU", worst, most=1e-9)


def _check_tf32(scale: Scale, report: Report) -> None:
    """What a trainer allows its products must not reach the loss."""
    embeddings, labels = losses.batch(128, DIM, "trained", scale.device.type)
    wanted = _value_and_gradient(ContextualLoss(), embeddings, labels)
    switch = torch.backends.cuda.matmul
    before, switch.fp32_precision = switch.fp32_precision, "tf32"
    try:
        with torch.autocast(scale.device.type, dtype=torch.bfloat16):
            found = _value_and_gradient(ContextualLoss(), embeddings, labels)
    finally:
        switch.fp32_precision = before
    same = all(torch.equal(mine, other) for mine, other in zip(found, wanted, strict=True))
    report.check("tf32 and autocast do not reach the loss", same)


class _NoLoss(nn.Module):
    """Next to nothing, with a gradient for every embedding."""

    def forward(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        total = embeddings.mean()
        return total, {"loss": total.detach()}


class _Plain(nn.Module):
    """A loss of embeddings and labels where the step expects terms as well."""

    def __init__(self, form: losses.Loss) -> None:
        super().__init__()
        self.form = form

    def forward(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        total = self.form(embeddings, labels)
        return total, {"loss": total.detach()}


def share(scale: Scale, report: Report) -> None:
    """A whole training step, the model's passes recorded, with the loss in its forms, and with none."""
    cases = (("resnet50", 64), ("resnet50", 128), ("small_conv", 128))
    for backbone, batch in scale.pick(cases, (("small_conv", 32),)):
        run = photograph_run(scale, backbone=backbone, batch=batch)
        images, labels = first_batch(run)
        forms = {
            "none": _NoLoss(),
            "ours": run.loss,
            "not recorded": _Plain(ContextualLoss()),
            "direct": _Plain(losses.direct),
        }
        ways = {name: _training_step(run.step, form, images, labels) for name, form in forms.items()}
        seconds = compare(ways, scale.device, scale.pick(1.0, 0.1))
        for name, taken in seconds.items():
            report.row(
                f"training step, {backbone}, batch {batch}, {run.precision}",
                loss=name,
                ms=1000 * taken,
                share_of_step=1 - seconds["none"] / taken,
            )
        if backbone == "resnet50":
            share_of_step = 1 - seconds["none"] / seconds["ours"]
            report.check(f"share of the loss in a step of {backbone}, batch {batch}", share_of_step, most=SMALL_SHARE)
        run.close()


def _training_step(step: TrainingStep, form: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """The step with another loss."""

    def take() -> None:
        step.loss = form  # type: ignore[assignment]
        step(images, labels)

    return take
