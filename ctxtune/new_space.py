"""The search-space file that `ctxtune.new` writes: plain settings that suit the data and the machine, each with its reason."""

import json
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ctxtune.data.split import Benchmark
from ctxtune.shipped import shipped_folder

SMALL = """\
  # A small network from scratch, for a CPU. With a GPU, or for photographs, a pretrained one is far better:
  #   model: {{backbone: resnet50, weights: IMAGENET1K_V1, pooling: gem, embedding_dim: 512, batch_norm: frozen}}
  #   and train_crop: 224, test_resize: 256, test_crop: 224, lr: 8.0e-5; or a head on frozen features: ctxtune copy grocery
  model: {{backbone: small_conv, width: 24, embedding_dim: 64, layer_norm: true}}"""
LARGE = """\
  # ResNet-50 with ImageNet weights (100 MB, fetched once), as in the published recipes.
  model: {{backbone: resnet50, weights: IMAGENET1K_V1, pooling: gem, embedding_dim: 512, batch_norm: frozen}}"""
TEMPLATE = """\
{schema}# {title}: written by ctxtune new; every line is yours to change.
#   python -m ctxtune.sweep {file} --dry-run     # checks everything, times a step, says how long it will take
#   python -m ctxtune.sweep {file}
# All keys: docs/search_space_reference.md. Found: {found}.
name: {name}
trial:
{dataset}
{model}
  # The published settings of Cars196: where the search starts.
  loss: {{name: contextual, contextual_weight: 0.8, k: {k}, epsilon: 0.05, positive_margin: 0.75, negative_margin: 0.6}}
  regularizer: {{weight: 0.1, similarity_target: 0.3}}
  # {batch_reason}
  sampler: {{name: balanced, images_per_class: {images_per_class}, batch_size: {batch_size}}}
  optimizer: {{name: adamw, lr: {lr}, weight_decay: 1.0e-4}}
  schedule: {{name: cosine, epochs: {epochs}}}
  # flip: false where left and right differ (text, parts, faces in profile).
  image: {image}
  evaluation: {{every: {every}, recall_at: [1, 2, 4, 8]}}
# {validation_reason}
validation: {validation}
search:
  objective: {{metric: validation/map_at_r, mode: max}}
  space:
    loss.contextual_weight: {{uniform: [0.1, 1.0]}}
    loss.k: {{choice: [{choices}]}}     # and as many images of a class in a batch: `ties`
    loss.epsilon: {{loguniform: [0.005, 0.3]}}
    loss.positive_margin: {{uniform: [0.6, 0.95]}}
    loss.negative_margin: {{uniform: [0.2, 0.7]}}
    optimizer.lr: {{loguniform: [{least_lr}, {most_lr}]}}
  constraints: ["loss.negative_margin < loss.positive_margin"]
  ties: {{sampler.images_per_class: loss.k}}
  start_from: [trial]
  sampler: {{name: tpe, seed: 0, startup_trials: 8}}
  scheduler: {{name: asha, grace_epochs: {every}, reduction_factor: 3}}
  trials: 20
  # budget: {{hours: 8}}      # of the whole sweep: search, selection and confirmation
select: {{top: 2, folds: all, seeds: 1}}
confirm: {{seeds: 3, also: [start]}}     # the test {scored} are scored here, once a run
resources: {{gpus: auto, cpus: auto}}
tracking: {{uri: "${{MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}}"}}
"""


@dataclass(frozen=True)
class Shape:
    """What decides the settings: class sizes of train, and the short side in px of half of the images (None: not looked at)."""

    classes: int
    median_images: int
    short_side: int | None


def space_text(
    block: dict[str, object], benchmark: Benchmark, shape: Shape, target: Path, place: Path, gpu: bool
) -> str:
    """The file's text.

    Args:
        block: the `dataset` block.
        benchmark: the data set.
        shape: of it.
        target: where it will be written, for the commands in it.
        place: the user's folder or table, for its name.
        gpu: whether there is one.
    """
    closed = bool(block.get("closed_set"))
    folds = 1 if closed else 4 if shape.classes >= 16 else 2 if shape.classes >= 8 else 1
    fit_classes = shape.classes if closed else shape.classes - max(1, shape.classes // (folds if folds > 1 else 2))
    images_per_class = 4 if shape.median_images >= (8 if closed else 4) else 2
    most = max(2, min(fit_classes, 16 if gpu else 32))
    neighborhoods = partial(
        _neighborhoods, start=images_per_class, fit_classes=fit_classes, median_images=shape.median_images
    )
    # A few classes fewer where such a batch can be filled in more ways.
    per_batch = max(
        range(-(-3 * most // 4), most + 1), key=lambda count: (len(neighborhoods(count * images_per_class)), count)
    )
    batch_size = per_batch * images_per_class
    return TEMPLATE.format(
        schema=_schema_line(),
        title=place.name,
        file=target,
        found=benchmark.layout.replace("\n", " "),
        name=_slug(place),
        dataset=f"  dataset: {_flow(block)}",
        model=(LARGE if gpu else SMALL).format(),
        k=images_per_class,
        choices=", ".join(map(str, neighborhoods(batch_size))),
        batch_reason=f"{per_batch} classes a batch; half of the classes have {shape.median_images} images or more.",
        images_per_class=images_per_class,
        batch_size=batch_size,
        lr="8.0e-5" if gpu else "2.0e-3",
        least_lr="1.0e-5" if gpu else "3.0e-4",
        most_lr="5.0e-4" if gpu else "2.0e-2",
        epochs=40 if gpu else 18,
        every=4 if gpu else 2,
        image=_image(shape.short_side, gpu),
        validation_reason=_validation_reason(closed, folds),
        validation=_validation(closed, folds),
        scored="images" if closed else "classes",
    )


def _neighborhoods(batch_size: int, start: int, fit_classes: int, median_images: int) -> list[int]:
    """The k, and images of a class, that fill a batch of this size with no more classes and images than there are."""
    even = {k for k in (2, 3, 4, 6, 8) if batch_size % k == 0 and 2 <= batch_size // k <= fit_classes}
    return sorted({start, *(k for k in even if k <= median_images)})


def _schema_line() -> str:
    schema = shipped_folder("schemas") / "search_space.json"
    return f"# yaml-language-server: $schema={schema}\n" if schema.is_file() else ""


def _slug(place: Path) -> str:
    return (
        re.sub(r"[^A-Za-z0-9_.-]+", "-", place.stem if place.is_file() else place.name).strip("-._")[:60] or "my-data"
    )


def _flow(block: dict[str, object]) -> str:
    """A block in one line; JSON's texts are YAML's."""
    said = (
        f"{key}: {value if key == 'name' else json.dumps(value, ensure_ascii=False)}" for key, value in block.items()
    )
    return "{" + ", ".join(said) + "}"


def _image(short_side: int | None, gpu: bool) -> str:
    if gpu:
        return "{train_crop: 224, min_scale: 0.2, test_resize: 256, test_crop: 224}"
    crop = int(np.clip((short_side or 64) // 8 * 8, 16, 64))
    resize = crop + crop // 8
    return f"{{train_crop: {crop}, min_scale: 0.4, test_resize: {resize}, test_crop: {crop}}}"


def _validation(closed: bool, folds: int) -> str:
    if closed:
        return "{scheme: image_holdout, fraction: 0.25}"
    return (
        "{scheme: class_holdout, fraction: 0.5}" if folds == 1 else f"{{scheme: class_folds, folds: {folds}, use: [0]}}"
    )


def _validation_reason(closed: bool, folds: int) -> str:
    if closed:
        return "Train and test share classes (closed-set): validation takes other images of the same classes, too."
    return "Validation classes are taken from train; the search never sees a test class."
