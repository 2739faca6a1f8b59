"""Benchmarks and their layouts, splits and folds, corruptions, samplers, image cache, augmentation."""

from ctxtune.data.corruption import corrupt
from ctxtune.data.images import EvaluationImages, TrainingImages
from ctxtune.data.loading import dataset_names, load, load_dataset
from ctxtune.data.part import Benchmark, Part
from ctxtune.data.samplers import BatchSampler, build_sampler
from ctxtune.data.settings import DatasetSettings, ImageSettings, SamplerSettings, ValidationSettings
from ctxtune.data.splitting import Split, split

__all__ = [
    "BatchSampler",
    "Benchmark",
    "DatasetSettings",
    "EvaluationImages",
    "ImageSettings",
    "Part",
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
