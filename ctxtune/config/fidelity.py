"""Cheaper trials: the schedule scaled as a whole, fewer training images, smaller crops; selection runs at full length."""

from typing import Any

from pydantic import Field, PositiveInt

from ctxtune.config.trial import TrialSettings
from ctxtune.settings import Settings
from ctxtune.yaml_text import Tree

CHANGED_BY = {
    "schedule": ("schedule.", "evaluation.every"),
    "images": ("dataset.withheld_classes", "sampler.batches_per_epoch"),
    "crop": ("image.train_crop", "image.train_resize", "image.test_resize", "image.test_crop"),
}
"""What each key of `search` changes in the trials, and what the space can therefore not search beside it."""


class SearchScheduleSettings(Settings):
    """The `search.schedule` block: how long the trials of the search are."""

    epochs: PositiveInt = Field(description="of a trial; steps, milestones, warm-up and evaluations scale with it")


def shortened(
    trial: TrialSettings, *, epochs: int | None = None, images: float | None = None, crop: int | None = None
) -> TrialSettings:
    """The cheaper form of a configuration that the search trains.

    Args:
        epochs: the schedule is scaled to so many: step length, milestones, warm-ups and the interval of evaluations.
        images: share of the training images, as whole classes; a fixed number of batches per epoch scales with it.
        crop: pixels of the training crop; the other sizes of the `image` block scale with it.

    Raises:
        pydantic.ValidationError: the result is no sound configuration.
    """
    if epochs is None and images is None and crop is None:
        return trial
    tree = trial.tree()
    if epochs is not None:
        _scale_schedule(tree, epochs)
    if images is not None:
        kept = (1 - tree["dataset"]["withheld_classes"]) * images
        tree["dataset"]["withheld_classes"] = round(1 - kept, 6)
        batches = tree["sampler"]["batches_per_epoch"]
        tree["sampler"]["batches_per_epoch"] = batches and max(1, round(batches * images))
    if crop is not None:
        scale = crop / tree["image"]["train_crop"]
        for key in ("train_resize", "test_resize", "test_crop"):
            tree["image"][key] = _scaled_size(tree["image"][key], scale)
        tree["image"]["train_crop"] = crop
    return TrialSettings.model_validate(tree)


def _scale_schedule(tree: Tree, epochs: int) -> None:
    schedule = tree["schedule"]
    scale = epochs / schedule["epochs"]
    schedule["epochs"] = epochs
    schedule["step_epochs"] = max(1, round(schedule["step_epochs"] * scale))
    if schedule["milestones"]:
        schedule["milestones"] = [max(1, round(milestone * scale)) for milestone in schedule["milestones"]]
    for key in ("warmup_epochs", "head_warmup_epochs"):
        if schedule[key]:
            schedule[key] = min(max(1, round(schedule[key] * scale)), epochs - 1)
    tree["evaluation"]["every"] = max(1, round(tree["evaluation"]["every"] * scale))


def _scaled_size(size: Any, scale: float) -> Any:
    if isinstance(size, list | tuple):
        return [round(side * scale) for side in size]
    return size and round(size * scale)
