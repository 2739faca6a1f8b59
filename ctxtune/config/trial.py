"""What one run needs: the `trial` block."""

import hashlib
import json
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from ctxtune.data.settings import DatasetSettings, ImageSettings, SamplerSettings
from ctxtune.losses.settings import LossSettings, RegularizerSettings
from ctxtune.models.settings import ModelSettings
from ctxtune.settings import Settings


class LearningRateMultipliers(Settings):
    """What the learning rate is multiplied by in each parameter group."""

    backbone: NonNegativeFloat = 1.0
    embedding: NonNegativeFloat = 1.0
    projector: NonNegativeFloat = 2.0
    loss: NonNegativeFloat = 100.0


class OptimizerSettings(Settings):
    """The `optimizer` block."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: PositiveFloat = 8.0e-5
    weight_decay: NonNegativeFloat = 1.0e-4
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd only")
    lr_multipliers: LearningRateMultipliers = LearningRateMultipliers()
    gradient_clip: PositiveFloat | None = Field(None, description="largest norm of the whole gradient")
    ema: float | None = Field(
        None, gt=0, lt=1, description="score an exponential moving average of the weights with this decay"
    )
    micro_batch: PositiveInt | None = Field(
        None, description="images at a time through the model; the loss still sees the whole batch; null: all"
    )


class ScheduleSettings(Settings):
    """The `schedule` block; every length in epochs."""

    name: Literal["constant", "step", "multistep", "cosine", "one_cycle"] = "step"
    epochs: PositiveInt = 160
    step_epochs: PositiveInt = 20
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

    every: PositiveInt = Field(10, description="epochs between evaluations; the last epoch is always evaluated")
    recall_at: tuple[PositiveInt, ...] = (1, 2, 4, 8)
    batch_size: PositiveInt | None = Field(None, description="images at a time; null: four training batches")


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

    def tree(self) -> dict[str, Any]:
        """The resolved block as plain data (dicts, lists, numbers, strings), every default filled in."""
        return self.model_dump(mode="json")

    def hash(self) -> str:
        """Twelve hexadecimal digits that name this configuration, wherever the data lies on disk."""
        tree = self.tree()
        tree["dataset"].pop("root", None)
        canonical = json.dumps(tree, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]
