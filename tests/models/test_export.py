"""Exported models give the embeddings of the model they come from, and carry their preprocessing."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from ctxtune.data import EvaluationImages, ImageSettings, load
from ctxtune.errors import ConfigError
from ctxtune.models import EmbeddingModel, ModelSettings, build_model
from ctxtune.models.export import export_model
from ctxtune.models.exported import load_exported
from ctxtune.models.preprocessing import Preprocessing
from tests.helpers import trees
from tests.helpers.disks import tiny_disk

HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
SUFFIXES = [
    ".pt",
    ".pt2",
    pytest.param(".onnx", marks=pytest.mark.skipif(not HAS_ONNX, reason="onnx, onnxscript, onnxruntime not installed")),
]
SMALL = Preprocessing(resize=36, crop=32)


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def trained(**options: Any) -> EmbeddingModel:
    """A model whose batch norm statistics differ from their start, in training mode."""
    torch.manual_seed(0)
    model = build_model(ModelSettings(**{"backbone": "small_conv", "width": 16, "embedding_dim": 24, **options}))
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, 3, 32, 32) + 0.5)
    return model


def embeddings_of(model: EmbeddingModel, images: Tensor) -> Tensor:
    model.eval()
    with torch.no_grad():
        return model(images)


def difference(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_exported_file_gives_the_same_embeddings_for_any_batch(suffix: str, tmp_path: Path) -> None:
    model = trained(projector_dim=48, pooling="gem", gem_trainable=True, layer_norm=True, layer_norm_affine=True)
    path = export_model(model, tmp_path / "deep" / f"model{suffix}", preprocessing=SMALL)
    assert model.training, "the caller's model is left as it was"
    assert model.projector is not None
    exported = load_exported(path)
    for batch in (1, 2, 7):
        images = torch.randn(batch, 3, 32, 32)
        assert difference(exported(images), embeddings_of(model, images)) < 1e-5
    assert sorted(entry.name for entry in path.parent.iterdir()) == [f"model{suffix}", f"model{suffix}.json"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_leaves_the_file_that_was_there(suffix: str, tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", 8) as disk:
        path = disk / f"model{suffix}"
        path.write_bytes(b"earlier")
        with pytest.raises(OSError, match="No space left on device") as refused:
            export_model(trained(), path, preprocessing=SMALL)
        assert refused.value.filename == str(path)
        assert path.read_bytes() == b"earlier" and list(disk.iterdir()) == [path]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pictures_are_embedded_as_the_stated_preprocessing_says(suffix: str, tmp_path: Path) -> None:
    model = trained()
    path = export_model(model, tmp_path / f"model{suffix}", preprocessing=SMALL, normalized=True)
    (tmp_path / f"model{suffix}.json").unlink()  # the file alone is enough
    pictures = [picture(60, 48, 1), picture(40, 90, 2).convert("L"), picture(36, 36, 3).convert("RGBA")]
    independent = transforms.Compose(
        [
            transforms.Resize(36),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    images = torch.stack([independent(image.convert("RGB")) for image in pictures])
    expected = torch.nn.functional.normalize(embeddings_of(model, images), dim=1)
    found = load_exported(path).embed(pictures)
    assert difference(found, expected) < 1e-5
    assert torch.allclose(found.norm(dim=1), torch.ones(3))


def test_pictures_are_prepared_as_evaluations_prepare_them(tmp_path: Path) -> None:
    trees.class_folders(tmp_path, {"train": 2, "test": 1}, images=1)
    files = [tmp_path / "train/class000/0.jpg", tmp_path / "train/class001/0.png"]
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(60, 48, 1).save(files[0], exif=turned)
    files[1].with_suffix(".jpg").unlink()
    transparent = picture(50, 50, 2).convert("RGBA")
    transparent.putalpha(picture(50, 50, 3).convert("L"))
    transparent.save(files[1])
    split = load("class_folders", tmp_path).train
    images = EvaluationImages(split, ImageSettings(test_resize=36, test_crop=32), cache_dir=tmp_path / "cache")
    expected, _ = next(iter(images.batches(2)))
    images.close()
    assert torch.allclose(SMALL([Image.open(file) for file in files]), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
def test_resnet_with_frozen_batch_norm_exports(suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(build_model(ModelSettings(backbone="resnet18", weights=None)).backbone.state_dict(), tmp_path / "w.pth")
    model = build_model(ModelSettings(backbone="resnet18", weights=str(tmp_path / "w.pth"), pooling="average"))
    path = export_model(model, tmp_path / f"model{suffix}", preprocessing=Preprocessing(resize=(64, 64), crop=None))
    images = torch.randn(3, 3, 64, 64)
    assert difference(load_exported(path)(images), embeddings_of(model, images)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("backbone", "pooling"),
    [("vit_b_32", "class_token"), ("vit_b_32", "average"), ("swin_t", "average"), ("convnext_tiny", "gem"),
     ("efficientnet_b0", "average_max"), ("mobilenet_v3_small", "max"), ("densenet121", "gem")],
)  # fmt: skip
def test_other_families_export(backbone: str, pooling: str, suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = ModelSettings.model_validate({"backbone": backbone, "weights": None, "pooling": pooling})
    model = build_model(settings, image_size=96)
    path = export_model(model, tmp_path / f"model{suffix}", preprocessing=Preprocessing(resize=96, crop=96))
    images = torch.randn(3, 3, 96, 96)
    assert difference(load_exported(path)(images), embeddings_of(model, images)) < 1e-4


def test_sidecar_says_how_images_are_prepared_and_what_the_model_is(tmp_path: Path) -> None:
    model = trained()
    export_model(model, tmp_path / "model.pt2", preprocessing=SMALL)
    content = json.loads((tmp_path / "model.pt2.json").read_text())
    assert content["format"] == "torch_export"
    assert content["input"]["shape"] == ["batch", 3, 32, 32]
    assert content["output"]["shape"] == ["batch", 24]
    assert content["preprocessing"] == {
        "resize": 36,
        "crop": 32,
        "interpolation": "bilinear",
        "mean": [0.485, 0.456, 0.406],
        "deviation": [0.229, 0.224, 0.225],
    }
    assert ModelSettings(**content["model"]) == model.settings
    assert load_exported(tmp_path / "model.pt2").metadata == content


def test_preprocessing_to_a_square_without_crop() -> None:
    prepared = Preprocessing(resize=(20, 30), crop=None)([picture(40, 40), picture(60, 20)])
    assert prepared.shape == (2, 3, 20, 30)
    with pytest.raises(ValueError, match="different sizes"):
        Preprocessing(resize=20, crop=None)([picture(40, 40), picture(60, 20)])


def test_what_cannot_be_exported_is_one_clear_error(tmp_path: Path) -> None:
    model = trained()
    with pytest.raises(ConfigError, match=r"suffix '\.h5' stands for no export format; use one of \.pt"):
        export_model(model, tmp_path / "model.h5", preprocessing=SMALL)
    with pytest.raises(ConfigError, match="size of the exported model's images is open"):
        export_model(model, tmp_path / "model.pt", preprocessing=Preprocessing(resize=36, crop=None))
    too_small = Preprocessing(resize=4, crop=4)
    with pytest.raises(ConfigError, match="small_conv cannot be written as torchscript"):
        export_model(model, tmp_path / "model.pt", preprocessing=too_small)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(HAS_ONNX, reason="onnx is installed")
def test_onnx_without_its_packages_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pip install onnx onnxscript onnxruntime"):
        export_model(trained(), tmp_path / "model.onnx", preprocessing=SMALL)
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_exported_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no exported model"):
        load_exported(tmp_path / "absent.pt")
    torch.save({"a": torch.zeros(1)}, tmp_path / "checkpoint.pt")
    with pytest.raises(ConfigError, match="was not exported by ctxtune"):
        load_exported(tmp_path / "checkpoint.pt")
    (tmp_path / "text.pt").write_text("nothing")
    with pytest.raises(ConfigError, match="no TorchScript"):
        load_exported(tmp_path / "text.pt")
