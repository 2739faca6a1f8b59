"""Batches of an epoch as indices into a split: a pure function of seed and epoch, so resuming needs no state."""

from __future__ import annotations

import itertools
import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ctxtune.data.settings import SamplerSettings
from ctxtune.data.split import Integers
from ctxtune.errors import ConfigError

MOST_LISTED_COMBINATIONS = 5000
"""Up to here all combinations of super-classes are gone through in turn, beyond they are drawn."""


class BatchSampler(Protocol):
    """What a training loop asks of a sampler."""

    batches_per_epoch: int

    def epoch(self, epoch: int) -> Integers:
        """The batches of an epoch: (batches_per_epoch, batch_size) int64 indices into the split."""
        ...


def build_sampler(
    settings: SamplerSettings, labels: npt.ArrayLike, super_labels: npt.ArrayLike | None, seed: int
) -> BatchSampler:
    """The sampler that `settings` names, over images with `labels` (n,) and, where there are any, `super_labels` (n,).

    Raises ConfigError where batch size, images per class and the number of classes cannot fit.
    """
    classes = np.asarray(labels, dtype=np.int64)
    if not len(classes):
        raise ConfigError("sampler: there are no images to draw from")
    if settings.name == "random":
        return RandomSampler(settings, len(classes), seed)
    if settings.super_classes_per_batch:
        if super_labels is None:
            raise ConfigError("sampler: super_classes is set, but the data set has no super-classes")
        return HierarchicalSampler(settings, classes, np.asarray(super_labels, dtype=np.int64), seed)
    return BalancedSampler(settings, classes, seed)


def _batches_per_epoch(settings: SamplerSettings, images: int) -> int:
    if settings.batches_per_epoch is not None:
        return settings.batches_per_epoch
    return math.ceil(images / settings.batch_size) if settings.round_up else max(1, images // settings.batch_size)


class RandomSampler:
    """Each image once per round, in random order; a round's remainder goes into the next round's first batch."""

    def __init__(self, settings: SamplerSettings, images: int, seed: int) -> None:
        if images < settings.batch_size:
            raise ConfigError(
                f"sampler: batch_size {settings.batch_size} is more than the {images} images to draw from"
            )
        self.batches_per_epoch = _batches_per_epoch(settings, images)
        self._images, self._batch_size, self._seed = images, settings.batch_size, seed

    def epoch(self, epoch: int) -> Integers:
        """(batches, batch_size) indices; no image twice in a batch."""
        rng = np.random.default_rng((self._seed, epoch))
        stream = _Stream(np.arange(self._images), None, rng)
        return np.stack([stream.take(self._batch_size) for _ in range(self.batches_per_epoch)])


class _Stream:
    """An endless row of items: random permutations of all (or of `per_round` drawn ones), one after the other.

    `take` never returns an item twice: where it reaches into the next round, that round's items that were just taken
    are put off to later in the round. So counts over a long row differ by at most one round.
    """

    def __init__(self, items: Integers, per_round: int | None, rng: np.random.Generator) -> None:
        self._items, self._rng = items, rng
        self._per_round = min(per_round or len(items), len(items))
        self._queue = items[:0]

    def take(self, count: int) -> Integers:
        """The next `count` distinct items; `count` is at most the number of items."""
        taken = self._queue[:count]
        self._queue = self._queue[count:]
        while len(taken) < count:
            fresh = self._rng.permutation(self._items)[: self._per_round]
            repeated = np.isin(fresh, taken)
            more = fresh[~repeated][: count - len(taken)]
            taken = np.concatenate([taken, more])
            self._queue = fresh[~np.isin(fresh, more)]
        return taken


class _Members:
    """The images of each class, packed, and draws of `m` of them for many classes at once."""

    def __init__(self, labels: Integers) -> None:
        self.classes, class_of = np.unique(labels, return_inverse=True)
        self._order = np.argsort(class_of, kind="stable")
        self.sizes = np.bincount(class_of, minlength=len(self.classes))
        self._starts = np.cumsum(self.sizes) - self.sizes

    def images(self, classes: Integers, count: int, rng: np.random.Generator, *, without_replacement: bool) -> Integers:
        """(visits, count) images for the visits (visits,) of an epoch; see `SamplerSettings.without_replacement`."""
        result = self.draw(classes, count, rng)
        if without_replacement:
            enough = self.sizes >= count  # a class with too few images for one visit repeats them anyhow
            for each in np.flatnonzero(np.bincount(classes, minlength=len(self.sizes)) * enough):
                visits = np.flatnonzero(classes == each)
                members = self._order[self._starts[each] : self._starts[each] + self.sizes[each]]
                whole = len(members) // count  # visits until too few images are left for another
                rounds = [rng.permutation(members)[: whole * count] for _ in range(0, len(visits), whole)]
                result[visits] = np.concatenate(rounds).reshape(-1, count)[: len(visits)]
        return result

    def draw(self, classes: Integers, count: int, rng: np.random.Generator) -> Integers:
        """(visits, count) images of the classes (visits,): distinct, or with replacement where a class has too few."""
        sizes = self.sizes[classes]
        enough = sizes >= count
        picks = np.empty((len(classes), count), dtype=np.int64)
        for column in range(count):
            room = np.where(enough, sizes - column, sizes)
            pick = np.minimum((rng.random(len(classes)) * room).astype(np.int64), room - 1)
            # The pick counts only what is left: step over the earlier picks, from the smallest up.
            for earlier in np.sort(picks[:, :column], axis=1).T:
                pick += enough & (pick >= earlier)
            picks[:, column] = pick
        return self._order[self._starts[classes][:, None] + picks]


class BalancedSampler:
    """`images_per_class` images of each of batch_size / images_per_class classes.

    Classes come in rounds: a round is a permutation of all classes (or of `classes_per_round` drawn ones, as
    published for 224 px), so that within an epoch no class is used two times more than another.
    """

    def __init__(self, settings: SamplerSettings, labels: Integers, seed: int) -> None:
        self._members = _Members(labels)
        self._classes_per_batch = settings.batch_size // settings.images_per_class
        found = len(self._members.classes)
        if found < self._classes_per_batch:
            raise ConfigError(
                f"sampler: batch_size {settings.batch_size} with {settings.images_per_class} images per class needs "
                f"{self._classes_per_batch} classes, but there are {found}; "
                f"batch_size can be at most {found * settings.images_per_class}"
            )
        self.batches_per_epoch = _batches_per_epoch(settings, len(labels))
        self._settings, self._seed = settings, seed

    def epoch(self, epoch: int) -> Integers:
        """(batches, batch_size) indices; images of a class lie side by side."""
        rng = np.random.default_rng((self._seed, epoch))
        stream = _Stream(np.arange(len(self._members.classes)), self._settings.classes_per_round, rng)
        visits = np.concatenate([stream.take(self._classes_per_batch) for _ in range(self.batches_per_epoch)])
        settings = self._settings
        images = self._members.images(
            visits, settings.images_per_class, rng, without_replacement=settings.without_replacement
        )
        return images.reshape(self.batches_per_epoch, self._settings.batch_size)


class HierarchicalSampler:
    """Batches shared in equal parts by the classes of few super-classes (two: the half-batches of the paper).

    All combinations of super-classes are gone through in random order, round after round. A super-class with fewer
    classes than its part of a batch gives all it has; the rest of that part comes from other super-classes.
    """

    def __init__(self, settings: SamplerSettings, labels: Integers, super_labels: Integers, seed: int) -> None:
        self._members = _Members(labels)
        classes, first = np.unique(labels, return_index=True)
        groups = super_labels[first]
        self._groups = [np.flatnonzero(groups == group) for group in np.unique(groups)]
        self._per_batch = settings.super_classes_per_batch
        self._classes_per_batch = settings.batch_size // settings.images_per_class
        if len(self._groups) < self._per_batch:
            raise ConfigError(f"sampler: {self._per_batch} super-classes per batch, but there are {len(self._groups)}")
        if len(classes) < self._classes_per_batch:
            raise ConfigError(
                f"sampler: batch_size {settings.batch_size} with {settings.images_per_class} images per class needs "
                f"{self._classes_per_batch} classes, but there are {len(classes)}"
            )
        self.batches_per_epoch = _batches_per_epoch(settings, len(labels))
        self._settings, self._seed = settings, seed

    def epoch(self, epoch: int) -> Integers:
        """(batches, batch_size) indices; the images of a super-class, and in it of a class, lie side by side."""
        rng = np.random.default_rng((self._seed, epoch))
        streams = [_Stream(members, None, rng) for members in self._groups]
        share = self._classes_per_batch // self._per_batch
        visits = []
        for combination in itertools.islice(self._combinations(rng), self.batches_per_epoch):
            chosen = [streams[group].take(min(share, len(self._groups[group]))) for group in combination]
            lacking = self._classes_per_batch - sum(map(len, chosen))
            others = rng.permutation([group for group in range(len(streams)) if group not in combination])
            chosen += self._fill(lacking, np.concatenate(chosen), [*others, *combination], streams, rng)
            visits.append(np.concatenate(chosen))
        settings = self._settings
        images = self._members.images(
            np.concatenate(visits), settings.images_per_class, rng, without_replacement=settings.without_replacement
        )
        return images.reshape(self.batches_per_epoch, self._settings.batch_size)

    def _fill(
        self, lacking: int, taken: Integers, groups: list[int], streams: list[_Stream], rng: np.random.Generator
    ) -> list[Integers]:
        """`lacking` further classes from `groups` in turn, drawn at random, none of them in `taken`."""
        more: list[Integers] = []
        for group in groups:
            if lacking == 0:
                break
            free = np.setdiff1d(self._groups[group], taken)
            drawn = (
                streams[group].take(min(lacking, len(free)))
                if len(free) == len(self._groups[group])
                else rng.permutation(free)[:lacking]
            )
            more.append(drawn)
            lacking -= len(drawn)
        return more

    def _combinations(self, rng: np.random.Generator):  # type: ignore[no-untyped-def]
        groups = len(self._groups)
        if math.comb(groups, self._per_batch) > MOST_LISTED_COMBINATIONS:
            while True:
                yield rng.permutation(groups)[: self._per_batch].tolist()
        listed = list(itertools.combinations(range(groups), self._per_batch))
        while True:
            yield from (list(listed[index]) for index in rng.permutation(len(listed)))
