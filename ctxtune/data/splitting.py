"""Validation splits: whole classes of the train side are set apart, never images of a class on both sides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ctxtune.data.settings import ValidationSettings
from ctxtune.data.split import Integers, Split
from ctxtune.errors import DataError


@dataclass(frozen=True, eq=False)
class Fold:
    """The classes to fit on, and the classes to validate on, with their number among the folds."""

    fit: Split
    validation: Split
    fold: int


def split(train: Split, validation: ValidationSettings) -> list[Fold]:
    """All folds of a train split, in order.

    Under `class_folds` and `super_class_folds` each class is in exactly one validation side. Images and super-classes
    are shared out evenly; which classes go together is a function of `validation.seed` and the split's labels alone.
    Raises DataError where there are fewer classes than folds, or no super-classes to split by.
    """
    if validation.scheme == "image_holdout":
        return [_image_holdout(train, validation)]
    labels, sizes = np.unique(train.labels, return_counts=True)
    groups = _super_class_of(train, labels)
    if validation.scheme == "super_class_folds":
        if train.super_labels is None:
            raise DataError(f"{train.name} has no super-classes; use scheme class_folds or class_holdout")
        fold_of = _super_class_folds(groups, sizes, validation, train.name)
    elif validation.scheme == "class_folds":
        _enough(len(labels), validation.folds, "classes", train.name)
        fold_of = _class_folds(groups, sizes, validation)
    else:
        _enough(len(labels), 2, "classes", train.name)
        fold_of = _holdout(groups, sizes, validation)
    image_fold = fold_of[np.searchsorted(labels, train.labels)]
    return [_checked(train, image_fold == fold, fold) for fold in range(validation.count)]


def _checked(train: Split, held: np.ndarray, fold: int) -> Fold:
    fit = train.select(np.flatnonzero(~held), f"{train.name}/fold{fold}/fit")
    validation = train.select(np.flatnonzero(held), f"{train.name}/fold{fold}/validation")
    if np.intersect1d(fit.labels, validation.labels).size or np.intersect1d(fit.rows, validation.rows).size:
        raise AssertionError(f"{train.name}: fold {fold} shares classes or images between fit and validation")
    if not len(fit) or not len(validation):
        raise DataError(f"{train.name}: fold {fold} leaves one side empty")
    return Fold(fit, validation, fold)


def _image_holdout(train: Split, validation: ValidationSettings) -> Fold:
    """Images of every class on both sides: closed-set. Raises DataError where no class has three images."""
    rng = np.random.default_rng((validation.seed, 5))
    held = np.zeros(len(train), dtype=bool)
    for label in train.classes():
        members = rng.permutation(np.flatnonzero(train.labels == label))
        held[members[: images_held_out(len(members), validation.fraction)]] = True
    if not held.any():
        raise DataError(f"{train.name}: no class has the three images that scheme image_holdout needs")
    fit = train.select(np.flatnonzero(~held), f"{train.name}/fold0/fit")
    return Fold(fit, train.select(np.flatnonzero(held), f"{train.name}/fold0/validation"), 0)


def images_held_out(count: int, fraction: float) -> int:
    """How many of a class's images are held out: two at least, so that they find each other, one stays; none of two."""
    return 0 if count < 3 else min(max(2, round(fraction * count)), count - 1)


def _enough(found: int, wanted: int, what: str, name: str) -> None:
    if found < wanted:
        raise DataError(f"{name} has {found} {what}, too few for {wanted} folds")


def _super_class_of(train: Split, labels: Integers) -> Integers:
    """(classes,) the super-class of each class (of its first image); all 0 where there are none."""
    if train.super_labels is None:
        return np.zeros(len(labels), dtype=np.int64)
    _, first = np.unique(train.labels, return_index=True)
    return train.super_labels[first]


def _shuffled_by_size(sizes: Integers, rng: np.random.Generator) -> Integers:
    """Positions from the largest to the smallest, equal sizes in random order."""
    order = rng.permutation(len(sizes))
    return order[np.argsort(-sizes[order], kind="stable")]


def _class_folds(groups: Integers, sizes: Integers, validation: ValidationSettings) -> Integers:
    """Deal the classes out: super-class by super-class, large classes first.

    The next class goes to the fold that has the fewest classes of its super-class so far; among those to the one with
    the fewest classes in all; then with the fewest images. So no fold gets two classes more than another, of a
    super-class or in all. Large super-classes come first, so that small ones even out the rest.
    """
    rng = np.random.default_rng((validation.seed, 1))
    fold_of = np.full(len(sizes), -1, dtype=np.int64)
    images = np.zeros(validation.folds, dtype=np.int64)
    classes = np.zeros(validation.folds, dtype=np.int64)
    names, counts = np.unique(groups, return_counts=True)
    for group in names[np.argsort(-counts, kind="stable")]:
        members = np.flatnonzero(groups == group)
        taken = np.zeros(validation.folds, dtype=np.int64)
        for member in members[_shuffled_by_size(sizes[members], rng)]:
            fold = np.lexsort((rng.random(validation.folds), images, classes, taken))[0]
            fold_of[member] = fold
            taken[fold] += 1
            classes[fold] += 1
            images[fold] += sizes[member]
    return fold_of


def _super_class_folds(groups: Integers, sizes: Integers, validation: ValidationSettings, name: str) -> Integers:
    names = np.unique(groups)
    _enough(len(names), validation.folds, "super-classes", name)
    rng = np.random.default_rng((validation.seed, 2))
    group_images = np.array([sizes[groups == group].sum() for group in names])
    images = np.zeros(validation.folds, dtype=np.int64)
    taken = np.zeros(validation.folds, dtype=np.int64)
    fold_of = np.full(len(sizes), -1, dtype=np.int64)
    for position in _shuffled_by_size(group_images, rng):
        # An empty fold first, so that no fold is left without a super-class; then the one with the fewest images.
        fold = np.lexsort((rng.random(validation.folds), images, taken > 0))[0]
        fold_of[groups == names[position]] = fold
        images[fold] += group_images[position]
        taken[fold] += 1
    return fold_of


def _holdout(groups: Integers, sizes: Integers, validation: ValidationSettings) -> Integers:
    """0 for validation, -1 for fit: of each super-class its share, by a running total so that shares add up."""
    rng = np.random.default_rng((validation.seed, 3))
    fold_of = np.full(len(sizes), -1, dtype=np.int64)
    order = np.concatenate([members[_shuffled_by_size(sizes[members], rng)] for members in _members(groups)])
    wanted = min(max(1, round(validation.fraction * len(sizes))), len(sizes) - 1)
    # The classes in a row, largest first within each super-class; one of each run of neighbors is held out.
    edges = np.arange(wanted + 1) * len(sizes) // wanted
    places = rng.integers(edges[:-1], edges[1:])
    fold_of[order[places]] = 0
    return fold_of


def _members(groups: Integers) -> list[Integers]:
    return [np.flatnonzero(groups == group) for group in np.unique(groups)]
