"""The `model` block of the config tree."""

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from ctxtune.settings import Settings
from ctxtune.text import did_you_mean
from ctxtune.yaml_text import YamlError, parse_value

SMALL_CONV = "small_conv"
TIMM = "timm/"
WELL_KNOWN = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "convnext_tiny",
    "efficientnet_b0",
    "vit_b_16",
)
"""Networks of torchvision's in every version of it, with weights of this name."""
WELL_KNOWN_WEIGHTS = "IMAGENET1K_V1"
"""In front of the name of a model of timm's."""
PRETRAINED = "pretrained"
"""The weights that timm names for one of its models."""
MOST_PROJECTOR_WEIGHTS = 2**28

Pooling = Literal["average", "max", "average_max", "gem", "class_token", "model"]
BatchNorm = Literal["trained", "frozen_statistics", "frozen"]
EmbeddingInit = Literal["kaiming_normal", "torch_default"]

_SMALL_CONV_DEFAULTS = {
    "weights": None,
    "embedding_dim": 128,
    "projector_dim": None,
    "batch_norm": "trained",
    "width": 32,
}


class LoraSettings(Settings):
    """Low-rank adapters (Hu et al., ICLR 2022) in layers of a backbone that itself is frozen.

    `targets`: the last parts of the names of the layers that get one (`qkv`, `attn.proj`); null: every linear layer,
    or, in a network without any, every convolution whose channels are not in groups.
    """

    rank: PositiveInt = 8
    alpha: PositiveFloat = Field(16.0, description="what the adapters add is multiplied by alpha / rank")
    targets: tuple[str, ...] | None = None


class LastBlocks(Settings):
    """Train the last blocks of the backbone; what lies before them is frozen."""

    last_blocks: PositiveInt


class Adapters(Settings):
    """Train low-rank adapters; the backbone is frozen."""

    lora: LoraSettings = LoraSettings()


Train = Literal["full", "head"] | LastBlocks | Adapters
_WAYS = "full, head, {last_blocks: N} or {lora: {rank: 8, alpha: 16}}"


class ModelSettings(Settings):
    """What the embedding model is made of.

    The defaults are those of the contextual recipe at 224 px on CUB and Cars. Some choices move other defaults, where
    these would make no sense: `backbone: small_conv` (weights null, 128 dimensions, no projector, batch norm trained,
    width 32), `backbone: timm/NAME` (weights pretrained, pooling model), a backbone of one's own (weights null,
    pooling model) and `weights: null` (batch norm trained).
    """

    backbone: str = Field(
        default="resnet50",
        description="a torchvision classification model, small_conv, timm/NAME, or a class of your own, package.module:Class",
    )
    weights: str | None = Field(
        default="IMAGENET1K_V1",
        description="name of torchvision's weights, `pretrained` (timm), path of a local state_dict file (.safetensors, "
        ".pth), or null",
    )
    train: str | LastBlocks | Adapters = Field(
        default="full",
        description=f"what of the backbone trains: {_WAYS}; the last two may be written as text, for a choice",
    )
    pooling: Pooling = Field(
        default="gem",
        description="average_max is the sum of both; class_token is for networks that have one; model is the network's own",
    )
    gem_power: float = Field(
        default=3.0, ge=1.0, le=100.0, description="the power of GeM pooling (its start, where learned)"
    )
    gem_trainable: bool = Field(default=False, description="learn the power of GeM pooling")
    layer_norm: bool = Field(default=False, description="LayerNorm between pooling and embedding")
    layer_norm_affine: bool = Field(
        default=False, description="scale and shift in that LayerNorm (the published one has none)"
    )
    embedding_dim: int = Field(default=512, ge=1, le=65_536)
    embedding_init: EmbeddingInit = Field(
        default="kaiming_normal", description="Kaiming-normal (fan_out, bias 0) as at 224 px, or nn.Linear's own"
    )
    projector_dim: int | None = Field(
        default=2048, ge=1, le=65_536, description="of the training-only projector, null for none"
    )
    batch_norm: BatchNorm = Field(
        default="frozen", description="of the backbone; frozen: statistics and affine parameters"
    )
    width: int | None = Field(
        default=None, ge=8, le=4096, multiple_of=8, description="channels of small_conv's first block"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in_defaults(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        defaults: dict[str, object] = {}
        backbone = str(data.get("backbone"))
        if backbone == SMALL_CONV:
            defaults = dict(_SMALL_CONV_DEFAULTS)
        elif backbone.startswith(TIMM):
            defaults = {"weights": PRETRAINED, "pooling": "model"}
        elif is_own_class(backbone):
            defaults = {"weights": None, "pooling": "model"}
        if {**defaults, **data}.get("weights", "") is None:
            defaults["batch_norm"] = "trained"
        return {**defaults, **data}

    @field_validator("train", mode="before")
    @classmethod
    def _way_is_known(cls, value: Any) -> Any:
        if isinstance(value, (LastBlocks, Adapters)):
            return value
        try:
            meant = parse_value(value) if isinstance(value, str) else value
        except YamlError:
            meant = value
        block = isinstance(meant, dict) and len(meant) == 1 and next(iter(meant))
        if block in ("last_blocks", "lora"):
            kind = LastBlocks if block == "last_blocks" else Adapters
            read = kind.model_validate({"lora": meant["lora"] or {}} if block == "lora" else meant)
            return value if isinstance(value, str) else read
        if meant not in ("full", "head"):
            raise ValueError(f"expected {_WAYS}; found {value!r}")
        return meant

    @field_validator("backbone")
    @classmethod
    def _backbone_is_known(cls, name: str) -> str:
        if name.startswith(TIMM):
            from ctxtune.models.timm_models import check_name

            check_name(name)
        elif is_own_class(name):
            from ctxtune.models.own_backbone import own_class

            own_class(name)
        elif not _is_backbone(name):
            raise ValueError(f"unknown backbone {name!r}{_hint(name)}")
        return name

    @model_validator(mode="after")
    def _combination_is_sound(self) -> "ModelSettings":
        if self.backbone == SMALL_CONV and self.width is None:
            raise ValueError("width must be a number for small_conv")
        if self.backbone != SMALL_CONV and self.width is not None:
            raise ValueError(f"width belongs to small_conv; {self.backbone} has its own")
        if self.layer_norm_affine and not self.layer_norm:
            raise ValueError("layer_norm_affine is true, but layer_norm is false")
        weights = self.embedding_dim * (self.projector_dim or 0)
        if weights > MOST_PROJECTOR_WEIGHTS:
            raise ValueError(
                f"projector_dim {self.projector_dim} times embedding_dim {self.embedding_dim} are {weights:,} weights of the "
                f"projector; expected at most {MOST_PROJECTOR_WEIGHTS:,}, which are 1 GiB"
            )
        self._check_pooling()
        self._check_weights()
        return self

    def _check_pooling(self) -> None:
        foreign = self.backbone.startswith(TIMM) or is_own_class(self.backbone)
        if self.pooling == "class_token" and not (foreign or self.backbone.startswith("vit_")):
            raise ValueError(f"pooling class_token needs a vit_* backbone; {self.backbone} has no class token")
        if self.pooling == "model" and not foreign:
            raise ValueError(
                f"pooling model is for {TIMM}NAME and for backbones of your own; {self.backbone} gives feature maps: take gem "
                "or average"
            )
        if self.train == "head" and self.gem_trainable and self.pooling == "gem":
            raise ValueError(
                "train: head works on pooled features, so the power of GeM pooling cannot be learned: set gem_trainable: false "
                "(gem_power can be searched), or train: {last_blocks: 1}"
            )

    def _check_weights(self) -> None:
        own, timm = is_own_class(self.backbone), self.backbone.startswith(TIMM)
        if self.weights is None and self.batch_norm != "trained" and not own and self.train != "head":
            raise ValueError(
                f"batch_norm {self.batch_norm} needs weights: without them the statistics are still "
                "mean 0 and variance 1, and nothing would be normalized; use batch_norm: trained"
            )
        if self.weights is None or is_weight_file(self.weights):
            return
        if own or self.backbone == SMALL_CONV:
            raise ValueError(
                f"{self.backbone} has no published weights {self.weights!r}: weights must be null or a state_dict file"
            )
        if not timm:
            _check_weight_name(self.backbone, self.weights)
        elif self.weights != PRETRAINED:
            raise ValueError(
                f"weights of {self.backbone} are `{PRETRAINED}`, the path of a .safetensors or .pth file, or null; found "
                f"{self.weights!r} (other pretrained weights of the network are chosen in the backbone's name: "
                f"{TIMM}NAME.TAG)"
            )

    @property
    def training(self) -> Train:
        """`train`, read: text as the block that it means."""
        if self.train in ("full", "head"):
            return self.train  # type: ignore[return-value]
        block = parse_value(self.train) if isinstance(self.train, str) else self.train
        if not isinstance(block, dict):
            return block  # type: ignore[no-any-return]
        if "lora" in block:
            return Adapters.model_validate({"lora": block["lora"] or {}})
        return LastBlocks.model_validate(block)


def is_own_class(backbone: str) -> bool:
    """Whether a backbone is meant as a class of the user's, `package.module:Class`."""
    return ":" in backbone


def backbone_names() -> tuple[str, ...]:
    """torchvision's classification models, and small_conv; beside them `model.backbone` takes timm/NAME and own classes."""
    import torchvision

    return (*torchvision.models.list_models(module=torchvision.models), SMALL_CONV)


def is_weight_file(weights: str) -> bool:
    """Whether `weights` is meant as a file's path (a name of torchvision's has neither a separator nor a suffix)."""
    return "/" in weights or "\\" in weights or bool(Path(weights).suffix) or os.path.isfile(weights)  # noqa: PTH113  # Path raises for long ones


def _hint(name: str) -> str:
    from ctxtune.models.timm_models import is_model

    if is_model(name):
        return f'; did you mean "{TIMM}{name}"?'
    known = backbone_names()
    others = f"{TIMM}NAME for every model of timm's, and package.module:Class for your own"
    return did_you_mean(name, known, most=3, otherwise=f"; there are: {', '.join(known)}, {others}")


def _is_backbone(name: str) -> bool:
    # The import takes seconds: a file with the most used networks is read without.
    return name in (SMALL_CONV, *WELL_KNOWN) or name in backbone_names()


def _check_weight_name(backbone: str, weights: str) -> None:
    if backbone in WELL_KNOWN and weights == WELL_KNOWN_WEIGHTS:
        return
    import torchvision

    # DEFAULT is left out on purpose: what it means changes with torchvision's version, a logged config must not.
    known = [member.name for member in torchvision.models.get_model_weights(backbone)]
    if weights not in known:
        raise ValueError(
            f"torchvision has no weights {weights!r} for {backbone}; it has {', '.join(known)}. "
            "A path of a local state_dict file, or null for none, is possible too"
        )
