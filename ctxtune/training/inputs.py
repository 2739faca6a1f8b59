"""Where the batches of a run come from: images, or the features of a frozen backbone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ctxtune.config.trial import TrialSettings
from ctxtune.data import EvaluationImages, Split, TrainingImages
from ctxtune.data.features import EvaluationFeatures, Features, Reporter, TrainingFeatures, have_features, open_features
from ctxtune.data.split import ImageTable
from ctxtune.training.backbone_features import FrozenBackbone
from ctxtune.training.precision import Precision
from ctxtune.training.process_group import ProcessGroup, SharedTrainingImages

TrainingInputs = TrainingImages | TrainingFeatures
EvaluationInputs = EvaluationImages | EvaluationFeatures
OpenEvaluation = Callable[[Split], EvaluationInputs]


@dataclass(frozen=True)
class Reading:
    """How a run reads its data.

    Attributes:
        device: where batches go.
        seed: of augmentation and of the choice among views.
        cache_dir: where caches live; None for the default.
        workers: threads that read images.
        precision: of the backbone's forward pass.
        world: the processes that train together.
        reporter: told of the progress where features are computed.
    """

    device: torch.device
    seed: int
    cache_dir: Path | None
    workers: int
    precision: Precision
    world: ProcessGroup
    reporter: Reporter | None = None


class ImageInputs:
    """Images, augmented for training."""

    def __init__(self, trial: TrialSettings, reading: Reading) -> None:
        self._settings, self._reading = trial.images, reading

    def training(self, split: Split) -> TrainingImages:
        """Batches to learn from; of several processes each gets its share."""
        reading = self._reading
        kind = SharedTrainingImages if reading.world.is_distributed else TrainingImages
        images = kind(
            split,
            self._settings,
            device=reading.device,
            seed=reading.seed,
            cache_dir=reading.cache_dir,
            workers=reading.workers,
        )
        if isinstance(images, SharedTrainingImages):
            images.world = reading.world
        return images

    def evaluation(self, split: Split) -> EvaluationImages:
        """All images of a split (this process's share), in order."""
        reading = self._reading
        return EvaluationImages(
            _own_share(split, reading.world),
            self._settings,
            device=reading.device,
            cache_dir=reading.cache_dir,
            workers=reading.workers,
        )


class FeatureInputs:
    """Features that are computed once and kept; the split that is scored is only asked for when it is due."""

    def __init__(self, trial: TrialSettings, reading: Reading) -> None:
        self._trial, self._reading = trial, reading
        self._backbone = FrozenBackbone(trial, device=reading.device, precision=reading.precision)
        self._open: dict[tuple[str, int | None], Features] = {}

    def channels(self, split: Split) -> int:
        """How wide the features are that a head learns from; they are computed here where they are missing."""
        return self._features(split.table, self._views()[0]).values.shape[1]

    def _views(self) -> Sequence[int | None]:
        count = self._trial.image.views
        return [None] if count is None else range(int(count))

    def training(self, split: Split) -> TrainingFeatures:
        """Batches to learn from; of several processes each gets its share."""
        world = self._reading.world
        return TrainingFeatures(
            split,
            [self._features(split.table, view) for view in self._views()],
            device=self._reading.device,
            seed=self._reading.seed,
            share=world.share if world.is_distributed else None,
        )

    def evaluation(self, split: Split) -> EvaluationFeatures:
        """The features of a split (this process's share), in order."""
        features = self._features(split.table, None)
        return EvaluationFeatures(_own_share(split, self._reading.world), features, device=self._reading.device)

    def missing(self, split: Split, *, training: bool) -> list[tuple[ImageTable, int | None]]:
        """The tables and views whose features a run on a split needs and that are not kept yet."""
        views = [None, *(self._views() if training else [])]
        return [
            (split.table, view)
            for view in dict.fromkeys(views)
            if not have_features(split.table, self._trial.images, view, self._backbone, self._reading.cache_dir)
        ]

    def make(self, split: Split, *, training: bool) -> None:
        """Compute what is `missing`."""
        for table, view in self.missing(split, training=training):
            self._features(table, view)

    def _features(self, table: ImageTable, view: int | None) -> Features:
        if (table.name, view) not in self._open:
            self._open[table.name, view] = open_features(
                table,
                self._trial.images,
                view,
                self._backbone,
                directory=self._reading.cache_dir,
                workers=self._reading.workers,
                reporter=self._reading.reporter,
            )
        return self._open[table.name, view]


def open_inputs(trial: TrialSettings, reading: Reading) -> ImageInputs | FeatureInputs:
    """What the configuration asks for.

    Raises:
        ConfigError: the weights of a frozen backbone cannot be had.
    """
    return FeatureInputs(trial, reading) if trial.trains_on_features else ImageInputs(trial, reading)


def _own_share(split: Split, world: ProcessGroup) -> Split:
    if not world.is_distributed:
        return split
    shared = world.share(len(split))
    return split.select(np.arange(shared.start, shared.stop), split.name)
