"""The features of a frozen backbone, computed once per split and view and kept on disk beside the image caches.

A feature never changes while the backbone is frozen, so a head trains without images. The files are those of
`data.cache`: memory-mapped, made by one process under a lock, renamed when whole, checksummed, made again where they are
damaged, and named by what they were made from. Labels play no part in them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ctxtune.data.cache import Entry, Progress, Store, TooLarge, find_store, open_store
from ctxtune.data.images import EvaluationImages, TrainingImages
from ctxtune.data.settings import ImageSettings
from ctxtune.data.split import ImageTable, Integers, Split
from ctxtune.errors import DataError

BATCH = 64
"""Images at a time through the backbone. Fixed, because the draws of augmented views follow from a batch's number."""
VIEW_SEED = 20230721
"""Of the augmented views: the same in every run, so that they can be shared."""
RESIDENT_SHARE = 0.25
"""Of a GPU's memory: features that take no more of it are copied there once."""
_TYPES = (torch.float32, torch.float16, torch.bfloat16)

Reporter = Callable[[str, int, int], None]
"""Told what is being computed, how many images are done, and of how many."""


class Backbone(Protocol):
    """A frozen backbone, built only where features are missing."""

    key: str
    """What decides its features: the network, the content of its weights, pooling and precision."""
    device: torch.device

    @property
    def width(self) -> int:
        """Channels of a feature."""
        ...

    def __call__(self, images: Tensor) -> Tensor:
        """Pooled features (b, width), float32, float16 or bfloat16, of normalized images (b, 3, h, w) on the device."""
        ...

    def release(self) -> None:
        """Let go of the network."""
        ...


@dataclass(frozen=True, eq=False)
class Features:
    """The features of all images of a table under one view.

    Attributes:
        values: (m, channels), memory-mapped, read only: of the m images that could be read.
        position: (n,) int64, row of `values` of each image of the table; -1 for an unreadable one.
        unreadable: identifier to reason.
    """

    values: Tensor
    position: Tensor
    unreadable: dict[str, str]


def open_features(
    table: ImageTable,
    settings: ImageSettings,
    view: int | None,
    backbone: Backbone,
    *,
    directory: Path | None = None,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> Features:
    """The features of a table, computed first where they are missing, stale or damaged.

    Args:
        table: all images of a published split.
        settings: how the images are prepared, with the backbone's statistics.
        view: number of an augmented view; None: the test view.
        backbone: asked only where there is something to compute.
        directory: of the caches; None for the default.
        workers: threads that read images.
        reporter: told of progress.

    Raises:
        DataError: they do not fit the disk or `image.cache_limit_gib`, or too many images are unreadable.
    """
    progress: Progress | None = None
    what = f"features of {table.name}" + ("" if view is None else f", view {view + 1}")
    if reporter is not None:
        report = reporter
        progress = lambda done, total: report(what, done, total)  # noqa: E731
    try:
        store = open_store(
            table,
            _kind(settings, view, backbone),
            lambda: _entries(table, settings, view, backbone, directory, workers),
            directory=directory,
            limit_bytes=settings.cache_limit_gib * 2**30,
            estimate=lambda: len(table) * backbone.width * torch.float32.itemsize,
            progress=progress,
        )
    except TooLarge as error:
        raise DataError(
            f"{what}: {error}; make room, raise the limit, or say --set trial.image.views=live to compute them in every step"
        ) from error
    return _read(store)


def have_features(
    table: ImageTable, settings: ImageSettings, view: int | None, backbone: Backbone, directory: Path | None = None
) -> bool:
    """Whether the features of a table are kept already, sound and up to date."""
    return find_store(table, _kind(settings, view, backbone), directory) is not None


def _kind(settings: ImageSettings, view: int | None, backbone: Backbone) -> str:
    return f"features, {_view_key(settings, view)}, {backbone.key}"


def _view_key(settings: ImageSettings, view: int | None) -> str:
    pixels = (
        f"{settings.filter}, mean {settings.pixel_mean}, deviation {settings.pixel_deviation}, exact {settings.exact}"
    )
    if view is None:
        return f"test view, resize {settings.test_resize}, crop {settings.test_crop}, {pixels}"
    return (
        f"view {view} of crop {settings.train_crop}, scale {settings.min_scale} to {settings.max_scale}, ratio "
        f"{settings.ratio}, flip {settings.flip}, resize {settings.train_resize}, "
        f"cache {_cache(settings)} of short side {settings.cache_short_side}, {pixels}"
        + (f", augment {json.dumps(settings.augment)}" if settings.augment else "")
    )


def _cache(settings: ImageSettings) -> str:
    """Each image is needed once a view: a decoded copy of it on the disk is made only where that was asked for by name."""
    return "none" if settings.cache == "auto" else settings.cache


def _entries(
    table: ImageTable,
    settings: ImageSettings,
    view: int | None,
    backbone: Backbone,
    directory: Path | None,
    workers: int | None,
) -> Iterator[Entry | Exception]:
    """An entry per image, in the table's order."""
    rows = np.arange(len(table), dtype=np.int64)
    whole = Split(table.name, table, rows, np.zeros(len(table), dtype=np.int64))
    settings = settings.model_copy(update={"cache": _cache(settings)})
    options = {"device": backbone.device, "cache_dir": directory, "workers": workers}
    images: EvaluationImages | TrainingImages
    if view is None:
        images = EvaluationImages(whole, settings, **options)  # type: ignore[arg-type]
        batches = images.batches(BATCH)
    else:
        images = TrainingImages(whole, settings, seed=VIEW_SEED, **options)  # type: ignore[arg-type]
        # Full batches of rows, the last one filled up: what lies beyond the table's end is dropped again below.
        order = np.resize(rows, (-(-len(rows) // BATCH), BATCH))
        batches = images.batches(order, view)
    try:
        following = 0
        for batch, indices in batches:
            found = backbone(batch).detach().contiguous().cpu()
            kind = _TYPES.index(found.dtype)
            for index, feature in zip(indices.tolist(), found, strict=True):
                if index < following:  # of the last batch's filling
                    continue
                yield from _unreadable(images, table, following, index)
                following = index + 1
                yield Entry(feature.view(torch.uint8).numpy().data, (found.shape[1], kind))
        yield from _unreadable(images, table, following, len(table))
    finally:
        images.close()
        backbone.release()


def _unreadable(
    images: EvaluationImages | TrainingImages, table: ImageTable, start: int, end: int
) -> Iterator[Exception]:
    reasons = images.unreadable if end > start else {}
    for row in range(start, end):
        yield OSError(reasons.get(table.paths[row], "unreadable"))


def _read(store: Store) -> Features:
    index = store.index
    readable = np.flatnonzero(index[:, 1]) if index.shape[1] > 2 else np.empty(0, dtype=np.int64)
    if not len(readable):
        raise DataError(f"{store.path.name}: none of its {len(index)} images can be read")
    channels, kind = index[readable[0], 1:]
    values = torch.from_numpy(store.data).view(_TYPES[kind]).view(-1, int(channels))
    position = np.full(len(index), -1, dtype=np.int64)
    position[readable] = np.arange(len(readable))
    return Features(values, torch.from_numpy(position), store.unreadable)


def _resident(values: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Copies on the device where all of them fit its memory easily; else as they are."""
    if device.type != "cuda":
        return list(values)
    room = RESIDENT_SHARE * torch.cuda.get_device_properties(device).total_memory
    if sum(each.nbytes for each in values) > room:
        return list(values)
    return [each.to(device) for each in values]


class TrainingFeatures:
    """Batches of a split's features, in place of `TrainingImages`: same calls, (b, channels) for (b, 3, h, w).

    With several views, which of them each image is seen under is drawn anew for every batch, a pure function of (seed,
    epoch, batch number). Images that could not be read are left out of their batch; with `share` (several processes,
    which each keep to their number of images) others stand in for them.
    """

    def __init__(
        self,
        split: Split,
        views: Sequence[Features],
        *,
        device: torch.device,
        seed: int,
        share: Callable[[int], slice] | None = None,
    ) -> None:
        self.split, self.seed, self.device = split, seed, device
        self.unreadable = dict(views[0].unreadable)
        self.channels = views[0].values.shape[1]
        self._values = _resident([view.values for view in views], device)
        rows = torch.from_numpy(split.rows)
        self._rows = torch.stack([view.position[rows] for view in views])
        self._readable = (self._rows >= 0).all(dim=0)
        self._whole = bool(self._readable.all())
        self._share = share

    def batches(self, index_batches: Integers, epoch: int, first_batch: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (features (b, channels) on the device, indices (b,) on the CPU) of the batches from `first_batch` on."""
        orders = torch.from_numpy(np.asarray(index_batches, dtype=np.int64))
        for number in range(first_batch, len(orders)):
            indices, view = orders[number], self._drawn_views(epoch, number, orders.shape[1])
            if self._share is not None:
                own = self._share(len(indices))
                indices, view = indices[own], view if view is None else view[own]
            if not self._whole:
                indices, view = self._readable_ones(indices, view)
            if len(indices):
                yield self._gathered(indices, view).to(self.device, non_blocking=True), indices

    def _drawn_views(self, epoch: int, number: int, count: int) -> Tensor | None:
        if len(self._values) == 1:
            return None
        return torch.from_numpy(
            np.random.default_rng((self.seed, epoch, number)).integers(len(self._values), size=count)
        )

    def _readable_ones(self, indices: Tensor, view: Tensor | None) -> tuple[Tensor, Tensor | None]:
        good = self._readable[indices]
        if self._share is None:
            return indices[good], view if view is None else view[good]
        first = indices[good][:1]
        if not len(first):
            raise DataError("no image of a process's share of the batch could be read")
        return torch.where(good, indices, first), view

    def _gathered(self, indices: Tensor, view: Tensor | None) -> Tensor:
        if view is None:
            return self._of_view(0, indices)
        gathered = self._of_view(0, indices)
        for number in range(1, len(self._values)):
            chosen = torch.nonzero(view == number).flatten()
            if len(chosen):
                gathered[chosen.to(gathered.device)] = self._of_view(number, indices[chosen])
        return gathered

    def _of_view(self, number: int, indices: Tensor) -> Tensor:
        values, rows = self._values[number], self._rows[number][indices]
        return values.index_select(0, rows.to(values.device, non_blocking=True))

    def close(self) -> None:
        """Let go of the features."""
        self._values = []


class EvaluationFeatures:
    """A split's features under the test view, in order, in place of `EvaluationImages`."""

    def __init__(self, split: Split, features: Features, *, device: torch.device) -> None:
        self.split, self.device = split, device
        self.unreadable = dict(features.unreadable)
        self._values = features.values
        self._rows = features.position[torch.from_numpy(split.rows)]

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (features (b, channels) on the device, indices (b,)), the last batch shorter."""
        readable = torch.nonzero(self._rows >= 0).flatten()
        for indices in readable.split(batch_size):
            yield self._values.index_select(0, self._rows[indices]).to(self.device, non_blocking=True), indices

    def close(self) -> None:
        """Let go of the features."""
