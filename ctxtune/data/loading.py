"""`load`: a benchmark by name."""

from __future__ import annotations

import inspect
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ctxtune.data.layouts.cars196 import load_cars196
from ctxtune.data.layouts.cub200 import load_cub200
from ctxtune.data.layouts.finding import data_root
from ctxtune.data.layouts.folders import load_class_folders
from ctxtune.data.layouts.glyphs import load_glyphs
from ctxtune.data.layouts.inaturalist import load_inaturalist2018, load_inaturalist2021_mini
from ctxtune.data.layouts.inshop import load_inshop
from ctxtune.data.layouts.lists import load_image_lists, load_sop
from ctxtune.data.layouts.omniglot import load_omniglot
from ctxtune.data.layouts.table import SplitRule, load_table
from ctxtune.data.official_counts import verify
from ctxtune.data.settings import DATASETS, DatasetSettings, unknown_dataset
from ctxtune.data.split import Benchmark, Split
from ctxtune.errors import ConfigError, DataError


def _glyphs(root: Path, image_size: int = 32) -> Benchmark:
    return load_glyphs(image_size)


def _table(
    root: Path | None,
    file: str | Mapping[str, str] | None = None,
    columns: Mapping[str, str] | None = None,
    test_fraction: float = 0.5,
    split_seed: int = 0,
    recall_at: tuple[int, ...] = (1, 2, 4, 8),
    closed_set: bool = False,
) -> Benchmark:
    return load_table(root, file, columns, SplitRule(test_fraction, split_seed, closed_set), recall_at)


def _image_list(
    root: Path, lists: Mapping[str, str] | None = None, recall_at: tuple[int, ...] = (1, 2, 4, 8)
) -> Benchmark:
    return load_image_lists("image_list", root, lists, recall_at)


LOADERS: dict[str, Callable[..., Benchmark]] = {
    "cars196": load_cars196,
    "class_folders": load_class_folders,
    "cub200": load_cub200,
    "glyphs": _glyphs,
    "image_list": _image_list,
    "inaturalist2018": load_inaturalist2018,
    "inaturalist2021_mini": load_inaturalist2021_mini,
    "inshop": load_inshop,
    "omniglot": load_omniglot,
    "sop": load_sop,
    "table": _table,
}
TABLE_OPTIONS = ("file", "columns", "test_fraction", "split_seed")
RECALL_AT = {"sop": (1, 10, 100, 1000), "inshop": (1, 10, 20, 30, 40, 50), "inaturalist2018": (1, 4, 16, 32)}


def dataset_names() -> list[str]:
    """The names that `load` knows, sorted."""
    return list(DATASETS)


def load(
    name: str,
    root: str | Path | None = None,
    *,
    strict: bool = False,
    max_unreadable: float = 0.001,
    lists: Mapping[str, str] | None = None,
    closed_set: bool = False,
    **options: Any,
) -> Benchmark:
    """A benchmark by name from the folder or archive `root`. Image files are found, not opened.

    Args:
        name: one of `dataset_names()`.
        root: where it lies; None is `$CTXTUNE_DATA/NAME` or `data/NAME`. Nothing is needed for glyphs.
        strict: counts that are not the official ones are an error, not a warning.
        max_unreadable: the share of a split's images that may turn out unreadable at run time before that is an error.
        lists: split name to image list; any data set may be given so.
        closed_set: the same classes may be in train and test; what is measured then is no zero-shot retrieval.
        options: what the data set offers beside: `image_size` (glyphs, omniglot), `train_classes` (class_folders),
            `recall_at` (class_folders, image_list, table); `file`, `columns`, `test_fraction`, `split_seed` (table).

    Raises:
        ConfigError: a name or an option that is not known.
        DataError: the data is missing or not as it should be, with file and line.
    """
    if name not in LOADERS:
        raise ConfigError(f"dataset.name: {unknown_dataset(name)}")
    place = None if name == "table" and root is None else data_root(name, root)
    loader = LOADERS[name]
    known = [parameter for parameter in inspect.signature(loader).parameters if parameter not in ("root", "closed_set")]
    for option in options:
        if option not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise ConfigError(f"dataset.{option}: the data set {name} has no such option; {has}")
    try:
        if name == "table":
            benchmark = loader(place, closed_set=closed_set, **options)
        elif place is not None and lists is not None and "lists" not in known:
            benchmark = load_image_lists(name, place, lists, RECALL_AT.get(name, (1, 2, 4, 8)))
        else:
            benchmark = loader(place, **options, **({} if lists is None else {"lists": lists}))
    except (OSError, zipfile.BadZipFile) as error:  # no right to look, a broken archive, a name that is too long
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{name}: {getattr(error, 'filename', None) or place}: {reason}") from error
    verify(benchmark, strict=strict, closed_set=closed_set)
    return _with_tolerance(benchmark, max_unreadable)


def _with_tolerance(benchmark: Benchmark, max_unreadable: float) -> Benchmark:
    def change(split: Split | None) -> Split | None:
        if split is None:
            return None
        return replace(split, table=replace(split.table, max_unreadable=max_unreadable))

    train = change(benchmark.train)
    assert train is not None
    return replace(
        benchmark,
        train=train,
        test=change(benchmark.test),
        query=change(benchmark.query),
        gallery=change(benchmark.gallery),
    )


def load_dataset(settings: DatasetSettings) -> Benchmark:
    """The benchmark that a `dataset` block names. Raises as `load` does."""
    options = {
        key: value
        for key in ("image_size", "lists", "train_classes", "recall_at", *TABLE_OPTIONS)
        if (value := getattr(settings, key)) is not None
    }
    return load(
        settings.name,
        settings.root,
        strict=settings.strict,
        max_unreadable=settings.max_unreadable,
        closed_set=settings.closed_set,
        **options,
    )
