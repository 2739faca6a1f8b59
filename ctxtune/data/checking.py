"""What `python -m ctxtune.data check` finds out: counts, class sizes, image sizes, unreadable files, copies."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from ctxtune.data.cache import Progress
from ctxtune.data.split import Benchmark, Split
from ctxtune.data.threads import in_threads
from ctxtune.text import counted

HUGE = 89_478_485
"""Pixels: from here on Pillow warns of what it opens."""


@dataclass(frozen=True)
class SplitReport:
    """Facts about one split. Sizes are (width, height) in pixels of the upright images; None where none was opened.

    `pixels` has a digest of the size and the pixels of each image that was opened, by its path.
    """

    name: str
    images: int
    classes: int
    super_classes: int
    smallest_class: tuple[str, int]
    largest_class: tuple[str, int]
    single_image_classes: int
    smallest_image: tuple[int, int] | None = None
    median_image: tuple[int, int] | None = None
    largest_image: tuple[int, int] | None = None
    unreadable: dict[str, str] = field(default_factory=dict)
    huge_images: int = 0
    pixels: dict[str, bytes] = field(default_factory=dict)


def describe_split(split: Split) -> SplitReport:
    """Counts and class sizes, from the labels alone."""
    labels, sizes = np.unique(split.labels, return_counts=True)

    def named(position: int) -> tuple[str, int]:
        label = int(labels[position])
        return split.class_names.get(label, f"class {label}"), int(sizes[position])

    return SplitReport(
        name=split.name,
        images=len(split),
        classes=len(labels),
        super_classes=0 if split.super_labels is None else len(np.unique(split.super_labels)),
        smallest_class=named(int(sizes.argmin())),
        largest_class=named(int(sizes.argmax())),
        single_image_classes=int((sizes == 1).sum()),
    )


def open_images(split: Split, report: SplitReport, workers: int, progress: Progress | None = None) -> SplitReport:
    """`report` with what only decoding every image tells: sizes, and the files that cannot be read."""

    def attempt(index: int) -> tuple[tuple[int, int], bytes] | Exception:
        try:
            image = split.read(index)
        except (OSError, ValueError) as error:
            return error
        return image.size, hashlib.blake2b(image.tobytes(), digest_size=16, salt=b"%dx%d" % image.size).digest()

    sizes: list[tuple[int, int]] = []
    unreadable: dict[str, str] = {}
    pixels: dict[str, bytes] = {}
    for index, found in enumerate(in_threads(attempt, range(len(split)), workers)):
        if isinstance(found, Exception):
            unreadable[split.path(index)] = str(found) or type(found).__name__
        else:
            sizes.append(found[0])
            pixels[split.path(index)] = found[1]
        if progress is not None:
            progress(index + 1, len(split))
    by_area = sorted(sizes, key=lambda size: size[0] * size[1])
    return SplitReport(
        **{
            **report.__dict__,
            "smallest_image": by_area[0] if by_area else None,
            "median_image": by_area[len(by_area) // 2] if by_area else None,
            "largest_image": by_area[-1] if by_area else None,
            "unreadable": unreadable,
            "huge_images": sum(width * height > HUGE for width, height in sizes),
            "pixels": pixels,
        }
    )


def advice(
    benchmark: Benchmark, reports: list[SplitReport], differing: list[str], twice: list[str], odd: list[str]
) -> list[str]:
    """What to do next, one sentence each."""
    steps = []
    broken = {path: reason for report in reports for path, reason in report.unreadable.items()}
    if broken:
        total = sum(report.images for report in reports)
        steps.append(
            f"Fetch the {len(broken)} unreadable of {total:,} images again; up to dataset.max_unreadable "
            "(default 0.001 of a split) they are skipped and counted at run time."
        )
    if differing:
        steps.append("Compare your copy with the official one: counts differ. Scores will not be comparable.")
    if twice:
        steps.append("Keep each image once: a copy is the nearest neighbor of its original and raises Recall@1.")
    if odd:
        steps.append("Write each class in one way: under two names its images count as wrong for each other.")
    for report in reports:
        if report.name.endswith("/test") and report.single_image_classes:
            steps.append(
                f"{report.name}: {report.single_image_classes} classes have one image; as queries they score 0 at "
                "Recall@K and are left out of MAP@R."
            )
    if huge := sum(report.huge_images for report in reports):
        steps.append(
            f"{counted(huge, 'image')} of more than {HUGE / 1e6:.0f} million pixels: each takes {3 * HUGE / 1e9:.1f} GB "
            "or more while it is read; scale them down once."
        )
    if not (broken or differing or twice or odd):
        steps.append("Nothing to correct.")
    if benchmark.train.table.source.image_size is None:
        steps.append("`python -m ctxtune.data prepare` with the same arguments builds the image cache beforehand.")
    return steps
