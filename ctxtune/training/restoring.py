"""A model from a checkpoint, and how a picture of any size is prepared for it."""

import torch

from ctxtune.config.trial import TrialSettings
from ctxtune.data import ImageSettings, load_dataset
from ctxtune.errors import CtxtuneError
from ctxtune.models import EmbeddingModel, build_model
from ctxtune.training.backbone_features import check_frozen
from ctxtune.training.checkpoints import State, scored_weights

MADE_HERE = ("glyphs", "omniglot")
"""Data sets whose images have one size before `image` is applied."""


def restored_model(trial: TrialSettings, state: State, index: int = 0) -> EmbeddingModel:
    """The embedding model of a run of a checkpoint, on the CPU.

    Pretrained weights are fetched only where a part of them was frozen, and so is in no checkpoint.

    Args:
        state: of the checkpoint: its key ``runs`` is looked at.

    Raises:
        CtxtuneError: the stored weights do not fit the configuration, or what was frozen is not here as it was.
    """
    check_frozen(state["runs"][index], trial.model)
    model = build_model(trial.model, image_size=trial.image_size, load_pretrained=trial.model.train != "full")
    try:
        model.load_trained_state(scored_weights(dict(state), index))
    except (RuntimeError, TypeError, AttributeError, CtxtuneError) as error:
        raise CtxtuneError(f"its weights do not fit its configuration ({error})") from None
    return model.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload,no-any-return]


def view_of_any_picture(trial: TrialSettings) -> ImageSettings:
    """How the test images of a trial are prepared, for pictures of any size and from anywhere: nothing is kept in a cache.

    Where the trial's data set has images of one size, that size comes first.
    """
    settings = trial.images.model_copy(update={"cache": "none"})
    size = trial.dataset.image_size
    if size is None and trial.dataset.name in MADE_HERE:
        shape = load_dataset(trial.dataset).train.table.source.image_size
        size = None if shape is None else shape[0]
    if size is None or isinstance(settings.test_resize, tuple):
        return settings
    side = settings.test_resize or size
    return settings.model_copy(update={"test_resize": (side, side)})
