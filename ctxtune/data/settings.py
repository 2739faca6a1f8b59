"""The YAML blocks that this room owns: `dataset`, `sampler`, `image` and `validation`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from ctxtune.imagenet import IMAGENET_DEVIATION, IMAGENET_MEAN
from ctxtune.settings import Settings
from ctxtune.text import did_you_mean
from ctxtune.yaml_text import Tree

Share = Annotated[float, Field(ge=0.0, lt=1.0)]
"""A share of something, in [0, 1)."""
LARGEST_SIDE = 8192
"""Pixels that an image is resized or cropped to, at most."""
Size = int | tuple[int, int]
"""Pixels: one number is the short side, two are height and width."""

DATASETS = (
    "cars196",
    "class_folders",
    "cub200",
    "glyphs",
    "image_list",
    "inaturalist2018",
    "inaturalist2021_mini",
    "inshop",
    "omniglot",
    "sop",
    "table",
)
"""The data sets that can be named."""


def unknown_dataset(name: str) -> str:
    """The message for a name that is none of `DATASETS`."""
    return f"there is no data set {name!r}{did_you_mean(name, DATASETS)}"


class DatasetSettings(Settings):
    """Which data set, where it lies, and what is deliberately spoiled in its fit classes.

    `root` may be null for data that is made on the spot (glyphs). `image_size` scales every image of glyphs and
    omniglot to a square of that many pixels. `lists` names the image lists of `image_list` (split name to path,
    relative to the root). `train_classes` is, for `class_folders` without a train and a test folder, the number of
    classes (in sorted order) that are for training.

    For `table`: `file` names a CSV or parquet file or tar shards (a path, a pattern, or one for each split), `columns` maps our
    names of columns to those of the file; where it says no splits, `test_fraction` of the classes, drawn by `split_seed`, are
    for test. `closed_set` allows the same classes in train and test; it goes with `validation.scheme: image_holdout`.
    """

    name: str
    root: str | None = None
    image_size: int | None = Field(default=None, ge=8, le=512)  # all are kept in one array: gigabytes beyond
    lists: dict[str, str] | None = None
    train_classes: int | None = Field(default=None, ge=1)
    file: str | dict[str, str] | None = None
    columns: dict[str, str] | None = None
    test_fraction: float | None = Field(default=None, gt=0.0, lt=1.0)
    split_seed: int | None = Field(default=None, ge=0)
    closed_set: bool = False
    recall_at: tuple[int, ...] | None = None
    label_noise: Share = 0.0
    label_noise_kind: Literal["uniform", "confusable"] = "uniform"
    image_noise: Share = 0.0
    withheld_classes: Share = 0.0
    withheld_images: Share = 0.0
    max_unreadable: Share = 0.001
    strict: bool = False

    @field_validator("name")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in DATASETS:
            raise ValueError(unknown_dataset(value))
        return value


LARGEST_EPOCH = 50_000_000
"""Images: their order is held in memory, and takes seconds to draw."""


class SamplerSettings(Settings):
    """How the batches of an epoch are drawn.

    `super_classes`: how many super-classes share a batch in equal parts (2 = the half-batches of the paper); null
    leaves super-classes alone. `hierarchical` is balanced with 2 super-classes where nothing else is said.
    `classes_per_round`: the published 224 px sampler draws min(96, classes) distinct classes per round; null means
    that a round is all classes, so that an epoch covers them evenly. `batches_per_epoch`: null = images / batch, rounded
    down, or up where `round_up`. `without_replacement`: within an epoch no image of a class comes again before too few
    others are left for a visit, as in the published 224 px sampler; otherwise each visit draws anew. `random` always goes
    through all images first.
    """

    name: Literal["balanced", "hierarchical", "random"] = "balanced"
    images_per_class: int = Field(default=4, ge=1, le=1_000_000)
    batch_size: int = Field(default=64, ge=2, le=1_000_000)
    super_classes: int | None = Field(default=None, ge=1)
    classes_per_round: int | None = Field(default=None, ge=1)
    batches_per_epoch: int | None = Field(default=None, ge=1, le=10_000_000)
    round_up: bool = False
    without_replacement: bool = False

    @model_validator(mode="after")
    def _fits(self) -> SamplerSettings:
        if (self.batches_per_epoch or 0) * self.batch_size > LARGEST_EPOCH:
            raise ValueError(
                f"batches_per_epoch {self.batches_per_epoch} of {self.batch_size} images: an epoch has at most "
                f"{LARGEST_EPOCH:,} images, which are drawn at its beginning; take more epochs"
            )
        if self.name == "random":
            if self.super_classes is not None:
                raise ValueError("super_classes needs the sampler balanced or hierarchical; random ignores classes")
            return self
        if self.batch_size % self.images_per_class:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of images_per_class {self.images_per_class}; "
                f"nearest: {self.batch_size // self.images_per_class * self.images_per_class or self.images_per_class}"
            )
        groups = self.super_classes_per_batch
        classes = self.batch_size // self.images_per_class
        if groups and classes % groups:
            raise ValueError(f"{classes} classes per batch cannot be shared equally by {groups} super-classes")
        if self.classes_per_round is not None and self.classes_per_round < classes:
            raise ValueError(
                f"classes_per_round {self.classes_per_round} is less than the {classes} classes of one batch"
            )
        return self

    @property
    def super_classes_per_batch(self) -> int:
        """The number of super-classes that share a batch; 0 where super-classes play no role."""
        if self.name == "random" or self.super_classes == 1:
            return 0
        if self.super_classes is not None:
            return self.super_classes
        return 2 if self.name == "hierarchical" else 0


class ImageSettings(Settings):
    """Crops of training and test images, and how images are kept.

    Training: resize to `train_resize` first where given, then torchvision's RandomResizedCrop to `train_crop` pixels
    with area in [`min_scale`, `max_scale`] and aspect in `ratio`, then a horizontal flip half the time where `flip`.
    Test: resize to `test_resize` (a number is the short side, [H, W] ignores the aspect), center crop of `test_crop`.

    `cache`: `decoded` keeps uint8 pixels in one memory-mapped file, `encoded` the files' bytes in one file, `none`
    reads each file each time; `auto` is the first of these that fits the disk and `cache_limit_gib`. `exact` decodes,
    crops and resizes each image with Pillow, as torchvision does.
    `cache_short_side` (pixels): null = the least at which no training crop is upsampled that would not be upsampled
    from the original; a smaller number is faster and changes the recipe.
    `workers`: threads that read images; null = half of a run's cores, all of them (at most 16) beside a GPU.

    `mean`, `deviation` (per RGB channel, of values in [0, 1]) and `interpolation`: null = the backbone's own, by its data
    configuration; ImageNet's and bilinear for torchvision's networks.
    `augment`: more augmentation after crop and flip: torchvision's v2 transforms by name, each with its arguments, in this
    order (`{ColorJitter: {brightness: 0.4}, RandomErasing: {p: 0.5}}`), drawn for each image by itself.
    `views`, for `model.train: head` alone: null trains on the test views of the images, K on K augmented views of each,
    both computed once and kept; `live` augments anew and runs the backbone in every step.
    """

    train_crop: int = Field(default=224, ge=8, le=LARGEST_SIDE)
    min_scale: float = Field(default=0.12, gt=0.0, le=1.0)
    max_scale: float = Field(default=1.0, gt=0.0, le=1.0)
    ratio: tuple[float, float] = (0.75, 1.33)
    flip: bool = True
    train_resize: Size | None = None
    test_resize: Size | None = 256
    test_crop: int | None = Field(default=224, ge=8, le=LARGEST_SIDE)
    exact: bool = False
    cache: Literal["auto", "decoded", "encoded", "none"] = "auto"
    cache_short_side: int | None = Field(default=None, ge=8, le=LARGEST_SIDE)
    cache_limit_gib: float = Field(default=200.0, gt=0.0)
    workers: int | None = Field(default=None, ge=0, le=1024)
    mean: tuple[float, float, float] | None = None
    deviation: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    interpolation: Literal["bilinear", "bicubic"] | None = None
    views: PositiveInt | Literal["live"] | None = None
    augment: dict[str, Tree] | None = None

    @property
    def pixel_mean(self) -> tuple[float, float, float]:
        """`mean`, or ImageNet's."""
        return self.mean or IMAGENET_MEAN

    @property
    def pixel_deviation(self) -> tuple[float, float, float]:
        """`deviation`, or ImageNet's."""
        return self.deviation or IMAGENET_DEVIATION

    @property
    def filter(self) -> Literal["bilinear", "bicubic"]:
        """`interpolation`, or bilinear."""
        return self.interpolation or "bilinear"

    @field_validator("augment", mode="before")
    @classmethod
    def _without_arguments(cls, value: object) -> object:
        if value is not None and not isinstance(value, dict):
            raise ValueError(
                "expected transforms by name with their arguments, such as {ColorJitter: {brightness: 0.4}}"
            )
        # `RandomGrayscale:` without arguments takes torchvision's own
        return {name: given or {} for name, given in value.items()} if isinstance(value, dict) else value

    @field_validator("augment")
    @classmethod
    def _known_transforms(cls, value: dict[str, dict[str, object]] | None) -> dict[str, dict[str, object]] | None:
        if value:
            from ctxtune.data.extra_augmentation import build_transforms

            build_transforms(value)
        return value

    @field_validator("ratio")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError(f"ratio must be [least, greatest] with 0 < least <= greatest, not {list(value)}")
        return value

    @field_validator("train_resize", "test_resize")
    @classmethod
    def _positive(cls, value: Size | None) -> Size | None:
        sides = () if value is None else value if isinstance(value, tuple) else (value,)
        if any(not 8 <= side <= LARGEST_SIDE for side in sides):
            raise ValueError(f"a resize must be between 8 and {LARGEST_SIDE} pixels, not {value}")
        return value

    @model_validator(mode="after")
    def _scales(self) -> ImageSettings:
        if self.min_scale > self.max_scale:
            raise ValueError(f"min_scale {self.min_scale} is greater than max_scale {self.max_scale}")
        if self.exact and self.cache == "decoded":
            raise ValueError("exact decodes each image itself: choose cache auto, encoded or none with it")
        return self


class ValidationSettings(Settings):
    """Which train classes the search validates on. The published test classes are never among them.

    `class_folds`: `folds` disjoint groups of classes, each in turn the validation side; `super_class_folds`: whole
    super-classes stay together; `class_holdout`: one split, `fraction` of the classes for validation; `image_holdout`:
    one split, `fraction` of the images of each class, for data sets with `closed_set` alone. `use` says which folds a
    search looks at.
    """

    scheme: Literal["class_folds", "class_holdout", "super_class_folds", "image_holdout"] = "class_folds"
    folds: int = Field(default=4, ge=2, le=1000)
    use: tuple[int, ...] = (0,)
    fraction: float = Field(default=0.5, gt=0.0, lt=1.0)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _use_exists(self) -> ValidationSettings:
        count = self.count
        wrong = [fold for fold in self.use if not 0 <= fold < count]
        if not self.use or wrong or len(set(self.use)) != len(self.use):
            raise ValueError(f"use must name distinct folds among 0 ... {count - 1}, not {list(self.use)}")
        return self

    @property
    def count(self) -> int:
        """How many folds the scheme has."""
        return 1 if self.scheme in ("class_holdout", "image_holdout") else self.folds

    @property
    def validation_share(self) -> float:
        """The share of the classes (of the images of each, for `image_holdout`) that a fold validates on."""
        return self.fraction if self.count == 1 else 1 / self.folds
