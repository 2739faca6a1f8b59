"""Learning-rate schedules against torch's own, and optimizer groups against the settings."""

import pytest
import torch
from pydantic import ValidationError

from ctxtune.config.trial import LearningRateMultipliers, OptimizerSettings, ScheduleSettings
from ctxtune.losses import TrainingLoss
from ctxtune.losses.settings import LossSettings, RegularizerSettings
from ctxtune.models import build_model
from ctxtune.models.settings import ModelSettings
from ctxtune.training.optimization import build_optimizer, learning_rate_factor, set_learning_rates


def by_torch(scheduler_type, epochs: int, **options) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = scheduler_type(optimizer, **options)
    rates = []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("settings", "scheduler", "options"),
    [
        (
            {"name": "step", "step_epochs": 4, "factor": 0.3},
            torch.optim.lr_scheduler.StepLR,
            {"step_size": 4, "gamma": 0.3},
        ),
        (
            {"name": "multistep", "milestones": (3, 5, 11), "factor": 0.5},
            torch.optim.lr_scheduler.MultiStepLR,
            {"milestones": [3, 5, 11], "gamma": 0.5},
        ),
        ({"name": "cosine"}, torch.optim.lr_scheduler.CosineAnnealingLR, {"T_max": 20}),
        ({"name": "constant"}, torch.optim.lr_scheduler.ConstantLR, {"factor": 1.0}),
    ],
)
def test_schedules_equal_those_of_torch(settings, scheduler, options):
    schedule = ScheduleSettings(epochs=20, **settings)
    ours = [learning_rate_factor(schedule, float(epoch)) for epoch in range(20)]
    assert ours == pytest.approx(by_torch(scheduler, 20, **options), abs=1e-12)


def test_one_cycle_equals_that_of_torch_step_by_step():
    schedule, steps = ScheduleSettings(name="one_cycle", epochs=10), 1000
    theirs = by_torch(torch.optim.lr_scheduler.OneCycleLR, steps, max_lr=1.0, total_steps=steps + 1)
    ours = [learning_rate_factor(schedule, 10 * step / steps) for step in range(steps)]
    # torch counts its steps from 0 to total - 1, with the peak at 0.3 * total - 1: one step of shift.
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < 0.01
    assert max(ours) == pytest.approx(1.0, abs=1e-4)


def test_warm_up_rises_linearly_from_zero():
    schedule = ScheduleSettings(name="constant", epochs=10, warmup_epochs=4)
    assert [learning_rate_factor(schedule, epoch / 2) for epoch in range(10)] == pytest.approx(
        [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1, 1]
    )


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "timm/lion", "timm/lamb", "timm/sgdw"])
def test_every_parameter_is_in_one_group_with_its_rate(name):
    model = build_model(
        ModelSettings(backbone="small_conv", width=16, embedding_dim=16, projector_dim=32), image_size=32
    )
    loss = TrainingLoss(
        LossSettings(name="proxy_anchor"), RegularizerSettings(weight=0.0), num_classes=5, embedding_dim=32
    )
    settings = OptimizerSettings(name=name, lr=1e-3, lr_multipliers=LearningRateMultipliers(backbone=0.5, loss=100))
    optimizer = build_optimizer(settings, model, loss)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == pytest.approx({"backbone": 5e-4, "embedding": 1e-3, "projector": 2e-3, "loss": 0.1})
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for module in (model, loss) for p in module.parameters() if p.requires_grad}
    set_learning_rates(optimizer, 0.1)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(5e-5)


def test_an_optimizer_of_timms_steps_as_torchs_own_of_that_name() -> None:
    found = []
    for name in ("adamw", "timm/adamw"):
        torch.manual_seed(0)
        model = build_model(ModelSettings(backbone="small_conv", width=16, embedding_dim=16), image_size=32)
        loss = TrainingLoss(
            LossSettings(name="contrastive"), RegularizerSettings(weight=0.0), num_classes=5, embedding_dim=16
        )
        optimizer = build_optimizer(OptimizerSettings(name=name, lr=1e-2, weight_decay=0.1), model, loss)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.linspace(-1, 1, 4 * 3 * 32 * 32).view(4, 3, 32, 32)).square().sum().backward()
            optimizer.step()
        found.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.allclose(*found, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("adamx", 'unknown optimizer .adamx. .*; did you mean "adam'),
        ("timm/lio", 'timm has no optimizer .lio.; did you mean "lion"'),
    ],
)
def test_an_unknown_optimizer_is_named_with_the_nearest(name, said) -> None:
    with pytest.raises(ValidationError, match=said):
        OptimizerSettings(name=name)


def test_a_part_of_the_loss_with_a_share_of_its_rate() -> None:
    model = build_model(
        ModelSettings(backbone="small_conv", width=16, embedding_dim=16, projector_dim=None), image_size=32
    )
    loss = TrainingLoss(LossSettings(name="hist"), RegularizerSettings(weight=0.0), num_classes=5, embedding_dim=16)
    settings = OptimizerSettings(lr=1e-4, lr_multipliers=LearningRateMultipliers(loss=1000))
    groups = build_optimizer(settings, model, loss).param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    shares = {name: rates[id(parameter)] for name, parameter in loss.named_parameters()}
    assert all(rate == pytest.approx(1e-3 if ".network." in name else 0.1) for name, rate in shares.items()), shares
