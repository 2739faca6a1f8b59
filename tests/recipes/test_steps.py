"""Each recipe takes training steps: its model head, loss, regularizer and parameter groups, on a small backbone."""

from typing import Any

import pytest
import torch

from ctxtune.config import TrialSettings
from ctxtune.config.paths import merge
from ctxtune.losses.build import TrainingLoss
from ctxtune.models import EmbeddingModel, build_model
from ctxtune.recipes import load_recipe, recipe_names
from ctxtune.training.optimization import build_optimizer

CLASSES = 8
SMALLER = {"model": {"backbone": "small_conv", "weights": None, "width": 16, "batch_norm": "trained"}}


def parts(name: str) -> tuple[TrialSettings, EmbeddingModel, TrainingLoss]:
    torch.manual_seed(0)
    trial = TrialSettings.model_validate({"dataset": {"name": "glyphs"}, **merge(load_recipe(name), SMALLER)})
    model = build_model(trial.model)
    loss = TrainingLoss(
        trial.loss, trial.regularizer, num_classes=CLASSES, embedding_dim=model.training_dim, num_images=4 * CLASSES
    )
    return trial, model, loss


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(CLASSES).repeat_interleave(4)
    means = torch.randn(CLASSES, 3, 32, 32, generator=generator)
    return means[labels] + torch.randn(len(labels), 3, 32, 32, generator=generator), labels


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_trains(name: str) -> None:
    trial, model, loss = parts(name)
    optimizer = build_optimizer(trial.optimizer, model, loss)
    images, labels = batch()
    before = model.embedding.weight.detach().clone()
    for _ in range(2):
        total, terms = loss(model.project(model(images)), labels)
        assert torch.isfinite(total)
        assert ("loss_regularizer" in terms) == (trial.regularizer.weight > 0)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert not torch.equal(model.embedding.weight, before)


def rates(name: str) -> dict[str, Any]:
    trial, model, loss = parts(name)
    return {group["name"]: group["lr"] for group in build_optimizer(trial.optimizer, model, loss).param_groups}


def test_learning_rates_of_the_groups() -> None:
    close = pytest.approx
    assert rates("contextual_cars196_224") == close({"backbone": 8e-5, "embedding": 8e-5, "projector": 1.6e-4})
    assert rates("contextual_cars196_256") == close({"backbone": 8e-5, "embedding": 1.6e-4})
    assert rates("proxy_anchor_sop_224") == close({"backbone": 1.6e-4, "embedding": 1.6e-4, "loss": 1.6e-2})
    assert rates("proxy_nca_cub200_224") == close(
        {"backbone": 1.6e-4, "embedding": 1.6e-4, "projector": 3.2e-4, "loss": 1.6e-2}
    )


@pytest.mark.parametrize(
    ("name", "contextual", "contrastive", "regularizer"),
    [
        ("contextual_cub200_224", 0.95, 0.05, 0.1),
        ("contextual_cars196_224", 0.8, 0.2, 0.1),
        ("contextual_sop_256", 0.4, 0.5, 0.1),
    ],
)
def test_weights_of_the_terms(name: str, contextual: float, contrastive: float, regularizer: float) -> None:
    _, model, loss = parts(name)
    images, labels = batch()
    total, terms = loss(model.project(model(images)), labels)
    expected = contextual * terms["loss_contextual"] + contrastive * terms["loss_contrastive"]
    assert total.item() == pytest.approx((expected + regularizer * terms["loss_regularizer"]).item(), rel=1e-5)


def test_loss_sees_the_projector_and_proxies_have_its_width() -> None:
    _, model, loss = parts("proxy_anchor_cub200_224")
    assert (model.embedding_dim, model.training_dim) == (512, 2048)
    assert [tuple(parameter.shape) for parameter in loss.parameters()] == [(4 * CLASSES, 2048)]
    _, model, loss = parts("proxy_anchor_by_class_sop_224")
    assert [tuple(parameter.shape) for parameter in loss.parameters()] == [(CLASSES, 512)]
