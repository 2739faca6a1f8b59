"""What one run needs: the `trial` block."""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from ctxtune.data.settings import DatasetSettings, ImageSettings, SamplerSettings
from ctxtune.losses.settings import LossSettings, RegularizerSettings
from ctxtune.models.pixels import pixel_format
from ctxtune.models.settings import TIMM, ModelSettings, is_own_class
from ctxtune.settings import Settings, refuse
from ctxtune.text import did_you_mean
from ctxtune.yaml_text import Tree

_LATER: dict[tuple[str, str], object] = {
    ("dataset", "file"): None,
    ("dataset", "columns"): None,
    ("dataset", "test_fraction"): None,
    ("dataset", "split_seed"): None,
    ("dataset", "closed_set"): False,
    ("model", "train"): "full",
    ("optimizer", "layer_decay"): None,
    ("image", "mean"): None,
    ("image", "deviation"): None,
    ("image", "interpolation"): None,
    ("image", "views"): None,
    ("image", "augment"): None,
    ("loss", "proxies"): "class",
    ("loss", "noise_filter"): None,
    ("sampler", "round_up"): False,
    ("sampler", "without_replacement"): False,
}
"""Keys that came later, with what was always done before: a configuration that says nothing else keeps its hash."""
TORCH_OPTIMIZERS = ("adamw", "adam", "sgd")
MOST_EPOCHS = 100_000
MOST_IMAGES = 10_000_000
"""At a time; what is above is a slip."""


class LearningRateMultipliers(Settings):
    """What the learning rate is multiplied by in each parameter group."""

    backbone: NonNegativeFloat = 1.0
    embedding: NonNegativeFloat = 1.0
    projector: NonNegativeFloat = 2.0
    loss: NonNegativeFloat = 100.0


class OptimizerSettings(Settings):
    """The `optimizer` block."""

    name: str = Field("adamw", description="adamw, adam or sgd of torch, or timm/NAME for every optimizer of timm's")
    lr: PositiveFloat = 8.0e-5
    weight_decay: NonNegativeFloat = 1.0e-4
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd, and of timm's optimizers that have one")
    lr_multipliers: LearningRateMultipliers = LearningRateMultipliers()
    gradient_clip: PositiveFloat | None = Field(None, description="largest norm of the whole gradient")
    layer_decay: float | None = Field(
        None, gt=0, le=1, description="each layer of the backbone learns so much more slowly than the one after it"
    )
    ema: float | None = Field(
        None, gt=0, lt=1, description="score an exponential moving average of the weights with this decay"
    )
    micro_batch: int | None = Field(
        None,
        ge=1,
        le=MOST_IMAGES,
        description="images at a time through the model; the loss still sees the whole batch; null: all",
    )

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in TORCH_OPTIMIZERS and not name.startswith(TIMM):
            hint = did_you_mean(name, TORCH_OPTIMIZERS)
            raise ValueError(f"unknown optimizer {name!r} (adamw, adam, sgd, or {TIMM}NAME for one of timm's){hint}")
        if name.startswith(TIMM):
            check_timm_optimizer(name)
        return name


class ScheduleSettings(Settings):
    """The `schedule` block; every length in epochs."""

    name: Literal["constant", "step", "multistep", "cosine", "one_cycle"] = "step"
    epochs: int = Field(160, ge=1, le=MOST_EPOCHS)
    step_epochs: int = Field(20, ge=1, le=MOST_EPOCHS)
    factor: float = Field(0.5, gt=0, le=1)
    milestones: tuple[PositiveInt, ...] | None = None
    warmup_epochs: NonNegativeInt = Field(0, description="the learning rate rises linearly over these")
    head_warmup_epochs: NonNegativeInt = Field(0, description="only embedding head and proxies train during these")

    @model_validator(mode="after")
    def _consistent(self) -> "ScheduleSettings":
        if self.name == "multistep" and not self.milestones:
            raise ValueError("schedule multistep needs milestones, for example milestones: [15, 30, 45]")
        for key in ("warmup_epochs", "head_warmup_epochs"):
            if getattr(self, key) >= self.epochs:
                raise ValueError(f"{key} ({getattr(self, key)}) must be less than epochs ({self.epochs})")
        return self


class EvaluationSettings(Settings):
    """The `evaluation` block: when and how the embedding is scored."""

    every: int = Field(
        10, ge=1, le=MOST_EPOCHS, description="epochs between evaluations; the last epoch is always evaluated"
    )
    recall_at: tuple[Annotated[int, Field(ge=1, le=MOST_IMAGES)], ...] = (1, 2, 4, 8)
    batch_size: int | None = Field(
        None, ge=1, le=MOST_IMAGES, description="images at a time; null: four training batches"
    )


class TrialSettings(Settings):
    """All that one run needs."""

    dataset: DatasetSettings
    model: ModelSettings = ModelSettings()
    loss: LossSettings = LossSettings()
    regularizer: RegularizerSettings = RegularizerSettings()
    sampler: SamplerSettings = SamplerSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    image: ImageSettings = ImageSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    deterministic: bool = Field(False, description="deterministic GPU kernels; slower")
    compile: bool = Field(False, description="torch.compile, where it works")
    tf32: bool = Field(True, description="TF32 for float32 products of the model on CUDA; losses and scores never")

    @model_validator(mode="before")
    @classmethod
    def _crops_of_the_backbone(cls, data: object) -> object:
        """Crops that are not said come from the backbone's own data configuration, where it has one."""
        if not isinstance(data, Mapping):
            return data
        model, image = data.get("model"), data.get("image", {})
        backbone = model.get("backbone") if isinstance(model, Mapping) else getattr(model, "backbone", None)
        foreign = isinstance(backbone, str) and (backbone.startswith(TIMM) or is_own_class(backbone))
        if not foreign or not isinstance(image, Mapping):
            return data
        try:
            settings = model if isinstance(model, ModelSettings) else ModelSettings.model_validate(model)
        except ValidationError:
            return data  # told where the block itself is read
        pixels = pixel_format(settings)
        crop = image.get("train_crop", pixels.image_size or ImageSettings().train_crop)
        test_crop = image.get("test_crop", crop)
        resize = pixels.test_resize(test_crop) if isinstance(test_crop, int) else None
        filled = {"train_crop": crop, "test_crop": test_crop, "test_resize": resize, **image}
        return {**data, "image": filled}

    @property
    def images(self) -> ImageSettings:
        """The `image` block with the pixel statistics and the interpolation of the backbone where it says none itself."""
        said = {key: getattr(self.image, key) for key in ("mean", "deviation", "interpolation")}
        if None not in said.values():
            return self.image
        pixels = pixel_format(self.model)
        own = {"mean": pixels.mean, "deviation": pixels.deviation, "interpolation": pixels.interpolation}
        return self.image.model_copy(update={key: value for key, value in own.items() if said[key] is None})

    @property
    def trains_on_features(self) -> bool:
        """Whether the backbone's features are computed once and kept, and only a head trains on them."""
        return self.model.train == "head" and self.image.views != "live"

    @property
    def image_size(self) -> int:
        """Side in px of the images that the backbone sees in training."""
        seen_as_in_tests = self.trains_on_features and self.image.views is None
        return (self.image.test_crop if seen_as_in_tests else None) or self.image.train_crop

    @model_validator(mode="after")
    def _memory_holds_a_batch(self) -> "TrialSettings":
        memory, batch = self.loss.memory, self.sampler.batch_size
        if memory is not None and memory.size < batch:
            message = f"the memory must hold a batch at least, which has {batch} images; found {memory.size}"
            refuse(type(self), ("loss", "memory", "size"), message)
        return self

    def tree(self) -> Tree:
        """The resolved block as plain data (dicts, lists, numbers, strings), every default filled in."""
        return self.model_dump(mode="json")

    def hash(self) -> str:
        """Twelve hexadecimal digits that name this configuration, wherever the data lies on disk."""
        tree = self.tree()
        tree["dataset"].pop("root", None)
        tree["dataset"]["file"] = _file_names(tree["dataset"]["file"])
        for (block, key), before in _LATER.items():
            if key in tree[block] and tree[block][key] == before:
                del tree[block][key]
        canonical = json.dumps(tree, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def check_timm_optimizer(name: str) -> None:
    """Raises ValueError where timm has no such optimizer."""
    from timm.optim import list_optimizers  # with timm, which most files need not wait for

    known = list_optimizers()
    own = name.removeprefix(TIMM)
    if own not in known:
        hint = did_you_mean(own, known, most=3, otherwise="; timm.optim.list_optimizers() names them")
        raise ValueError(f"timm has no optimizer {own!r}{hint}")


def _file_names(file: Any) -> Any:
    """`dataset.file` without the folders that it lies in."""
    if isinstance(file, dict):
        return {split: _file_names(each) for split, each in file.items()}
    return None if file is None else file.rsplit("/", 1)[-1]
