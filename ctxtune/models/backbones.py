"""Backbones by name: torchvision's classification models without their classifier, timm's, and the user's own.

Those of torchvision keep its names, so a state_dict of the whole classification model fits (see weights.py).
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ctxtune.errors import ConfigError
from ctxtune.imagenet import IMAGENET_DEVIATION, IMAGENET_MEAN
from ctxtune.models.own_backbone import build_own
from ctxtune.models.settings import SMALL_CONV, TIMM, ModelSettings, is_own_class
from ctxtune.models.small_conv import small_conv
from ctxtune.models.timm_models import build_timm

if TYPE_CHECKING:
    from torchvision.models import VisionTransformer

DEFAULT_IMAGE_SIZE = 224


class InceptionInput(nn.Module):
    """From ImageNet's mean and deviation to the range [-1, 1] that GoogLeNet and Inception v3 were trained with."""

    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        mean, deviation = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_DEVIATION)
        self.register_buffer("scale", (deviation / 0.5).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", ((mean - 0.5) / 0.5).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Shift and scale (b, 3, h, w)."""
        return images * self.scale + self.shift


class VisionTransformerFeatures(nn.Module):
    """The tokens of a torchvision VisionTransformer after its last LayerNorm.

    Gives the patch tokens as a map (b, c, h / patch, w / patch), or with `class_token_only` the class token as a map
    of one position (b, c, 1, 1), so that every pooling works on either.
    """

    def __init__(self, transformer: "VisionTransformer", class_token_only: bool) -> None:
        super().__init__()
        self.conv_proj = transformer.conv_proj
        self.class_token = transformer.class_token
        self.encoder = transformer.encoder
        self.image_size = transformer.image_size
        self.patch_size = transformer.patch_size
        self.class_token_only = class_token_only

    def forward(self, images: Tensor) -> Tensor:
        """Map (b, 3, h, w) to (b, c, h', w'); h and w must be the image size of the model, else ValueError."""
        if images.shape[2] != self.image_size or images.shape[3] != self.image_size:
            height, width = int(images.shape[2]), int(images.shape[3])
            raise ValueError(f"this model takes images of {self.image_size} px, not {height} x {width}")
        patches = self.conv_proj(images)  # (b, c, h', w')
        tokens = torch.cat([self.class_token.expand(images.shape[0], -1, -1), patches.flatten(2).mT], dim=1)
        tokens = self.encoder(tokens)
        if self.class_token_only:
            return tokens[:, 0, :, None, None]
        side = self.image_size // self.patch_size
        return tokens[:, 1:].mT.unflatten(2, (side, side))


def build_backbone(settings: ModelSettings, image_size: int | None = None) -> tuple[nn.Module, int]:
    """The untrained backbone that `settings.backbone` names, and its number of output channels.

    `image_size`: side of the images in px; it matters only to models made for one size (ViT, MaxViT, ...); torchvision's
    default to 224, others to the size that they were made for.
    Raises ConfigError where the model cannot take images of that size.
    """
    if settings.backbone == SMALL_CONV:
        return small_conv(settings.width or 32)
    if settings.backbone.startswith(TIMM):
        return build_timm(settings, image_size)
    if is_own_class(settings.backbone):
        return build_own(settings, image_size)
    from torchvision.models import VisionTransformer, get_model_builder  # seconds, which other networks do not need

    size = image_size or DEFAULT_IMAGE_SIZE
    builder = get_model_builder(settings.backbone)
    family = builder.__module__.rpartition(".")[2]
    try:
        model = builder(weights=None, **_size_options(family, settings.backbone, size))
    except ValueError as error:
        raise ConfigError(f"model.backbone {settings.backbone} cannot take images of {size} px: {error}") from error
    if isinstance(model, VisionTransformer):
        return VisionTransformerFeatures(model, settings.pooling == "class_token"), model.hidden_dim
    return _without_classifier(model, family)


def _size_options(family: str, backbone: str, image_size: int) -> dict[str, object]:
    if family == "vision_transformer":
        patch = int(backbone.rpartition("_")[2])
        if image_size % patch:
            raise ConfigError(
                f"model.backbone {backbone} needs an image size that is a multiple of its patch, {patch} px; "
                f"found {image_size} px (set image.train_crop and image.test_crop)"
            )
        return {"image_size": image_size}
    if family == "maxvit":
        return {"input_size": (image_size, image_size)}
    if family in ("googlenet", "inception"):
        return {"aux_logits": False, "init_weights": True}
    return {}


# Per file of torchvision.models: the children up to the last feature map, in the order of forward().
_FAMILIES = {
    "alexnet": "features",
    "convnext": "features",
    "densenet": "features relu",
    "efficientnet": "features",
    "googlenet": "transform_input conv1 maxpool1 conv2 conv3 maxpool2 inception3a inception3b maxpool3 inception4a "
    "inception4b inception4c inception4d inception4e maxpool4 inception5a inception5b",
    "inception": "transform_input Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 maxpool1 Conv2d_3b_1x1 Conv2d_4a_3x3 "
    "maxpool2 Mixed_5b Mixed_5c Mixed_5d Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e Mixed_7a Mixed_7b Mixed_7c",
    "maxvit": "stem blocks",
    "mnasnet": "layers",
    "mobilenetv2": "features",
    "mobilenetv3": "features",
    "regnet": "stem trunk_output",
    "resnet": "conv1 bn1 relu maxpool layer1 layer2 layer3 layer4",
    "shufflenetv2": "conv1 maxpool stage2 stage3 stage4 conv5",
    "squeezenet": "features",
    "swin_transformer": "features norm permute",
    "vgg": "features",
}
# Where the classifier does not begin with a linear layer over the pooled channels.
_CHANNELS = {"alexnet": 256, "squeezenet": 512, "vgg": 512}


def _without_classifier(model: nn.Module, family: str) -> tuple[nn.Module, int]:
    if family not in _FAMILIES:
        raise ConfigError(f"torchvision's models of {family} are not known here; known: {', '.join(_FAMILIES)}")
    names = _FAMILIES[family].split()
    features = nn.Sequential(OrderedDict((name, _child(model, name)) for name in names))
    if family in _CHANNELS:
        return features, _CHANNELS[family]
    classifier = [child for name, child in model.named_children() if name not in names]
    return features, next(part.in_features for part in _modules(classifier) if isinstance(part, nn.Linear))


def _child(model: nn.Module, name: str) -> nn.Module:
    if name == "transform_input":
        return InceptionInput()
    if name == "relu" and not hasattr(model, "relu"):  # DenseNet applies it as a function
        return nn.ReLU(inplace=True)
    child = model.get_submodule(name)
    return nn.Sequential(*child) if isinstance(child, nn.ModuleList) else child


def _modules(roots: list[nn.Module]) -> Iterator[nn.Module]:
    for root in roots:
        yield from root.modules()
