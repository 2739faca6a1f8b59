"""Parameter groups, optimizers and learning-rate schedules."""

import bisect
import math
from collections.abc import Sequence

import torch
from torch import nn

from ctxtune.config.trial import OptimizerSettings, ScheduleSettings
from ctxtune.models import EmbeddingModel
from ctxtune.models.settings import TIMM


def build_optimizer(settings: OptimizerSettings, model: EmbeddingModel, loss: nn.Module) -> torch.optim.Optimizer:
    """The optimizer with the groups backbone, embedding, projector and loss, each with its learning rate.

    A part of the loss with a `learning_rate_share` is a group of its own, with that share of the loss's rate.

    Each group holds ``base_lr``, from which the schedule sets ``lr`` at every step. Frozen and empty groups are left
    out. With `layer_decay` d each block of the backbone is a group of its own, the i-th before the head with the rate
    times d^i (Clark et al., ELECTRA, 2020; Bao et al., BEiT, 2022). The fused kernels are used wherever torch has them.
    """
    multipliers = settings.lr_multipliers
    described = []
    for name, parameters in model.parameter_groups().items():
        rate = settings.lr * getattr(multipliers, name)
        if name == "backbone" and parameters and settings.layer_decay is not None:
            blocks = model.layered_backbone_parameters()
            for depth, block in enumerate(blocks):
                own = rate * settings.layer_decay ** (len(blocks) - depth)
                described.append({"params": block, "name": name, "lr": own, "base_lr": own})
        else:
            described.append({"params": parameters, "name": name, "lr": rate, "base_lr": rate})
    for share, parameters in _loss_parameters(loss).items():
        rate = settings.lr * multipliers.loss * share
        described.append({"params": parameters, "name": "loss", "lr": rate, "base_lr": rate})
    described = [group for group in described if group["params"]]
    decay = settings.weight_decay
    if settings.name.startswith(TIMM):
        from timm.optim import create_optimizer_v2

        rest = {"momentum": settings.momentum, "weight_decay": decay}
        return create_optimizer_v2(described, opt=settings.name.removeprefix(TIMM), lr=settings.lr, **rest)
    if settings.name == "adamw":
        return torch.optim.AdamW(described, weight_decay=decay, fused=True)
    if settings.name == "adam":
        return torch.optim.Adam(described, weight_decay=decay, fused=True)
    return torch.optim.SGD(described, lr=settings.lr, momentum=settings.momentum, weight_decay=decay, fused=True)


def _loss_parameters(loss: nn.Module) -> dict[float, list[nn.Parameter]]:
    """The parameters of a loss by their share of its learning rate; a share holds for all parts of a part."""
    shares: dict[nn.Parameter, float] = dict.fromkeys(loss.parameters(), 1.0)
    for part in loss.modules():
        share = getattr(part, "learning_rate_share", None)
        if isinstance(share, float):
            shares.update(dict.fromkeys(part.parameters(), share))
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter, share in shares.items():
        if parameter.requires_grad:
            groups.setdefault(share, []).append(parameter)
    return groups


def learning_rate_factor(schedule: ScheduleSettings, progress: float) -> float:
    """What the base learning rate is multiplied by after ``progress`` epochs (a fraction counts the batches).

    ``step`` and ``multistep`` change at whole epochs; ``cosine`` falls to 0 at the end; ``one_cycle`` rises from 1/25
    over the first 30 % and falls to 1/10,000 by a cosine (Smith and Topin 2018, with torch's defaults). A warm-up
    multiplies whatever the schedule says by a line from 0 to 1.

    A pure function: a resumed run needs no scheduler state.
    """
    epoch = math.floor(progress)
    if schedule.name == "step":
        factor = schedule.factor ** (epoch // schedule.step_epochs)
    elif schedule.name == "multistep":
        factor = schedule.factor ** bisect.bisect_right(sorted(schedule.milestones or ()), epoch)
    elif schedule.name == "cosine":
        span = schedule.epochs - schedule.warmup_epochs
        factor = _cosine(1.0, 0.0, max(0.0, progress - schedule.warmup_epochs) / span)
    elif schedule.name == "one_cycle":
        peak = 0.3 * schedule.epochs
        rising = progress < peak
        share = progress / peak if rising else (progress - peak) / (schedule.epochs - peak)
        factor = _cosine(1 / 25, 1.0, share) if rising else _cosine(1.0, 1e-4 / 25, share)
    else:
        factor = 1.0
    if progress < schedule.warmup_epochs:
        factor *= progress / schedule.warmup_epochs
    return factor


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's rate to its base rate times ``factor``."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def all_parameters(optimizer: torch.optim.Optimizer) -> Sequence[nn.Parameter]:
    """Every parameter that the optimizer moves."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(share, 1.0))) / 2
