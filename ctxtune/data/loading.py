"""`load`: a benchmark by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ctxtune.data.glyphs import load_glyphs
from ctxtune.data.omniglot import load_omniglot
from ctxtune.data.part import Benchmark
from ctxtune.data.settings import DatasetSettings
from ctxtune.errors import ConfigError


def _glyphs(root: str | Path | None, image_size: int | None = None) -> Benchmark:
    return load_glyphs(image_size or 32)


def _omniglot(root: str | Path | None, image_size: int | None = None) -> Benchmark:
    return load_omniglot(root, image_size or 32)


LOADERS: dict[str, Callable[..., Benchmark]] = {"glyphs": _glyphs, "omniglot": _omniglot}


def dataset_names() -> list[str]:
    """The names that `load` knows, sorted."""
    return sorted(LOADERS)


def load(name: str, root: str | Path | None = None, **options: Any) -> Benchmark:
    """A benchmark by name from the folder or archive `root`. Image files are found, not opened.

    Raises ConfigError for a name or an option that is not known, DataError where the data is not as it should be.
    """
    if name not in LOADERS:
        near = difflib.get_close_matches(name, LOADERS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(dataset_names())}"
        raise ConfigError(f"dataset.name: there is no data set {name!r}; {hint}")
    loader = LOADERS[name]
    known = [parameter for parameter in inspect.signature(loader).parameters if parameter != "root"]
    for option in options:
        if option not in known:
            raise ConfigError(
                f"dataset.{option}: the data set {name} has no such option; it has {', '.join(known) or 'none'}"
            )
    return loader(root, **options)


def load_dataset(settings: DatasetSettings) -> Benchmark:
    """The benchmark that a `dataset` block names. Raises as `load` does."""
    options = {
        key: value
        for key in ("image_size", "lists", "train_classes", "recall_at")
        if (value := getattr(settings, key)) is not None
    }
    return load(settings.name, settings.root, **options)
