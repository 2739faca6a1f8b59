"""timm's networks as backbones, against timm itself: features, pixel format, weights from files and from the hub."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn

from ctxtune.config import TrialSettings
from ctxtune.data import EvaluationImages, TrainingImages, load
from ctxtune.errors import ConfigError
from ctxtune.models import ModelSettings, build_model
from ctxtune.models.export import export_model
from ctxtune.models.exported import load_exported
from ctxtune.models.preprocessing import Preprocessing
from ctxtune.models.weights import weight_record
from tests.helpers import trees

# A feature map, a token sequence with a class token, a map with the channels last, and a head with a layer of its own.
NETWORKS = {"test_efficientnet": 64, "test_vit": 160, "swin_tiny_patch4_window7_224": 64, "mobilenetv3_small_050": 64}


def network(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, pretrained=False, **options).eval()


def options_for(name: str, size: int) -> dict[str, int]:
    return {"img_size": size} if name.startswith(("test_vit", "swin")) else {}


def saved(model: nn.Module, path: Path) -> Path:
    save_file({key: value.contiguous().clone() for key, value in model.state_dict().items()}, path)
    return path


@pytest.mark.parametrize("name", NETWORKS)
def test_pooled_features_are_those_of_timms_bare_model(name: str, tmp_path: Path) -> None:
    size = NETWORKS[name]
    reference = network(name, **options_for(name, size))  # with its classifier, as published files have it
    weights = saved(reference, tmp_path / "weights.safetensors")
    reference.reset_classifier(0)
    settings = ModelSettings(backbone=f"timm/{name}", weights=str(weights))
    assert settings.pooling == "model"
    model = build_model(settings, image_size=size).eval()
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert torch.allclose(model.backbone(images), reference(images), atol=1e-5)
        assert model(images).shape == (2, 512)


@pytest.mark.parametrize("name", NETWORKS)
def test_other_poolings_see_the_last_features(name: str, tmp_path: Path) -> None:
    size = NETWORKS[name]
    reference = network(name, num_classes=0, **options_for(name, size))
    weights = saved(reference, tmp_path / "weights.safetensors")
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        features = reference.forward_features(images)
    if features.ndim == 3:
        expected = features[:, reference.num_prefix_tokens :].mean(1)
    else:
        expected = features.mean((1, 2) if name.startswith("swin") else (2, 3))
    model = build_model(
        ModelSettings(backbone=f"timm/{name}", weights=str(weights), pooling="average"), image_size=size
    ).eval()
    with torch.no_grad():
        assert torch.allclose(model.pooling(model.backbone(images)), expected, atol=1e-5)


def test_class_token_where_there_is_one(tmp_path: Path) -> None:
    reference = network("test_vit", num_classes=0)
    weights = saved(reference, tmp_path / "weights.safetensors")
    settings = ModelSettings(backbone="timm/test_vit", weights=str(weights), pooling="class_token")
    model = build_model(settings, image_size=160).eval()
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        assert torch.allclose(
            model.pooling(model.backbone(images)), reference.forward_features(images)[:, 0], atol=1e-5
        )
    with pytest.raises(ConfigError, match="test_efficientnet has no class token"):
        build_model(ModelSettings(backbone="timm/test_efficientnet", weights=None, pooling="class_token"))


def test_position_embeddings_are_fitted_to_the_image_size(tmp_path: Path) -> None:
    weights = saved(network("test_vit"), tmp_path / "weights.safetensors")
    settings = ModelSettings(backbone="timm/test_vit", weights=str(weights))
    model = build_model(settings, image_size=96).eval()
    expected = timm.create_model(
        "test_vit", pretrained=True, num_classes=0, img_size=96, pretrained_cfg_overlay={"file": str(weights)}
    ).eval()
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        assert torch.allclose(model.backbone(images), expected(images), atol=1e-5)
    with pytest.raises(ValueError, match="images of 96 px, not 160 x 160"):
        model(torch.randn(1, 3, 160, 160))
    with pytest.raises(ConfigError, match="multiple of its patch, 16 px; found 100 px"):
        build_model(settings, image_size=100)


def test_weights_that_do_not_fit_and_files_that_are_none_are_one_clear_error(tmp_path: Path) -> None:
    weights = saved(network("test_resnet"), tmp_path / "weights.safetensors")
    with pytest.raises(ConfigError, match=r"does not fit timm/test_efficientnet: \d+ missing, such as"):
        build_model(ModelSettings(backbone="timm/test_efficientnet", weights=str(weights)))
    (tmp_path / "text.safetensors").write_text("no tensors")
    torch.save(network("test_resnet"), tmp_path / "pickled.pth")
    for name in ("text.safetensors", "pickled.pth"):
        with pytest.raises(ConfigError, match="cannot be read as a file of tensors"):
            build_model(ModelSettings(backbone="timm/test_resnet", weights=str(tmp_path / name)))
    with pytest.raises(ConfigError, match="there is no file"):
        build_model(ModelSettings(backbone="timm/test_resnet", weights=str(tmp_path / "absent.safetensors")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "timm/test_vitt"}, "did you mean .*timm/test_vit"),
        ({"backbone": "test_vit"}, 'did you mean "timm/test_vit'),
        ({"backbone": "timm/test_vit.no_such"}, "knows no weights 'test_vit.no_such'; there are: test_vit.r160_in1k"),
        ({"backbone": "timm/test_vit", "weights": "IMAGENET1K_V1"}, "`pretrained`, the path of"),
        ({"backbone": "resnet18", "pooling": "model"}, "pooling model is for timm/NAME"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelSettings(**options)


def test_pretrained_weights_without_a_network_say_which_file_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    settings = ModelSettings(backbone="timm/test_vit")
    assert settings.weights == "pretrained"
    with pytest.raises(ConfigError) as caught:
        build_model(settings)
    message = str(caught.value)
    assert "resolve/main/model.safetensors" in message
    assert "model.weights: /path/to/model.safetensors" in message
    assert str(tmp_path) in message
    build_model(settings, load_pretrained=False)


def test_a_file_in_the_hubs_cache_is_taken_without_a_network_and_logged_with_its_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    revision = "0123456789abcdef0123456789abcdef01234567"
    repository = timm.get_pretrained_cfg("test_vit").hf_hub_id
    folder = tmp_path / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(revision)
    snapshot = folder / "snapshots" / revision
    snapshot.mkdir(parents=True)
    reference = network("test_vit")
    saved(reference, snapshot / "model.safetensors")
    settings = ModelSettings(backbone="timm/test_vit")
    model = build_model(settings, image_size=160)
    assert torch.equal(model.backbone.network.patch_embed.proj.weight, reference.patch_embed.proj.weight)
    record = weight_record(settings)
    assert record["model.weights_source"] == f"{repository}@{revision}"
    assert len(record["model.weights_sha256"]) == 64


@pytest.fixture
def photographs(tmp_path: Path) -> Any:
    generator = np.random.default_rng(0)
    images = []
    for height, width in ((200, 260), (260, 190), (230, 230)):
        small = Image.fromarray(generator.integers(0, 256, (height // 5, width // 5, 3), dtype=np.uint8))
        images.append(small.resize((width, height), Image.Resampling.BICUBIC))
    for number, image in enumerate(images):
        (tmp_path / "set" / "train" / f"class{number % 2}").mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "set" / "train" / f"class{number % 2}" / f"{number}.png")
    trees.write_image(tmp_path / "set" / "test" / "other" / "0.png", 0)
    return load("class_folders", tmp_path / "set").train


def trial_with(backbone: str, **image: Any) -> TrialSettings:
    model = {"backbone": backbone, "weights": None, "projector_dim": None}
    return TrialSettings.model_validate({"dataset": {"name": "cub200"}, "model": model, "image": image})


def timms_view(backbone: str, size: int | None) -> Any:
    configuration = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(backbone).to_dict())
    if size is not None:
        configuration["input_size"] = (3, size, size)
    return timm.data.create_transform(**configuration)


@pytest.mark.parametrize(
    ("backbone", "size"), [("tf_efficientnet_lite0", 96), ("test_vit", None), ("vit_base_patch16_siglip_224", 64)]
)
def test_test_views_are_those_of_timms_own_transform(
    backbone: str, size: int | None, photographs: Any, tmp_path: Path
) -> None:
    trial = trial_with(f"timm/{backbone}", **({} if size is None else {"train_crop": size}))
    transform = timms_view(backbone, size)
    ours = EvaluationImages(photographs, trial.images, cache_dir=tmp_path / "cache", workers=0)
    prepared = Preprocessing(
        resize=trial.image.test_resize,
        crop=trial.image.test_crop,
        interpolation=trial.images.filter,
        mean=trial.images.pixel_mean,
        deviation=trial.images.pixel_deviation,
    )
    pictures = [photographs.read(index) for index in range(len(photographs))]
    (images, indices), *rest = list(ours.batches(8))
    ours.close()
    assert not rest
    expected = torch.stack([transform(pictures[index]) for index in indices])
    assert torch.allclose(images, expected, atol=1e-5)
    assert torch.allclose(prepared([pictures[index] for index in indices]), expected, atol=1e-5)


def test_training_views_have_the_networks_statistics_and_interpolation(photographs: Any, tmp_path: Path) -> None:
    whole = {"min_scale": 1.0, "ratio": [1.0, 1.0], "flip": False, "train_crop": 64}
    trial = trial_with("timm/tf_efficientnet_lite0", **whole)
    square = photographs.select(
        [int(np.flatnonzero([photographs.read(index).size == (230, 230) for index in range(3)])[0])], "square"
    )
    for exact in (True, False):
        settings = trial.images.model_copy(update={"exact": exact, "cache": "none"})
        images = TrainingImages(square, settings, cache_dir=tmp_path / "cache", workers=0)
        found = next(images.batches(np.array([[0]]), 0))[0]
        images.close()
        picture = square.read(0)
        side = min(picture.size)
        assert picture.size == (side, side)
        pixels = np.asarray(picture.resize((64, 64), Image.Resampling.BICUBIC), dtype=np.float32) / 255
        expected = (torch.from_numpy(pixels).permute(2, 0, 1) - 0.5) / 0.5
        assert (found[0] - expected).abs().max() < (1e-5 if exact else 3 / 127.5)


def test_said_crops_win_and_unsaid_ones_come_from_the_network() -> None:
    assert trial_with("timm/tf_efficientnet_lite0").image.model_dump(
        include={"train_crop", "test_crop", "test_resize"}
    ) == {"train_crop": 224, "test_crop": 224, "test_resize": 256}
    dinov2 = trial_with("timm/vit_small_patch14_dinov2", train_crop=224)
    assert (dinov2.image.test_crop, dinov2.image.test_resize) == (224, 224)
    squashed = trial_with("timm/vit_base_patch16_siglip_384")
    assert squashed.image.test_crop == 384
    assert trial_with("timm/test_vit", test_crop=None, test_resize=None).image.test_resize is None
    assert trial_with("timm/tf_efficientnet_lite0", mean=[0.1, 0.2, 0.3]).images.pixel_mean == (0.1, 0.2, 0.3)
    assert trial_with("timm/tf_efficientnet_lite0").images.pixel_mean == (0.5, 0.5, 0.5)
    assert trial_with("resnet18").images == trial_with("resnet18").image.model_copy(
        update={"mean": (0.485, 0.456, 0.406), "deviation": (0.229, 0.224, 0.225), "interpolation": "bilinear"}
    )


def test_exported_files_carry_the_pixel_format(tmp_path: Path, photographs: Any) -> None:
    torch.manual_seed(0)
    model = build_model(
        ModelSettings(backbone="timm/test_efficientnet", weights=None, embedding_dim=16, projector_dim=None)
    )
    preprocessing = Preprocessing(
        resize=72, crop=64, interpolation="bicubic", mean=(0.5,) * 3, deviation=(0.25, 0.5, 0.5)
    )
    exported = load_exported(export_model(model, tmp_path / "model.pt2", preprocessing=preprocessing))
    assert exported.preprocessing == preprocessing
    with torch.no_grad():
        expected = model.eval()(preprocessing([photographs.read(0)]))
    assert torch.allclose(exported.embed([photographs.read(0)]), expected, atol=1e-4)
