"""What is odd about a data set that can be used all the same: images listed twice, copies, files that nobody reads."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ctxtune.data.sources import FolderSource, is_image_name
from ctxtune.data.split import Benchmark
from ctxtune.text import counted

NAMED_AT_MOST = 3
OWN_DATA = ("class_folders", "image_list", "table")
"""Data sets whose class names somebody has typed, or a spreadsheet has changed."""
NO_NAMES = frozenset({"", "nan", "na", "n/a", "<na>", "null", "none", "nat", "#n/a"})
"""What programs write where there is no value."""


def listed_twice(benchmark: Benchmark) -> list[str]:
    """Images that are in the data set more than once, one sentence for each split and each pair of splits.

    A copy is the nearest neighbor of its original, and counts as a match: Recall@1 rises without a reason.
    """
    found = []
    paths = {name: Counter(split.paths) for name, split in benchmark.splits().items()}
    for name, counts in paths.items():
        twice = [path for path, count in counts.items() if count > 1]
        if twice:
            found.append(f"{benchmark.name}/{name}: {_named(twice)} listed more than once: a copy is its own match")
    names = list(paths)
    for place, name in enumerate(names):
        for other in names[place + 1 :]:
            if shared := sorted(paths[name].keys() & paths[other].keys()):
                found.append(f"{benchmark.name}: {_named(shared)} both in {name} and in {other}")
    return found


def odd_names(benchmark: Benchmark) -> list[str]:
    """Classes that are one class under two names, perhaps, and names that stand for no name, a sentence each.

    A class in train and, spelled otherwise, in test is a leak; in one split, its images count as wrong for each other.
    """
    if benchmark.name not in OWN_DATA:
        return []
    where: dict[str, dict[str, str]] = defaultdict(dict)
    for split, images in benchmark.splits().items():
        for label in images.classes().tolist():
            name = images.class_names.get(label, str(label))
            where[_without_spelling(name)].setdefault(name, split)
    pairs = [_spellings(names) for names in where.values() if len(names) > 1]
    found = []
    if pairs:
        found.append(
            f"{benchmark.name}: {counted(len(pairs), 'name')} spelled in several ways, a class for each: "
            f"{_few(pairs)}; write the same class the same way"
        )
    if none := [name for key in sorted(NO_NAMES & where.keys()) for name in where[key]]:
        found.append(f"{benchmark.name}: {_few(list(map(repr, none)))}: is it a class, or a gap? Take such images out")
    return [*found, *_two_super_classes(benchmark)]


def _two_super_classes(benchmark: Benchmark) -> Iterator[str]:
    """Folds and samplers take the super-class of a class's first image."""
    for split in benchmark.splits().values():
        if split.super_labels is None:
            continue
        pairs = np.unique(np.stack([split.labels, split.super_labels]), axis=1)[0].tolist()
        if several := [label for label, count in Counter(pairs).items() if count > 1]:
            names = [repr(split.class_names.get(label, str(label))) for label in several]
            yield f"{split.name}: {len(names)} of its classes lie in several super-classes ({_few(names)}); a class has one"


def _spellings(names: Mapping[str, str]) -> str:
    """Names that look alike are shown by their code points."""
    alike = len({unicodedata.normalize("NFKC", name) for name in names}) < len(names)
    return " and ".join(f"{ascii(name) if alike else repr(name)} ({split})" for name, split in names.items())


def _without_spelling(name: str) -> str:
    """What two spellings of one name share: letters whatever their case and code points, numbers whatever their zeros."""
    shown = "".join(sign for sign in unicodedata.normalize("NFKC", name) if unicodedata.category(sign) != "Cf")
    text = " ".join(shown.casefold().split())
    plain = text.removeprefix("+").lstrip("0")
    whole, point, decimals = plain.partition(".")
    if text and set(text) <= set("+0123456789.") and text.count(".") <= 1:
        return f"{whole or 0}.{decimals.rstrip('0')}".rstrip(".") if point else plain or "0"
    return text


def _few(items: list[str]) -> str:
    return ", ".join(items[:NAMED_AT_MOST]) + (", ..." if len(items) > NAMED_AT_MOST else "")


def copies(benchmark: Benchmark, pixels: Mapping[str, Mapping[str, bytes]]) -> list[str]:
    """Images with the very pixels of another one under another path, one sentence for each split and each pair of splits.

    Args:
        pixels: a digest of the pixels by path, by split.
    """
    found = []
    paths_of = {name: _by_digest(digests) for name, digests in pixels.items()}
    for name, paths_by_digest in paths_of.items():
        if groups := [paths for paths in paths_by_digest.values() if len(paths) > 1]:
            split = benchmark.splits()[name]
            labels = dict(zip(split.paths, split.labels.tolist(), strict=True))
            mixed = sum(len({labels[path] for path in paths}) > 1 for paths in groups)
            otherwise = f"; {counted(mixed, 'time')} with another class" if mixed else ""
            extra = sum(len(paths) - 1 for paths in groups)
            found.append(
                f"{benchmark.name}/{name}: {_same(extra, [(paths[0], paths[1]) for paths in groups])}: a copy is its own "
                f"match{otherwise}"
            )
    names = list(paths_of)
    for place, name in enumerate(names):
        for other in names[place + 1 :]:
            shared = [
                (paths_of[name][digest][0], path)
                for digest in paths_of[name].keys() & paths_of[other].keys()
                for path in paths_of[other][digest]
            ]
            if pairs := sorted(pair for pair in shared if pair[0] != pair[1]):
                found.append(f"{benchmark.name}: in {name} and in {other}, {_same(len(pairs), pairs)}")
    return found


def _by_digest(digests: Mapping[str, bytes]) -> dict[bytes, list[str]]:
    paths: dict[bytes, list[str]] = defaultdict(list)
    for path, digest in sorted(digests.items()):
        paths[digest].append(path)
    return paths


def _same(count: int, pairs: list[tuple[str, str]]) -> str:
    few = ", ".join(f"{one} = {other}" for one, other in pairs[:NAMED_AT_MOST])
    more = ", ..." if len(pairs) > NAMED_AT_MOST else ""
    return f"{counted(count, 'image')} with the pixels of another one ({few}{more})"


def _named(paths: list[str]) -> str:
    return f"{counted(len(paths), 'image')} ({_few(paths)}) {'is' if len(paths) == 1 else 'are'}"


def left_out(benchmark: Benchmark) -> list[str]:
    """What lies in the folders of the images and is not read, one sentence for each folder: other files, folders inside.

    Empty where the images are in no folder (an archive, rendered images). Raises OSError.
    """
    listed: dict[Path, set[str]] = {}
    for split in benchmark.splits().values():
        if isinstance(split.table.source, FolderSource):
            for path in split.paths:
                folder, _, file = path.rpartition("/")
                listed.setdefault(split.table.source.root / folder, set()).add(file)
    sentences = [text for folder, files in sorted(listed.items()) for text in _beside(folder, files)]
    for parent in sorted({folder.parent for folder in listed} - listed.keys()):
        stray = sorted(entry.name for entry in os.scandir(parent) if entry.is_file() and is_image_name(entry.name))
        if stray:
            sentences.append(f"{parent}: {_named(stray)} in no class folder and left out")
    return [*sentences, *_parts_left_out(benchmark)]


def _parts_left_out(benchmark: Benchmark) -> Iterator[str]:
    """The folders beside `train` and `test` that are no part of the data set, such as `val`."""
    source = benchmark.train.table.source
    if benchmark.name != "class_folders" or not isinstance(source, FolderSource):
        return
    used = {path.partition("/")[0] for split in benchmark.splits().values() for path in split.paths}
    beside = sorted(f"{entry.name}/" for entry in os.scandir(source.root) if entry.is_dir() and entry.name not in used)
    if others := [name for name in beside if not name.startswith(".")]:
        yield f"{source.root}: not looked into: {_few(others)}"


def _most_first(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _beside(folder: Path, listed: set[str]) -> Iterator[str]:
    others, inside = [], []
    for entry in os.scandir(folder):
        if entry.name in listed or entry.name.startswith("."):
            continue
        if entry.is_dir():
            inside.append(entry.name)
        elif not is_image_name(entry.name):
            others.append(entry.name)
    if others:
        suffixes = Counter(os.path.splitext(name)[1].lower() or "no suffix" for name in others)  # noqa: PTH122
        kinds = ", ".join(f"{count} with {suffix}" for suffix, count in sorted(suffixes.items(), key=_most_first)[:5])
        few = ", ".join(sorted(others)[:NAMED_AT_MOST]) + (", ..." if len(others) > NAMED_AT_MOST else "")
        yield f"{folder}: {counted(len(others), 'file')} left out by suffix: {kinds} ({few})"
    if inside:
        yield f"{folder}: not looked into: {', '.join(f'{name}/' for name in sorted(inside)[:NAMED_AT_MOST])}"
