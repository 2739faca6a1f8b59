"""Benchmarks and their layouts, splits and folds, corruptions, samplers, image cache, augmentation."""

from ctxtune.data.corruption import corrupt
from ctxtune.data.images import EvaluationImages, TrainingImages
from ctxtune.data.loading import dataset_names, load, load_dataset
from ctxtune.data.samplers import BatchSampler, build_sampler
from ctxtune.data.settings import DatasetSettings, ImageSettings, SamplerSettings, ValidationSettings
from ctxtune.data.split import Benchmark, Split
from ctxtune.data.splitting import Fold, split

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
