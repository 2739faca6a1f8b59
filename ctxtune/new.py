"""`python -m ctxtune.new FOLDER_OR_TABLE`: look at one's own data, and write a search-space file for it."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.progress import Progress

from ctxtune.command_line import OTHER_EXITS, positive_number, program_name, run_command
from ctxtune.consoles import Console
from ctxtune.durable_files import write_whole
from ctxtune.errors import ConfigError, CtxtuneError
from ctxtune.text import counted, dry_run_command, printable

if TYPE_CHECKING:
    from ctxtune.data.split import Benchmark
    from ctxtune.data.survey import Survey, SurveyedImage


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=program_name("new"),
        description="Look at a folder or table of images (counts, sizes, unreadable files, copies, near-copies of training "
        "images among the test images) and write a search-space file for it, with comments, that can be run at once.",
        epilog="Exit status: 0 well; 1 written, but something in the data should be fixed; 2 wrong input, said in one "
        "message; " + OTHER_EXITS + ".",
    )
    parser.add_argument(
        "data",
        metavar="FOLDER_OR_TABLE",
        type=Path,
        help="class folders (CLASS/*.jpg, or train/CLASS and test/CLASS), image lists, a CSV or parquet file, tar shards",
    )
    parser.add_argument("--out", metavar="FILE", type=Path, help="file to write (default: NAME.yaml here)")
    parser.add_argument("--force", action="store_true", help="overwrite a file that is there")
    parser.add_argument("--quick", action="store_true", help="do not open the images")
    parser.add_argument("--workers", metavar="N", type=positive_number, help="threads (default: all processors)")
    return parser


def main() -> int:
    """Run the command; the exit status."""
    arguments = build_parser().parse_args()
    # torch comes with these, which --help need not wait for
    import torch

    from ctxtune.data.oddities import left_out, odd_names
    from ctxtune.data.own_data import own_dataset
    from ctxtune.data.survey import survey
    from ctxtune.data.threads import processors
    from ctxtune.new_space import Shape, space_text

    console = Console(highlight=False, soft_wrap=True, markup=False)
    block, benchmark = own_dataset(arguments.data)
    target = arguments.out or Path(f"{arguments.data.absolute().stem}.yaml")
    if target.exists() and not arguments.force:
        raise ConfigError(f"{target} is there already; name another with --out, or overwrite it with --force")
    faults, short_side = 0, None
    for line in _counts(benchmark, bool(block.get("closed_set"))):
        console.print(line)
    for line in odd_names(benchmark):
        console.print(line)
        faults += 1
    for line in left_out(benchmark):
        console.print(f"left out: {line}")
    if not arguments.quick:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("opening the images", total=None)
            found = survey(
                benchmark,
                arguments.workers or processors(),
                lambda done, total: bar.update(task, completed=done, total=total),
            )
        if found.pictures:
            short_side = int(np.median([min(picture.size) for picture in found.pictures]))
        for fault, line in _findings(found):
            console.print(line)
            faults += fault
    _, sizes = np.unique(benchmark.train.labels, return_counts=True)
    shape = Shape(len(sizes), int(np.median(sizes)), short_side)
    text = space_text(block, benchmark, shape, target, arguments.data.absolute(), torch.cuda.is_available())
    try:
        write_whole(target, text)
    except OSError as error:
        raise CtxtuneError(f"{target}: {error.strerror or error}") from error
    except UnicodeEncodeError:
        raise CtxtuneError(
            f"{printable(str(arguments.data.absolute()))} or {printable(str(target))}: a name that is no UTF-8 cannot stand "
            "in a YAML file; rename it"
        ) from None
    console.print(f"{target}   next: {dry_run_command('sweep', target)}")
    return 1 if faults else 0


def _counts(benchmark: "Benchmark", closed_set: bool) -> Iterator[str]:
    from ctxtune.data.checking import describe_split

    yield f"{benchmark.layout}"
    for split in benchmark.splits().values():
        report = describe_split(split)
        sizes = np.unique(split.labels, return_counts=True)[1]
        yield (
            f"{split.name}: {counted(report.images, 'image')} of {report.classes:,} classes, {report.smallest_class[1]} to "
            f"{report.largest_class[1]} a class, half of them {int(np.median(sizes))} or more"
        )
        if report.single_image_classes:
            yield f"  {report.single_image_classes:,} classes have one image: nothing can be found for it"
    if closed_set:
        yield "train and test share classes: closed-set retrieval, which says nothing about unseen classes"


def _findings(found: "Survey") -> Iterator[tuple[bool, str]]:
    """Whether each is a fault, and what to say."""
    if found.pictures:
        sizes = sorted((picture.size for picture in found.pictures), key=lambda size: size[0] * size[1])
        least, middle, most = (f"{width} x {height}" for width, height in (sizes[0], sizes[len(sizes) // 2], sizes[-1]))
        yield False, f"image sizes: {least} to {most} px, half of them {middle} or larger"
    for name, path, reason in found.unreadable[:5]:
        yield True, f"unreadable: {name}: {path}: {reason}"
    if len(found.unreadable) > 5:
        yield True, f"unreadable: {len(found.unreadable):,} in all"
    yield from _told("in two splits", "a leak: it raises Recall@1; keep one of them", found.across_splits())
    one_split = [group for group in found.across_classes() if len({each.split for each in group}) == 1]
    yield from _told("with two classes", "one label is wrong", one_split)
    inside = [group for group in found.copies if len({(each.split, each.label) for each in group}) == 1]
    yield from _told("twice in a class", "its copy is its nearest neighbor: keep one of them", inside)
    yield from _told(
        "of train look like others of test",
        "if they are the same pictures, this is a leak",
        [list(pair) for pair in found.near_copies],
    )
    if found.too_many_alike:
        yield False, f"{found.too_many_alike:,} images look so much alike that they were not compared"
    if not (found.unreadable or found.copies or found.near_copies):
        yield False, "no unreadable image, no copies, no near-copies across splits"


def _told(what: str, why: str, groups: "list[list[SurveyedImage]]") -> Iterator[tuple[bool, str]]:
    if groups:
        yield True, f"{counted(len(groups), 'picture')} {what} ({why}):"
    for group in groups[:3]:
        yield True, "  " + " = ".join(f"{each.split}: {each.path}" for each in group[:3])


if __name__ == "__main__":
    run_command(main)
