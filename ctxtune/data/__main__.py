"""`python -m ctxtune.data check|prepare|show NAME [ROOT]`: look at a data set, build its image cache, picture it.

Exit status: 0 all is well; 1 usable, but something is not as it should be (unreadable files, counts that differ);
2 not usable, with one message that says why; 70 an error of the program; 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from pydantic import ValidationError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ctxtune.command_line import EXIT_USER_ERROR, OTHER_EXITS, positive_number, program_name, run_command, whole_number
from ctxtune.consoles import Console
from ctxtune.data import cache
from ctxtune.data.checking import SplitReport, advice, describe_split, open_images
from ctxtune.data.contact_sheet import contact_sheet
from ctxtune.data.loading import dataset_names, load_dataset
from ctxtune.data.oddities import copies, left_out, listed_twice, odd_names
from ctxtune.data.official_counts import OFFICIAL_COUNTS, DataWarning, differences
from ctxtune.data.settings import DatasetSettings, ImageSettings
from ctxtune.data.split import Benchmark, Split
from ctxtune.data.stores import Building, decoded_store, encoded_store, uniform_store, views_store
from ctxtune.data.threads import processors
from ctxtune.durable_files import write_whole
from ctxtune.error_messages import in_words
from ctxtune.errors import ConfigError, CtxtuneError, DataError
from ctxtune.text import shortened, with_short_words
from ctxtune.yaml_text import Tree, YamlError, parse_value


@dataclass(frozen=True)
class Request:
    """The arguments that all three commands share, resolved."""

    dataset: DatasetSettings
    image: ImageSettings
    workers: int
    console: Console


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is returned."""
    options = build_parser().parse_args(arguments)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    try:
        dataset, image = _settings(options)
        request = Request(dataset, image, options.workers or processors(), console)
        with warnings.catch_warnings():
            # Counts that differ are part of the report.
            warnings.simplefilter("ignore", DataWarning)
            benchmark = load_dataset(dataset)
        command = {"check": _check, "prepare": _prepare, "show": _show}[options.command]
        return command(request, benchmark, options)
    except CtxtuneError as error:
        Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(with_short_words(str(error)))
        return EXIT_USER_ERROR


def build_parser() -> argparse.ArgumentParser:
    """The command line of all three commands."""
    parser = argparse.ArgumentParser(
        prog=program_name("data"),
        description="Look at a data set, build its image cache, or make a picture of it.",
        epilog=f"Data sets: {', '.join(dataset_names())}. Exit status: 0 well, 1 usable with faults, 2 not usable, "
        f"{OTHER_EXITS}.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="check|prepare|show")
    helps = {
        "check": "counts, class sizes, image sizes, unreadable files, copies, what to do next",
        "prepare": "build and verify the image cache",
        "show": "write a picture with sample images per class",
    }
    for name, text in helps.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("name", help="data set")
        command.add_argument(
            "root",
            nargs="?",
            help="where it lies (default: $CTXTUNE_DATA/NAME or data/NAME); of table: the CSV, parquet or tar file",
        )
        command.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="a setting as in the YAML: image.min_scale=0.16, dataset.image_size=64; may be given several times",
        )
        command.add_argument("--workers", type=positive_number, default=None, help="threads (default: all processors)")
    check, prepare, show = (commands.choices[name] for name in helps)
    check.add_argument("--quick", action="store_true", help="do not open the images")
    prepare.add_argument("--test", action="store_true", help="the test side too (by default it waits until it is due)")
    prepare.add_argument("--cache", type=Path, default=None, help="cache folder (default: $CTXTUNE_CACHE)")
    show.add_argument("--output", "-o", type=Path, default=None, help="picture to write (default: NAME-PART.png)")
    show.add_argument(
        "--split", default="train", help="train, test, query or gallery (default: train; --part is its former name)"
    )
    show.add_argument("--classes", type=whole_number, default=12, help="rows")
    show.add_argument("--images", type=whole_number, default=8, help="columns")
    show.add_argument("--seed", type=whole_number, default=0, help="which classes and images are drawn")
    return parser


def _settings(options: argparse.Namespace) -> tuple[DatasetSettings, ImageSettings]:
    blocks: dict[str, Tree] = {"dataset": {"name": options.name, "root": options.root}, "image": {}}
    if options.name == "table":
        blocks["dataset"] = {"name": options.name, "file": options.root}
    for assignment in options.set:
        key, equals, value = assignment.partition("=")
        block, _, field = key.removeprefix("trial.").partition(".")
        if not equals or block not in blocks or not field:
            raise ConfigError(f"--set {shortened(assignment)}: expected image.KEY=VALUE or dataset.KEY=VALUE")
        try:
            blocks[block][field] = parse_value(value)
        except YamlError as error:
            raise ConfigError(f"--set {shortened(assignment)}: {error.reason}") from error
    try:
        return DatasetSettings(**blocks["dataset"]), ImageSettings(**blocks["image"])
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, item['loc']))}: {in_words([item])}" for item in error.errors())
        raise ConfigError(f"--set: {found}") from error


@contextlib.contextmanager
def _bar(console: Console, text: str) -> Iterator[cache.Progress]:
    """A progress bar as a callback."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _check(request: Request, benchmark: Benchmark, options: argparse.Namespace) -> int:
    console = request.console
    reports = []
    for split in benchmark.splits().values():
        report = describe_split(split)
        if not options.quick:
            with _bar(console, f"opening {split.name}") as progress:
                report = open_images(split, report, request.workers, progress)
        reports.append(report)
    differing, twice = differences(benchmark), listed_twice(benchmark)
    same = copies(benchmark, {name: report.pixels for name, report in zip(benchmark.splits(), reports, strict=True)})
    # What the published data set, or the fonts, hold twice nobody has to fix.
    given = benchmark.name == "glyphs" or (benchmark.name in OFFICIAL_COUNTS and not differing)
    twice += [] if given else same
    console.print(f"{benchmark.name}: {benchmark.layout}, Recall at {', '.join(map(str, benchmark.recall_at))}")
    console.print(_table(reports))
    for sentence in differing:
        console.print(f"counts: {sentence}")
    for sentence in twice:
        console.print(f"twice: {sentence}")
    for sentence in same if given else []:
        console.print(f"copies in the data set itself: {sentence}")
    odd = odd_names(benchmark)
    for sentence in odd:
        console.print(f"names: {sentence}")
    for sentence in left_out(benchmark):
        console.print(f"left out: {sentence}")
    broken = [(report.name, *item) for report in reports for item in report.unreadable.items()]
    for name, path, reason in broken:
        console.print(f"unreadable: {name}: {path}: {reason}")
    console.print("next:")
    for step in advice(benchmark, reports, differing, twice, odd):
        console.print(f"  - {step}")
    return 1 if broken or differing or twice or odd else 0


def _table(reports: list[SplitReport]) -> Table:
    table = Table()
    table.add_column("")
    for report in reports:
        table.add_column(report.name.split("/")[-1], justify="right", overflow="fold")

    def size(value: tuple[int, int] | None) -> str:
        return "not opened" if value is None else f"{value[0]} x {value[1]}"

    def named(value: tuple[str, int]) -> str:
        return f"{value[1]} ({shortened(value[0])})"

    rows = {
        "images": [f"{report.images:,}" for report in reports],
        "classes": [f"{report.classes:,}" for report in reports],
        "super-classes": [f"{report.super_classes:,}" for report in reports],
        "smallest class": [named(report.smallest_class) for report in reports],
        "largest class": [named(report.largest_class) for report in reports],
        "classes of one image": [f"{report.single_image_classes:,}" for report in reports],
        "smallest image": [size(report.smallest_image) for report in reports],
        "median image": [size(report.median_image) for report in reports],
        "largest image": [size(report.largest_image) for report in reports],
        "unreadable": ["?" if r.median_image is None and not r.unreadable else str(len(r.unreadable)) for r in reports],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


def _prepare(request: Request, benchmark: Benchmark, options: argparse.Namespace) -> int:
    faults = 0
    for name, split in benchmark.splits().items():
        if name == "train" or options.test:
            faults += _prepare_split(request, split, options.cache, training=name == "train")
    if not options.test:
        request.console.print("The test side is left alone until it is due; --test prepares it now.")
    return 1 if faults else 0


def _prepare_split(request: Request, split: Split, directory: Path | None, *, training: bool) -> int:
    """The number of unreadable images."""
    image, table, console = request.image, split.table, request.console
    if table.source.image_size is not None:
        with _bar(console, split.name) as progress:
            uniform_store(table, Building(directory, request.workers, progress))
        console.print(f"{split.name}: {len(split):,} images, ready")
        return 0
    faults = 0
    if training and image.cache != "none":
        with _bar(console, f"{split.name}: for training") as progress:
            make = encoded_store if image.cache == "encoded" or image.exact else decoded_store
            try:
                faults = _report(
                    console, split, "for training", make(table, image, Building(directory, request.workers, progress))
                )
            except cache.TooLarge as error:
                raise DataError(
                    f"{error}; say --set image.cache=encoded, image.cache=none or image.cache_limit_gib=N"
                ) from error
    with _bar(console, f"{split.name}: test view") as progress:
        views = views_store(table, image, Building(directory, request.workers, progress))
    if views is not None:
        faults = max(faults, _report(console, split, "for evaluation", views))
    return faults


def _report(console: Console, split: Split, what: str, store: cache.Store) -> int:
    if not cache.is_sound(store.path, split.table):
        raise DataError(f"{store.path}: its checksums do not agree; delete it and prepare again, and check the disk")
    console.print(
        f"{split.name}, {what}: {len(split.table):,} images, {store.data.nbytes / 2**20:,.1f} MiB, verified, {store.path}",
    )
    for path, reason in store.unreadable.items():
        console.print(f"unreadable: {split.name}: {path}: {reason}")
    return len(store.unreadable)


def _show(request: Request, benchmark: Benchmark, options: argparse.Namespace) -> int:
    splits = benchmark.splits()
    if options.split not in splits:
        raise ConfigError(f"--split {options.split}: {benchmark.name} has {', '.join(splits)}")
    if not (1 <= options.classes <= 500 and 1 <= options.images <= 100 and options.seed >= 0):
        raise ConfigError("--classes 1 to 500, --images 1 to 100, --seed 0 or more")
    output = options.output or Path(f"{benchmark.name}-{options.split}.png")
    with _bar(request.console, f"drawing {options.split}") as progress:
        sheet = contact_sheet(
            splits[options.split], classes=options.classes, images=options.images, seed=options.seed, progress=progress
        )
    try:
        content = io.BytesIO()
        sheet.save(content, Image.registered_extensions().get(output.suffix.lower()) or output.suffix)
        write_whole(output, content.getvalue())
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"cannot write {output}: {getattr(error, 'strerror', None) or error}") from error
    request.console.print(f"{output}: {sheet.width} x {sheet.height} pixels")
    return 0


if __name__ == "__main__":
    run_command(main)
