"""Benchmarks and their layouts, splits and folds, corruptions, samplers, image cache, augmentation."""

from typing import TYPE_CHECKING

from ctxtune.data.settings import DatasetSettings, ImageSettings, SamplerSettings, ValidationSettings
from ctxtune.data.split import Benchmark, Split
from ctxtune.data.splitting import Fold, split  # not when asked for: a module is called `split`, too
from ctxtune.lazy_names import lazy_names

if TYPE_CHECKING:
    from ctxtune.data.corruption import corrupt
    from ctxtune.data.images import EvaluationImages, TrainingImages
    from ctxtune.data.loading import dataset_names, load, load_dataset
    from ctxtune.data.samplers import BatchSampler, build_sampler

__all__ = [
    "BatchSampler",
    "Benchmark",
    "DatasetSettings",
    "EvaluationImages",
    "Fold",
    "ImageSettings",
    "SamplerSettings",
    "Split",
    "TrainingImages",
    "ValidationSettings",
    "build_sampler",
    "corrupt",
    "dataset_names",
    "load",
    "load_dataset",
    "split",
]
__getattr__ = lazy_names(
    __name__,
    {
        "BatchSampler": ".samplers",
        "EvaluationImages": ".images",
        "TrainingImages": ".images",
        "build_sampler": ".samplers",
        "corrupt": ".corruption",
        "dataset_names": ".loading",
        "load": ".loading",
        "load_dataset": ".loading",
    },
)
