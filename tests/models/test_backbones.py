"""Backbones against torchvision's own classification models, and their weights from files."""

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import Tensor, nn

from ctxtune.errors import ConfigError
from ctxtune.models import ModelSettings, build_model

# One small member per family; the module of the original whose first input (or output) is the pooled feature.
POOLED_INPUT_OF = {
    "densenet121": "classifier",
    "efficientnet_b0": "classifier",
    "googlenet": "fc",
    "inception_v3": "fc",
    "mnasnet0_5": "classifier",
    "mobilenet_v2": "classifier",
    "mobilenet_v3_small": "classifier",
    "regnet_y_400mf": "fc",
    "resnet18": "fc",
    "shufflenet_v2_x0_5": "fc",
    "swin_t": "head",
    "convnext_tiny": "classifier",
    "maxvit_t": "classifier.2",
}
FEATURES_OF = [
    "squeezenet1_1",
    pytest.param("alexnet", marks=pytest.mark.slow),  # their classifiers alone take seconds to build
    pytest.param("vgg11_bn", marks=pytest.mark.slow),
]
IMAGE_SIZE = {"maxvit_t": 224, "inception_v3": 96}


def seen_by(module: nn.Module) -> list[Tensor]:
    seen: list[Tensor] = []
    module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    return seen


def difference(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def original(name: str) -> nn.Module:
    options: dict[str, Any] = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, **options).eval()
    if hasattr(model, "transform_input"):
        model.transform_input = True  # as torchvision sets it with its weights
    return model


def ours(name: str, path: Path, **options: Any) -> nn.Module:
    settings = ModelSettings(**{"backbone": name, "weights": str(path), "pooling": "average", **options})
    return build_model(settings).eval()


SLOW = ("googlenet", "inception_v3", "maxvit_t")
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in POOLED_INPUT_OF]


@pytest.mark.parametrize("name", NAMES)
def test_pooled_features_equal_those_of_the_classification_model(name: str, tmp_path: Path) -> None:
    reference = original(name)
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    model = ours(name, tmp_path / "weights.pth")
    size = IMAGE_SIZE.get(name, 64)
    images = torch.randn(2, 3, size, size)
    expected = seen_by(reference.get_submodule(POOLED_INPUT_OF[name]))
    found = seen_by(model.embedding)
    with torch.inference_mode():
        reference(images)
        model(images)
    assert difference(found[0], expected[0].flatten(1)) < 1e-5


@pytest.mark.parametrize("name", FEATURES_OF)
def test_feature_maps_equal_those_of_the_classification_model(name: str, tmp_path: Path) -> None:
    reference = original(name)
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    model = ours(name, tmp_path / "weights.pth")
    images = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        assert torch.allclose(model.backbone(images), reference.features(images), atol=1e-5)


def test_vision_transformer_gives_class_token_or_patch_tokens_at_any_multiple_of_its_patch(tmp_path: Path) -> None:
    reference = original("vit_b_32")
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    images = torch.randn(2, 3, 224, 224)
    class_token, tokens = seen_by(reference.heads), []
    reference.encoder.register_forward_hook(lambda module, inputs, output: tokens.append(output))
    settings = {"backbone": "vit_b_32", "weights": str(tmp_path / "weights.pth")}
    with torch.inference_mode():
        reference(images)
        model = build_model(ModelSettings(**settings, pooling="class_token")).eval()
        found = seen_by(model.embedding)
        model(images)
        assert torch.allclose(found[0], class_token[0], atol=1e-5)
        model.backbone.class_token_only = False
        features = model.backbone(images)
        assert features.shape == (2, 768, 7, 7)
        assert torch.allclose(features.flatten(2).mT, tokens[0][:, 1:], atol=1e-5)
        assert torch.allclose(features[:, :, 0, 6], tokens[0][:, 7], atol=1e-5)
        smaller = build_model(ModelSettings(**settings, pooling="average"), image_size=96).eval()
        assert smaller.backbone(torch.randn(1, 3, 96, 96)).shape == (1, 768, 3, 3)
        with pytest.raises(ValueError, match="images of 96 px, not 224 x 224"):
            smaller(images)
    with pytest.raises(ConfigError, match="multiple of its patch, 32 px"):
        build_model(ModelSettings(**settings, pooling="average"), image_size=100)


def test_maxvit_refuses_a_size_it_cannot_take() -> None:
    with pytest.raises(ConfigError, match="maxvit_t cannot take images of 100 px"):
        build_model(ModelSettings(backbone="maxvit_t", weights=None), image_size=100)


def test_wrapped_and_prefixed_files_are_understood(tmp_path: Path) -> None:
    reference = original("resnet18")
    wrapped = {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in reference.state_dict().items()}}
    torch.save(wrapped, tmp_path / "weights.pth")
    model = ours("resnet18", tmp_path / "weights.pth")
    assert torch.equal(model.backbone.layer4[1].conv2.weight, reference.layer4[1].conv2.weight)
    torch.save(model.state_dict(), tmp_path / "ours.pth")
    again = ours("resnet18", tmp_path / "ours.pth")
    assert torch.equal(again.backbone.bn1.weight, reference.bn1.weight)


def test_old_densenet_names_are_understood(tmp_path: Path) -> None:
    reference = original("densenet121")
    old = {}
    for key, value in reference.state_dict().items():
        for part in ("norm1", "norm2", "conv1", "conv2"):
            if "denselayer" in key:
                key = key.replace(part, f"{part[:-1]}.{part[-1]}")
        old[key] = value
    torch.save(old, tmp_path / "weights.pth")
    model = ours("densenet121", tmp_path / "weights.pth")
    name = "features.denseblock1.denselayer1.conv1.weight"
    assert torch.equal(model.backbone.get_parameter(name), reference.get_parameter(name))


def test_a_file_that_does_not_fit_is_one_clear_error(tmp_path: Path) -> None:
    torch.save(original("resnet18").state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match=r"does not fit resnet50: \d+ missing, such as layer1.0.conv3.weight"):
        ours("resnet50", tmp_path / "weights.pth")
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(ConfigError, match="cannot be read as a file of tensors"):
        ours("resnet18", tmp_path / "text.pth")
    torch.save(original("resnet18"), tmp_path / "pickled.pth")
    with pytest.raises(ConfigError, match="cannot be read as a file of tensors"):
        ours("resnet18", tmp_path / "pickled.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ConfigError, match="holds no state_dict"):
        ours("resnet18", tmp_path / "list.pth")
    with pytest.raises(ConfigError, match="there is no file"):
        ours("resnet18", tmp_path / "absent.pth")


def test_torchvision_weights_are_loaded_and_a_failed_download_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    opened = []

    def no_network(opener: Any, request: Any, *args: Any, **kwargs: Any) -> None:
        opened.append(request.full_url)
        raise URLError("no route to host")

    monkeypatch.setattr("urllib.request.OpenerDirector.open", no_network)
    settings = ModelSettings(backbone="resnet18", weights="IMAGENET1K_V1", pooling="average")
    with pytest.raises(ConfigError, match="no route to host") as caught:
        build_model(settings)
    assert opened == [url]
    cached = tmp_path / "hub" / "checkpoints" / Path(url).name
    assert str(cached) in str(caught.value)
    # As the message advises: the file at that place is used without a network.
    reference = original("resnet18")
    cached.parent.mkdir(parents=True, exist_ok=True)
    torch.save(reference.state_dict(), cached)
    assert torch.equal(build_model(settings).backbone.conv1.weight, reference.conv1.weight)
    build_model(ModelSettings(backbone="resnet34"), load_pretrained=False)
    assert opened == [url]
