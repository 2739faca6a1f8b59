"""The `model` block of the config tree."""

import difflib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ctxtune.settings import Settings

SMALL_CONV = "small_conv"

Pooling = Literal["average", "max", "average_max", "gem", "class_token"]
BatchNorm = Literal["trained", "frozen_statistics", "frozen"]
EmbeddingInit = Literal["kaiming_normal", "torch_default"]

_SMALL_CONV_DEFAULTS = {
    "weights": None,
    "embedding_dim": 128,
    "projector_dim": None,
    "batch_norm": "trained",
    "width": 32,
}


class ModelSettings(Settings):
    """What the embedding model is made of.

    The defaults are those of the contextual recipe at 224 px on CUB and Cars. Two choices move other defaults, where
    these would make no sense: `backbone: small_conv` (weights null, 128 dimensions, no projector, batch norm trained,
    width 32) and `weights: null` (batch norm trained).
    """

    backbone: str = Field(default="resnet50", description="a torchvision classification model, or small_conv")
    weights: str | None = Field(
        default="IMAGENET1K_V1", description="name of torchvision's weights, path of a local state_dict file, or null"
    )
    pooling: Pooling = Field(default="gem", description="average_max is the sum of both; class_token is for vit_* only")
    gem_power: float = Field(
        default=3.0, ge=1.0, le=100.0, description="the power of GeM pooling (its start, where learned)"
    )
    gem_trainable: bool = Field(default=False, description="learn the power of GeM pooling")
    layer_norm: bool = Field(default=False, description="LayerNorm between pooling and embedding")
    layer_norm_affine: bool = Field(
        default=False, description="scale and shift in that LayerNorm (the published one has none)"
    )
    embedding_dim: int = Field(default=512, ge=1)
    embedding_init: EmbeddingInit = Field(
        default="kaiming_normal", description="Kaiming-normal (fan_out, bias 0) as at 224 px, or nn.Linear's own"
    )
    projector_dim: int | None = Field(default=2048, ge=1, description="of the training-only projector, null for none")
    batch_norm: BatchNorm = Field(
        default="frozen", description="of the backbone; frozen: statistics and affine parameters"
    )
    width: int | None = Field(default=None, ge=8, multiple_of=8, description="channels of small_conv's first block")

    @model_validator(mode="before")
    @classmethod
    def _fill_in_defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        defaults: dict[str, Any] = {}
        if data.get("backbone") == SMALL_CONV:
            defaults = dict(_SMALL_CONV_DEFAULTS)
        elif data.get("weights", "") is None:
            defaults = {"batch_norm": "trained"}
        return {**defaults, **data}

    @field_validator("backbone")
    @classmethod
    def _backbone_is_known(cls, name: str) -> str:
        known = backbone_names()
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"
            raise ValueError(f"unknown backbone {name!r}; {hint}")
        return name

    @model_validator(mode="after")
    def _combination_is_sound(self) -> "ModelSettings":
        if self.backbone == SMALL_CONV:
            if self.weights is not None and not is_weight_file(self.weights):
                raise ValueError(
                    f"small_conv has no published weights {self.weights!r}: weights must be null or a state_dict file"
                )
            if self.width is None:
                raise ValueError("width must be a number for small_conv")
        elif self.width is not None:
            raise ValueError(f"width belongs to small_conv; {self.backbone} has its own")
        if self.pooling == "class_token" and not self.backbone.startswith("vit_"):
            raise ValueError(f"pooling class_token needs a vit_* backbone; {self.backbone} has no class token")
        if self.layer_norm_affine and not self.layer_norm:
            raise ValueError("layer_norm_affine is true, but layer_norm is false")
        if self.weights is None and self.batch_norm != "trained":
            raise ValueError(
                f"batch_norm {self.batch_norm} needs weights: without them the statistics are still "
                "mean 0 and variance 1, and nothing would be normalised; use batch_norm: trained"
            )
        if self.weights is not None and self.backbone != SMALL_CONV and not is_weight_file(self.weights):
            _check_weight_name(self.backbone, self.weights)
        return self


def backbone_names() -> tuple[str, ...]:
    """Every name that `model.backbone` may have: torchvision's classification models, and small_conv."""
    import torchvision

    return (*torchvision.models.list_models(module=torchvision.models), SMALL_CONV)


def is_weight_file(weights: str) -> bool:
    """Whether `weights` is meant as a file's path (a name of torchvision's has neither a separator nor a suffix)."""
    return "/" in weights or "\\" in weights or bool(Path(weights).suffix) or Path(weights).is_file()


def _check_weight_name(backbone: str, weights: str) -> None:
    import torchvision

    # DEFAULT is left out on purpose: what it means changes with torchvision's version, a logged config must not.
    known = [member.name for member in torchvision.models.get_model_weights(backbone)]
    if weights not in known:
        raise ValueError(
            f"torchvision has no weights {weights!r} for {backbone}; it has {', '.join(known)}. "
            "A path of a local state_dict file, or null for none, is possible too"
        )
