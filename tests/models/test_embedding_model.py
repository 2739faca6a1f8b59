"""The embedding model: poolings, head, projector, batch norm, parameter groups, settings."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ctxtune.models import EmbeddingModel, ModelSettings, backbone_names, build_model
from ctxtune.models.pooling import build_pooling


def small(**options: Any) -> EmbeddingModel:
    torch.manual_seed(0)
    options = {"backbone": "small_conv", "width": 8, "embedding_dim": 16, "pooling": "average", **options}
    return build_model(ModelSettings(**options))


def resnet(tmp_path: Path, batch_norm: str, **options: Any) -> EmbeddingModel:
    torch.manual_seed(0)
    untrained = build_model(ModelSettings(backbone="resnet18", weights=None))
    torch.save(untrained.backbone.state_dict(), tmp_path / "weights.pth")
    settings = {"backbone": "resnet18", "weights": str(tmp_path / "weights.pth"), "projector_dim": None, **options}
    return build_model(ModelSettings(batch_norm=batch_norm, **settings))


FEATURES = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[0.5, 0.5], [0.5, 0.5]]]])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("average", [2.5, 0.5]),
        ("max", [4.0, 0.5]),
        ("average_max", [6.5, 1.0]),
        ("gem", [25.0 ** (1 / 3), 0.5]),  # (1 + 8 + 27 + 64) / 4 = 25
    ],
)
def test_poolings_by_hand(name: str, expected: list[float]) -> None:
    assert torch.allclose(build_pooling(name)(FEATURES), torch.tensor([expected]), atol=1e-6)


def test_gem_power_fixed_and_learned() -> None:
    expected = torch.tensor([[7.5**0.5, 0.5]])  # (1 + 4 + 9 + 16) / 4 = 7.5
    assert torch.allclose(build_pooling("gem", gem_power=2.0)(FEATURES), expected, atol=1e-6)
    fixed, learned = build_pooling("gem"), build_pooling("gem", gem_trainable=True)
    assert torch.allclose(fixed(FEATURES), learned(FEATURES), atol=1e-6)
    assert not any(parameter.requires_grad for parameter in fixed.parameters())
    inputs = FEATURES.double().requires_grad_()
    assert torch.autograd.gradcheck(build_pooling("gem").double(), inputs)
    assert torch.autograd.gradcheck(build_pooling("gem", gem_trainable=True).double(), inputs)
    learned(FEATURES).sum().backward()
    assert learned.power.grad is not None
    assert learned.power.grad.item() > 0  # a power mean grows with its power


def test_gem_in_half_precision_neither_under_nor_overflows() -> None:
    features = torch.tensor([1e-3, 60.0]).view(1, 2, 1, 1).expand(1, 2, 7, 7).half()
    assert torch.allclose(build_pooling("gem")(features), features[:, :, 0, 0].float(), rtol=1e-4)


def test_embeddings_are_float32_under_autocast_and_not_normalized() -> None:
    model = small().eval()
    images = torch.randn(4, 3, 32, 32)
    plain = model(images)
    assert plain.shape == (4, 16)
    assert plain.dtype == torch.float32
    assert not torch.allclose(plain.norm(dim=1), torch.ones(4), atol=1e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(images)
    assert mixed.dtype == torch.float32
    assert torch.allclose(mixed, plain, atol=0.1 * plain.abs().max().item())


def test_head_is_pooling_layer_norm_linear() -> None:
    model = small(layer_norm=True, pooling="max").eval()
    images = torch.randn(4, 3, 32, 32)
    pooled = model.backbone(images).amax((2, 3))
    normalized = (pooled - pooled.mean(1, keepdim=True)) / (pooled.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    expected = normalized @ model.embedding.weight.T + model.embedding.bias
    assert torch.allclose(model(images), expected, atol=1e-5)
    assert list(model.normalization.parameters()) == []
    assert len(list(small(layer_norm=True, layer_norm_affine=True).normalization.parameters())) == 2


def test_embedding_starts_kaiming_normal_by_fan_out() -> None:
    model = small(embedding_dim=2048, width=32)
    assert model.embedding.weight.std().item() == pytest.approx((2 / 2048) ** 0.5, rel=0.02)
    assert model.embedding.weight.abs().max().item() > 3.5 * (2 / 2048) ** 0.5  # normal, not uniform
    assert model.embedding.bias.abs().max().item() == 0.0
    plain = small(embedding_dim=2048, width=32, embedding_init="torch_default")
    assert plain.embedding.weight.abs().max().item() <= (1 / 128) ** 0.5


def test_projector_serves_training_only() -> None:
    model = small(projector_dim=48)
    assert (model.embedding_dim, model.training_dim) == (16, 48)
    embeddings = model(torch.randn(4, 3, 32, 32))
    assert embeddings.shape == (4, 16)
    projected = model.project(embeddings)
    expected = embeddings @ model.projector.weight.T
    assert torch.allclose(projected, expected / expected.norm(dim=1, keepdim=True), atol=1e-6)
    assert model.projector.bias is None
    assert torch.equal(model.project(torch.zeros(2, 16)), torch.zeros(2, 48))
    without = small()
    assert without.training_dim == 16
    assert without.project(embeddings) is embeddings


@pytest.mark.parametrize(
    ("batch_norm", "statistics_move", "affine_trains"),
    [("trained", True, True), ("frozen_statistics", False, True), ("frozen", False, False)],
)
def test_batch_norm_is_frozen_as_said_and_stays_so(
    batch_norm: str, statistics_move: bool, affine_trains: bool, tmp_path: Path
) -> None:
    model = resnet(tmp_path, batch_norm)
    layer = model.backbone.layer3[0].bn1
    for _ in range(2):  # train() again after eval() must not thaw anything
        model.eval()
        model.train()
        before = (layer.running_mean.clone(), layer.weight.detach().clone(), layer.bias.detach().clone())
        parameters = [p for group in model.parameter_groups().values() for p in group]
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        model(torch.randn(4, 3, 32, 32)).square().mean().backward()
        optimizer.step()
        assert (not torch.equal(layer.running_mean, before[0])) == statistics_move
        assert (not torch.equal(layer.weight, before[1])) == affine_trains
        assert (not torch.equal(layer.bias, before[2])) == affine_trains
    assert model.backbone.layer3[0].training
    assert layer.training == statistics_move


def test_frozen_batch_norm_gives_the_same_embeddings_in_both_modes(tmp_path: Path) -> None:
    model = resnet(tmp_path, "frozen_statistics")
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(model.train()(images), model.eval()(images))


def test_parameter_groups_hold_each_trainable_parameter_once(tmp_path: Path) -> None:
    model = resnet(tmp_path, "frozen", projector_dim=32, gem_trainable=True, layer_norm=True, layer_norm_affine=True)
    groups = model.parameter_groups()
    assert list(groups) == ["backbone", "embedding", "projector"]
    found = [id(parameter) for group in groups.values() for parameter in group]
    assert len(found) == len(set(found))
    expected = {id(p) for n, p in model.named_parameters() if ".bn" not in n and ".downsample.1." not in n}
    assert set(found) == expected
    assert {id(p) for p in model.parameters() if p.requires_grad} == expected
    assert len(groups["embedding"]) == 1 + 2 + 2  # GeM's power, LayerNorm, the linear embedding


def test_head_warm_up_freezes_the_backbone_and_thaws_what_batch_norm_allows(tmp_path: Path) -> None:
    model = resnet(tmp_path, "frozen")
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    backbone_group = model.parameter_groups()["backbone"]
    model.set_backbone_trainable(False)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"embedding.weight", "embedding.bias"}
    assert [id(p) for p in model.parameter_groups()["backbone"]] == [id(p) for p in backbone_group]
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    model.set_backbone_trainable(True)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trainable


def test_same_seed_same_model_and_state_dict_round_trip() -> None:
    first, second = small(projector_dim=8), small(projector_dim=8)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    torch.manual_seed(1)
    other = build_model(first.settings)
    other.load_state_dict(first.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(first.eval()(images), other.eval()(images))


@pytest.mark.parametrize("size", [28, 32, 48, 64])
def test_small_conv_takes_small_images(size: int) -> None:
    model = small(width=16)
    assert model(torch.randn(2, 3, size, size)).shape == (2, 16)
    assert sum(p.numel() for p in model.backbone.parameters()) < 100_000


def test_defaults_follow_the_backbone() -> None:
    published = ModelSettings()
    assert published.model_dump() == {
        "backbone": "resnet50",
        "weights": "IMAGENET1K_V1",
        "train": "full",
        "pooling": "gem",
        "gem_power": 3.0,
        "gem_trainable": False,
        "layer_norm": False,
        "layer_norm_affine": False,
        "embedding_dim": 512,
        "embedding_init": "kaiming_normal",
        "projector_dim": 2048,
        "batch_norm": "frozen",
        "width": None,
    }
    tiny = ModelSettings(backbone="small_conv")
    assert (tiny.weights, tiny.pooling, tiny.projector_dim, tiny.batch_norm, tiny.width) == (
        None,
        "gem",
        None,
        "trained",
        32,
    )
    assert ModelSettings(backbone="resnet18", weights=None).batch_norm == "trained"
    for settings in (published, tiny):
        assert ModelSettings(**settings.model_dump()) == settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet51"}, 'did you mean "resnet50'),
        ({"backbone": "resnet50", "weights": "IMAGENET1K_V9"}, "it has IMAGENET1K_V1, IMAGENET1K_V2"),
        ({"backbone": "small_conv", "weights": "IMAGENET1K_V1"}, "small_conv has no published weights"),
        ({"backbone": "resnet50", "width": 32}, "width belongs to small_conv"),
        ({"pooling": "class_token"}, "resnet50 has no class token"),
        ({"layer_norm_affine": True}, "layer_norm is false"),
        ({"weights": None, "batch_norm": "frozen"}, "use batch_norm: trained"),
        ({"poolings": "gem"}, "poolings"),
        ({"embedding_dim": 0}, "embedding_dim"),
        (
            {"embedding_dim": 16_384, "projector_dim": 65_536},
            "1,073,741,824 weights of the projector; expected at most",
        ),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelSettings(**options)


def test_every_classification_model_of_torchvision_is_a_backbone() -> None:
    names = backbone_names()
    assert {"resnet50", "convnext_tiny", "vit_b_16", "swin_t", "efficientnet_b0", "small_conv"} <= set(names)
    assert not any("segmentation" in name or "rcnn" in name or "raft" in name for name in names)


def test_unknown_pooling_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="unknown pooling 'mean'"):
        build_pooling("mean")


def test_channels_last_and_plain_layout_agree() -> None:
    model = small(pooling="gem").eval()
    images = torch.randn(4, 3, 32, 32)
    expected = model(images)
    found = model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    assert torch.allclose(found, expected, atol=1e-5)
