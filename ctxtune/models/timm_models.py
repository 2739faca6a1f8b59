"""timm's image models as backbones: `timm/NAME`, with the pixel format and the weights that timm names for them."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from ctxtune.errors import ConfigError
from ctxtune.models.features import tokens_as_map
from ctxtune.models.pixels import PixelFormat
from ctxtune.models.settings import TIMM, ModelSettings
from ctxtune.text import did_you_mean


def is_model(name: str) -> bool:
    """Whether timm has a model of that name, which may carry the tag of its weights (`NAME.TAG`)."""
    import timm

    architecture, _, tag = name.partition(".")
    try:
        return bool(timm.is_model(architecture)) and (not tag or timm.get_pretrained_cfg(name) is not None)
    except (RuntimeError, ValueError, KeyError):  # an unknown tag
        return False


def check_name(backbone: str) -> None:
    """Raise ValueError, naming models that are near, where `timm/NAME` is none."""
    import timm

    name = backbone.removeprefix(TIMM)
    if is_model(name):
        return
    architecture = name.partition(".")[0]
    if timm.is_model(architecture):
        tags = list(timm.list_pretrained(f"{architecture}.*"))
        raise ValueError(f"timm knows no weights {name!r}; there are: {', '.join(tags) or 'none for this network'}")
    known = [TIMM + each for each in timm.list_models()]
    hint = did_you_mean(TIMM + architecture, known, most=3, otherwise="; timm.list_models() names them")
    raise ValueError(f"timm {timm.__version__} has no model {architecture!r}{hint}")


def pretrained_configuration(backbone: str) -> Any:
    """timm's `PretrainedCfg` of `timm/NAME`: pixel format and where the weights lie."""
    import timm

    configuration = timm.get_pretrained_cfg(backbone.removeprefix(TIMM))
    if configuration is None:  # a network for which nobody has published weights
        return timm.models.PretrainedCfg()
    return configuration


def pixel_format(backbone: str) -> PixelFormat:
    """What the network was trained on, by timm's data configuration."""
    configuration = pretrained_configuration(backbone)
    height, width = (configuration.test_input_size or configuration.input_size)[-2:]
    return PixelFormat(
        mean=tuple(configuration.mean),
        deviation=tuple(configuration.std),
        interpolation=configuration.interpolation,
        image_size=min(height, width),
        crop_share=configuration.test_crop_pct or configuration.crop_pct,
        squash=configuration.crop_mode == "squash",
    )


class TimmFeatures(nn.Module):
    """What a network of timm's gives before its classifier.

    With pooling `model` the vector (b, c) that `create_model(..., num_classes=0)` gives, otherwise its feature map
    (b, c, h, w): token sequences become a map of one column without the class tokens, or, with pooling `class_token`,
    of the first class token alone.
    """

    def __init__(self, network: nn.Module, name: str, pooling: str, image_size: int | None) -> None:
        super().__init__()
        self.network = network
        self.name, self.pooling, self.image_size = name, pooling, image_size
        self.channels_last = getattr(network, "output_fmt", None) == "NHWC"
        self.class_tokens = _class_tokens(network)
        if pooling == "class_token" and not self.class_tokens:
            raise ConfigError(f"model.pooling class_token: {name} has no class token; take average, gem or model")

    @property
    def width(self) -> int:
        """Channels of what `forward` gives."""
        if self.pooling == "model":
            return int(getattr(self.network, "head_hidden_size", None) or self.network.num_features)  # type: ignore[arg-type]
        return int(self.network.num_features)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """Map (b, 3, h, w) to (b, c) or (b, c, h', w'); ValueError where the network takes images of one size only."""
        if self.image_size is not None and tuple(images.shape[2:]) != (self.image_size, self.image_size):
            height, width = int(images.shape[2]), int(images.shape[3])
            raise ValueError(f"this model takes images of {self.image_size} px, not {height} x {width}")
        if self.pooling == "model":
            return self.network(images)
        features = self.network.forward_features(images)  # type: ignore[operator]
        if not isinstance(features, Tensor):
            raise ConfigError(f"{self.name} gives several feature maps, so model.pooling must be model, its own")
        if features.ndim == 4:
            return features.permute(0, 3, 1, 2) if self.channels_last else features
        return tokens_as_map(features, self.class_tokens, class_token_only=self.pooling == "class_token")


def _class_tokens(network: nn.Module) -> int:
    stated = getattr(network, "num_prefix_tokens", None)
    if stated is not None:
        return int(stated)
    return int(any(name.startswith("cls_token") for name, _ in network.named_parameters()))


def build_timm(settings: ModelSettings, image_size: int | None) -> tuple[TimmFeatures, int]:
    """The untrained network of `timm/NAME`, and the width of what it gives.

    Raises:
        ConfigError: it cannot take images of that size, or cannot be pooled so.
    """
    import timm

    name = settings.backbone.removeprefix(TIMM)
    architecture = name.partition(".")[0]
    fixed = bool(pretrained_configuration(settings.backbone).fixed_input_size)
    options = {"img_size": image_size} if fixed and image_size else {}
    try:
        try:
            network = timm.create_model(architecture, pretrained=False, num_classes=0, **options)
        except TypeError:
            if not options:
                raise
            fixed, network = False, timm.create_model(architecture, pretrained=False, num_classes=0)
    except (ValueError, AssertionError, RuntimeError, TypeError, ZeroDivisionError) as error:
        raise ConfigError(
            f"model.backbone {settings.backbone} cannot take images of {image_size} px: {error}"
        ) from error
    if fixed and image_size:
        _check_patch(network, settings.backbone, image_size)
    features = TimmFeatures(network, settings.backbone, settings.pooling, image_size if fixed else None)
    return features, features.width


def _check_patch(network: nn.Module, backbone: str, image_size: int) -> None:
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    side = patch[0] if isinstance(patch, tuple) else patch
    if isinstance(side, int) and image_size % side and not getattr(network.patch_embed, "dynamic_img_pad", False):
        raise ConfigError(
            f"model.backbone {backbone} needs an image size that is a multiple of its patch, {side} px; found {image_size} px "
            f"(set image.train_crop and image.test_crop, to {image_size // side * side or side} px for example)"
        )


def fitted(network: nn.Module, backbone: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A file's tensors as the network names and shapes them, by timm's own conversion; its classifier is left out.

    Raises:
        ConfigError: timm's conversion does not understand the file.
    """
    convert = _conversion(network)
    if convert is not None:
        try:
            state = convert(dict(state), network)
        except (KeyError, ValueError, RuntimeError, AttributeError, TypeError, AssertionError, IndexError) as error:
            raise ConfigError(
                f"model.weights: these are no weights of {backbone} ({type(error).__name__}: {error})"
            ) from error
    classifier = pretrained_configuration(backbone).classifier or ()
    left_out = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    return {key: value for key, value in state.items() if not key.startswith(tuple(f"{each}." for each in left_out))}


def _conversion(network: nn.Module) -> Callable[..., Mapping[str, Tensor]] | None:
    """The function by which timm fits published files to a network: names, position embeddings at another size."""
    module = sys.modules[type(network).__module__]
    return getattr(module, "checkpoint_filter_fn", None) or getattr(module, "_filter_fn", None)
