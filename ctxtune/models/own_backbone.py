"""A backbone of one's own: `backbone: package.module:Class`.

The class is a `torch.nn.Module`. It is made without arguments, or with those of `image_size` (side in px of the images)
and `pooling` that its constructor takes. Its contract:

- `forward(images)` takes (b, 3, h, w) float32 images, normalized by the statistics below, and gives a feature map
  (b, c, h', w'), a token sequence (b, n, c) or vectors (b, c).
- `width`: the number of channels c, an attribute or property of the instance.
- `pixel_mean`, `pixel_deviation` (three numbers each, of RGB values in [0, 1]), `interpolation` ("bilinear" or
  "bicubic"), `image_size` (px) and `crop_share`: class attributes, each optional; ImageNet's, bilinear and open without.
- `class_tokens`: how many class tokens stand in front of a token sequence; 0 without.
- `blocks()`: optional, the parts of the network in the order of `forward`, for `model.train: {last_blocks: N}` and
  `optimizer.layer_decay`; without it they are read off the children.

It may load weights of its own in its constructor (`model.weights: null`), or have them loaded from a file.
"""

import inspect
from typing import Any

from torch import Tensor, nn

from ctxtune.errors import ConfigError
from ctxtune.imagenet import IMAGENET_DEVIATION, IMAGENET_MEAN
from ctxtune.imports import named_object
from ctxtune.models.features import tokens_as_map
from ctxtune.models.pixels import PixelFormat
from ctxtune.models.settings import ModelSettings


def own_class(name: str) -> type[nn.Module]:
    """Import the class. Raises ValueError where there is none, or it is no `torch.nn.Module`."""
    found = named_object(name, "a backbone")
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"{name!r} is no torch.nn.Module class; docs/models.md says what a backbone of your own needs")
    return found


def pixel_format(name: str) -> PixelFormat:
    """The pixel format that the class states, its defaults filled in. Raises ConfigError where it cannot be."""
    cls = own_class(name)
    interpolation = getattr(cls, "interpolation", "bilinear")
    if interpolation not in ("bilinear", "bicubic"):
        raise ConfigError(f"model.backbone {name}: interpolation is bilinear or bicubic, not {interpolation!r}")
    size = getattr(cls, "image_size", None)
    return PixelFormat(
        mean=_three(name, cls, "pixel_mean", IMAGENET_MEAN),
        deviation=_three(name, cls, "pixel_deviation", IMAGENET_DEVIATION),
        interpolation=interpolation,
        image_size=size if isinstance(size, int) else None,
        crop_share=float(getattr(cls, "crop_share", 0.875)),
    )


def _three(name: str, cls: type, attribute: str, default: tuple[float, float, float]) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(value) for value in getattr(cls, attribute, default))
    except (TypeError, ValueError):
        raise ConfigError(
            f"model.backbone {name}: {attribute} must be three numbers, one for each of red, green and blue"
        ) from None
    return red, green, blue


class OwnFeatures(nn.Module):
    """A user's network, its output in the form that the pooling takes."""

    def __init__(self, network: nn.Module, name: str, pooling: str) -> None:
        super().__init__()
        self.network = network
        self.name, self.pooling = name, pooling

    def forward(self, images: Tensor) -> Tensor:
        """Map (b, 3, h, w) to (b, c) or (b, c, h', w'). Raises ConfigError where the network breaks its contract."""
        features = self.network(images)
        if not isinstance(features, Tensor) or features.ndim not in (2, 3, 4):
            found = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ConfigError(
                f"model.backbone {self.name}: its forward must give (b, c, h, w), (b, n, c) or (b, c); it gave {found}"
            )
        channels = features.shape[2] if features.ndim == 3 else features.shape[1]
        if channels != self.network.width:
            raise ConfigError(
                f"model.backbone {self.name}: its width is {self.network.width}, but it gave {channels} channels"
            )
        if features.ndim == 2 and self.pooling != "model":
            raise ConfigError(
                f"model.backbone {self.name} gives vectors, so model.pooling must be model, not {self.pooling}"
            )
        if features.ndim != 3:
            return features
        class_tokens = int(getattr(self.network, "class_tokens", 0))
        return tokens_as_map(features, class_tokens, class_token_only=self.pooling == "class_token")


def build_own(settings: ModelSettings, image_size: int | None) -> tuple[OwnFeatures, int]:
    """The user's network and its width.

    Raises:
        ConfigError: it cannot be made, or states no width.
    """
    name = settings.backbone
    cls = own_class(name)
    known: dict[str, Any] = {"image_size": image_size, "pooling": settings.pooling}
    taken = inspect.signature(cls).parameters
    try:
        network = cls(**{key: value for key, value in known.items() if key in taken and value is not None})
    except Exception as error:  # whatever a user's constructor raises
        raise ConfigError(f"model.backbone {name} cannot be made: {type(error).__name__}: {error}") from error
    width = getattr(network, "width", None)
    if not isinstance(width, int) or width < 1:
        raise ConfigError(
            f"model.backbone {name}: its `width` must be the number of channels that it gives, not {width!r}"
        )
    if settings.pooling == "class_token" and not int(getattr(network, "class_tokens", 0)):
        raise ConfigError(f"model.pooling class_token: {name} states no class_tokens")
    return OwnFeatures(network, name, settings.pooling), width
