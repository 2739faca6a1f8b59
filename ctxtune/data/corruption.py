"""The paper's robustness studies: labels and images spoiled, classes and images withheld, in the fit classes only."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np

from ctxtune.data.settings import DatasetSettings
from ctxtune.data.split import Integers, Split
from ctxtune.errors import DataError

STREAM = zlib.crc32(b"corruption")
"""Stands between seed and counter: samplers and augmentation draw from (seed, epoch, ...), and no epoch is so large.

On one stream with a sampler the images of some epoch's first batches would be exactly those that were spoiled."""


def corrupt(fit: Split, dataset: DatasetSettings, seed: int) -> Split:
    """`fit` with the withheld data left out and the noise of `dataset` put in; `fit` itself where all is 0.

    First classes, then images are withheld (every class keeps at least one image); then images are replaced by
    images of other classes, and labels by other classes' labels, each for an exact share of the images. Each of the
    four draws from its own stream of `seed`, which no sampler and no augmentation shares, so that the same seed spoils
    the same images whatever else varies. What was done is in the result's `notes`. Raises DataError where there is
    only one class left to confuse.
    """
    split = fit
    if dataset.withheld_classes:
        split = _without_classes(split, dataset.withheld_classes, _stream(seed, 1))
    if dataset.withheld_images:
        split = _without_images(split, dataset.withheld_images, _stream(seed, 2))
    if dataset.image_noise:
        split = _image_noise(split, dataset.image_noise, _stream(seed, 3))
    if dataset.label_noise:
        split = _label_noise(split, dataset, _stream(seed, 4))
    if split is fit:
        return fit
    done = {
        "label_noise": dataset.label_noise,
        "label_noise_kind": dataset.label_noise_kind,
        "image_noise": dataset.image_noise,
        "withheld_classes": dataset.withheld_classes,
        "withheld_images": dataset.withheld_images,
        "corruption_seed": seed,
    }
    return replace(split, notes={**split.notes, **done})


def _stream(seed: int, which: int) -> np.random.Generator:
    return np.random.default_rng((seed, STREAM, which))


def _without_classes(split: Split, share: float, rng: np.random.Generator) -> Split:
    classes = split.classes()
    kept = rng.permutation(classes)[round(share * len(classes)) :]
    if len(kept) < 2:
        raise DataError(f"{split.name}: withheld_classes {share} leaves {len(kept)} of {len(classes)} classes")
    return split.select(np.flatnonzero(np.isin(split.labels, kept)), split.name)


def _without_images(split: Split, share: float, rng: np.random.Generator) -> Split:
    order = rng.permutation(len(split))
    # The first image of each class in that random order stays, whatever the share.
    _, first = np.unique(split.labels[order], return_index=True)
    spared = np.zeros(len(split), dtype=bool)
    spared[order[first]] = True
    candidates = order[~spared[order]]
    gone = candidates[: round(share * len(split))]
    return split.select(np.setdiff1d(np.arange(len(split)), gone), split.name)


def _chosen(split: Split, share: float, rng: np.random.Generator, what: str) -> Integers:
    if len(split.classes()) < 2:
        raise DataError(f"{split.name}: {what} needs at least two classes")
    return rng.permutation(len(split))[: round(share * len(split))]


def _image_noise(split: Split, share: float, rng: np.random.Generator) -> Split:
    chosen = _chosen(split, share, rng, "image_noise")
    rows = split.rows.copy()
    donors = rng.integers(len(split), size=len(chosen))
    while (same := split.labels[donors] == split.labels[chosen]).any():
        donors[same] = rng.integers(len(split), size=int(same.sum()))
    rows[chosen] = split.rows[donors]
    return replace(split, rows=rows)


def _label_noise(split: Split, dataset: DatasetSettings, rng: np.random.Generator) -> Split:
    chosen = _chosen(split, dataset.label_noise, rng, "label_noise")
    classes, first, class_of = np.unique(split.labels, return_index=True, return_inverse=True)
    if dataset.label_noise_kind == "uniform":
        other = rng.integers(len(classes) - 1, size=len(chosen))
        replaced = other + (other >= class_of[chosen])
    else:
        supers = None if split.super_labels is None else split.super_labels[first]
        replaced = _partners(len(classes), supers, rng)[class_of[chosen]]
    labels = split.labels.copy()
    labels[chosen] = classes[replaced]
    super_labels = split.super_labels
    if super_labels is not None:
        super_labels = super_labels.copy()
        super_labels[chosen] = split.super_labels[first[replaced]]  # type: ignore[index]
    return replace(split, labels=labels, super_labels=super_labels)


def _partners(count: int, supers: Integers | None, rng: np.random.Generator) -> Integers:
    """The class that each class is taken for: the next one on a random circle, within its super-class if it can be.

    Class-dependent noise after Patrini et al. (CVPR 2017): a transition matrix with one off-diagonal entry a row.
    """
    order = rng.permutation(count)
    partner = np.empty(count, dtype=np.int64)
    partner[order] = np.roll(order, -1)
    if supers is not None:
        for group in np.unique(supers):
            members = order[supers[order] == group]
            if len(members) > 1:
                partner[members] = np.roll(members, -1)
    return partner
