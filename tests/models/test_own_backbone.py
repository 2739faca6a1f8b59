"""A backbone of the user's own, `package.module:Class`, from a real module on the import path."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ctxtune.config import TrialSettings
from ctxtune.errors import ConfigError
from ctxtune.models import ModelSettings, build_model

MODULE = '''
import torch
from torch import nn


class Strides(nn.Module):
    """Feature maps; its pixels are in [-1, 1]."""

    pixel_mean = (0.5, 0.5, 0.5)
    pixel_deviation = (0.5, 0.5, 0.5)
    interpolation = "bicubic"
    image_size = 48
    crop_share = 1.0
    width = 12

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.body = nn.Conv2d(8, 12, 3, stride=2)

    def forward(self, images):
        return self.body(self.stem(images).relu())


class Tokens(nn.Module):
    """Token sequences behind a class token, for one image size."""

    class_tokens = 1

    def __init__(self, image_size):
        super().__init__()
        self.width = 6
        self.project = nn.Conv2d(3, 6, 8, stride=8)
        self.class_token = nn.Parameter(torch.randn(1, 1, 6))
        self.position = nn.Parameter(torch.randn(1, (image_size // 8) ** 2 + 1, 6))

    def forward(self, images):
        patches = self.project(images).flatten(2).mT
        return torch.cat([self.class_token.expand(len(images), -1, -1), patches], dim=1) + self.position


class Liar(Strides):
    width = 13


class Nameless(nn.Module):
    def forward(self, images):
        return images


class Broken(Strides):
    def __init__(self):
        raise RuntimeError("no such codebook")


class Pairs(Strides):
    def forward(self, images):
        return images, images


class Vectors(Strides):
    width = 3

    def forward(self, images):
        return images.mean((2, 3))
'''


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "my_networks.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("my_networks", None)


def settings(name: str, **options: Any) -> ModelSettings:
    return ModelSettings(**{"backbone": f"my_networks:{name}", "embedding_dim": 5, "projector_dim": None, **options})


def test_maps_and_tokens_are_pooled() -> None:
    images = torch.randn(2, 3, 48, 48)
    maps = build_model(settings("Strides")).eval()
    with torch.no_grad():
        expected = maps.backbone.network(images)
        assert expected.shape == (2, 12, 11, 11)
        assert torch.allclose(maps.pooling(maps.backbone(images)), expected.mean((2, 3)), atol=1e-6)
        assert maps(images).shape == (2, 5)
        for pooling, pooled in {
            "average": lambda tokens: tokens[:, 1:].mean(1),
            "max": lambda tokens: tokens[:, 1:].amax(1),
            "class_token": lambda tokens: tokens[:, 0],
        }.items():
            model = build_model(settings("Tokens", pooling=pooling), image_size=48).eval()
            assert torch.allclose(
                model.pooling(model.backbone(images)), pooled(model.backbone.network(images)), atol=1e-6
            )
        vectors = build_model(settings("Vectors")).eval()
        assert torch.allclose(vectors.pooling(vectors.backbone(images)), images.mean((2, 3)))


def test_its_pixel_format_reaches_every_view() -> None:
    trial = TrialSettings.model_validate({"dataset": {"name": "cub200"}, "model": {"backbone": "my_networks:Strides"}})
    images = trial.images
    assert (images.pixel_mean, images.pixel_deviation, images.filter) == ((0.5,) * 3, (0.5,) * 3, "bicubic")
    assert (images.train_crop, images.test_crop, images.test_resize) == (48, 48, 48)


def test_weights_from_a_file_and_state_dicts_round_trip(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = build_model(settings("Strides"))
    torch.save(first.backbone.network.state_dict(), tmp_path / "own.pth")
    torch.save(first.state_dict(), tmp_path / "ours.pth")
    for name in ("own.pth", "ours.pth"):
        again = build_model(settings("Strides", weights=str(tmp_path / name)))
        assert torch.equal(again.backbone.network.stem.weight, first.backbone.network.stem.weight)
    with pytest.raises(ConfigError, match=r"does not fit my_networks:Tokens: \d+ missing"):
        build_model(settings("Tokens", weights=str(tmp_path / "own.pth")), image_size=48)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_networks:Absent", "has no 'Absent'"),
        ("no_such_module:Class", "cannot import 'no_such_module'"),
        ("collections:OrderedDict", "no torch.nn.Module class"),
        ("my_networks:", "package.module:Class"),
    ],
)
def test_classes_that_cannot_be_had_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelSettings(backbone=name)


def test_a_broken_contract_is_one_clear_error() -> None:
    images = torch.randn(1, 3, 48, 48)
    with pytest.raises(ConfigError, match="its width is 13, but it gave 12 channels"):
        build_model(settings("Liar"))(images)
    with pytest.raises(ConfigError, match="`width` must be the number of channels"):
        build_model(settings("Nameless"))
    with pytest.raises(ConfigError, match="RuntimeError: no such codebook"):
        build_model(settings("Broken"))
    with pytest.raises(ConfigError, match="it gave tuple"):
        build_model(settings("Pairs"))(images)
    with pytest.raises(ConfigError, match="states no class_tokens"):
        build_model(settings("Strides", pooling="class_token"))
    with pytest.raises(ConfigError, match="pooling must be model"):
        build_model(settings("Vectors", pooling="gem"))(images)
    with pytest.raises(ValidationError, match="no published weights"):
        settings("Strides", weights="pretrained")
