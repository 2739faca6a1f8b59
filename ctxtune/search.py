"""`python -m ctxtune.search DIR IMAGE...`: the nearest images of what `ctxtune.embed` wrote."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ctxtune.command_line import OTHER_EXITS, program_name, run_command, whole_number
from ctxtune.consoles import Console
from ctxtune.durable_files import write_whole
from ctxtune.errors import ConfigError, CtxtuneError, DataError
from ctxtune.terminal import PAGES, add_model_arguments, check_replaced, named_device, use_threads
from ctxtune.text import counted, shortened

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ctxtune.evaluation import Checkpoint
    from ctxtune.evaluation.embedding_folder import About, EmbeddingFolder
    from ctxtune.reporting.gallery.search_page import SearchedImage

MOST_SHOWN = 1000


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=program_name("search"),
        description="Find the images in DIR, which ctxtune.embed wrote, that are nearest to each picture by cosine "
        "similarity: names and scores, and a page with the pictures.",
        epilog="Exit status: 0 done, 2 wrong input, " + OTHER_EXITS + ".",
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="of ctxtune.embed")
    parser.add_argument(
        "images", metavar="IMAGE", nargs="+", help="picture to search for; what cannot be read is left out"
    )
    parser.add_argument("--top", type=whole_number, default=8, metavar="K", help="images found (default: %(default)s)")
    parser.add_argument("--page", type=Path, metavar="FILE.html", help="page to write (default: DIR/search.html)")
    parser.add_argument("--checkpoint", type=Path, help="where the index's checkpoint is now, if it has been moved")
    parser.add_argument("--data", type=Path, help="where the indexed images are now, if they have been moved")
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    add_model_arguments(parser)
    return parser


def main() -> int:
    """Run the command; the exit status."""
    arguments = build_parser().parse_args()
    if not 1 <= arguments.top <= MOST_SHOWN:
        raise ConfigError(f"--top {arguments.top}: expected a number from 1 to {MOST_SHOWN}")
    check_replaced("--page", arguments.page, ours=arguments.page is not None and arguments.page.suffix in PAGES)
    # torch comes with these, which --help need not wait for
    from ctxtune.data.sources import FolderSource
    from ctxtune.data.split import make_split
    from ctxtune.evaluation import one_model
    from ctxtune.evaluation.embedding import embed_images
    from ctxtune.evaluation.embedding_folder import read_folder

    messages = Console(stderr=arguments.json, highlight=False, soft_wrap=True, markup=False)
    use_threads(arguments.threads)
    device = named_device(arguments.device)
    embedded = read_folder(arguments.folder)
    checkpoint = _checkpoint(arguments.folder, embedded.about, arguments.checkpoint)
    model = one_model(checkpoint).to(device)
    queries = make_split(
        "the pictures to search for", FolderSource(Path()), arguments.images, [0] * len(arguments.images)
    )
    found = embed_images(checkpoint, model, queries, device)
    for path, reason in found.left_out.items():
        messages.print(f"unreadable, left out: {path}: {shortened(reason, 200)}", style="yellow")
    searched = _searched(embedded, [arguments.images[row] for row in found.rows], found.embeddings, arguments.top)
    if arguments.json:
        sys.stdout.write(_as_json(searched) + "\n")
    else:
        _print(messages, searched)
    page = arguments.page or arguments.folder / "search.html"
    _write_page(page, embedded.about, searched, _pictures(embedded.about, arguments.data, messages))
    messages.print(f"page with the pictures: {page}")
    return 0


def _searched(
    embedded: "EmbeddingFolder", paths: Sequence[str], embeddings: "npt.NDArray[np.float32]", top: int
) -> "list[SearchedImage]":
    """What is nearest to each of the pictures at `paths`, whose `embeddings` these are."""
    from ctxtune.reporting.gallery.search_page import FoundImage, SearchedImage

    ids, similarities = embedded.search(embeddings, top)
    searched = []
    for path, numbers, scores in zip(paths, ids.tolist(), similarities.tolist(), strict=True):
        rows = [embedded.rows[number] for number in numbers]
        found = [
            FoundImage(number, row.path, row.label, score)
            for number, row, score in zip(numbers, rows, scores, strict=True)
        ]
        searched.append(SearchedImage(path, found))
    return searched


def _checkpoint(folder: Path, about: "About", moved: Path | None) -> "Checkpoint":
    """The checkpoint that made an index. Raises CtxtuneError where it is not there, or another one is."""
    from ctxtune.evaluation import read_checkpoint
    from ctxtune.evaluation.embedding_folder import file_sha256

    path = moved or Path(about.checkpoint)
    if not path.exists():
        raise CtxtuneError(
            f"{path}: no such checkpoint"
            + ("" if moved else f"; {folder} was made by it: name its place with --checkpoint")
        )
    checkpoint = read_checkpoint(path, list(about.overrides), fold=about.fold)
    if file_sha256(checkpoint.path) != about.sha256.get("checkpoint"):
        raise CtxtuneError(
            f"{checkpoint.path} is not the checkpoint that made {folder} ({about.checkpoint} as it was then): scores would "
            "mean nothing; name that one with --checkpoint, or embed again"
        )
    return checkpoint


def _pictures(about: "About", moved: Path | None, messages: Console) -> Callable[[str], Image.Image]:
    """How to read an indexed image; where they are gone, that is told, and the page has none of them."""
    from ctxtune.data.collection import image_reader

    place = moved or Path(about.images)
    try:
        return image_reader(place, about.columns)
    except DataError as error:
        if moved:
            raise
        messages.print(f"the page has no pictures of what was found: {error}; --data names their place", style="yellow")
        reason = str(error)

    def gone(path: str) -> Image.Image:
        raise OSError(reason)

    return gone


def _print(console: Console, searched: "Sequence[SearchedImage]") -> None:
    """A line an image, its name at the end: names may be longer than a terminal is wide."""
    for query in searched:
        console.print(query.path, style="bold")
        for rank, image in enumerate(query.found, start=1):
            label = f"  ({image.label})" if image.label and image.label not in image.path else ""
            console.print(f"{rank:>4}  {image.similarity:7.4f}  {image.path}{label}")


def _as_json(searched: "Sequence[SearchedImage]") -> str:
    content = [
        {
            "query": query.path,
            "found": [
                {"id": each.id, "path": each.path, "label": each.label, "similarity": each.similarity}
                for each in query.found
            ],
        }
        for query in searched
    ]
    return json.dumps(content, indent=2)


def _write_page(
    page: Path, about: "About", searched: "Sequence[SearchedImage]", read: Callable[[str], Image.Image]
) -> None:
    from ctxtune.data.sources import FolderSource
    from ctxtune.reporting.gallery.search_page import search_page

    facts = {
        "searched": counted(about.count, "image"),
        "images": about.images,
        "checkpoint": about.checkpoint,
    }
    text = search_page(facts, searched, FolderSource(Path()).read, read)
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_whole(page, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise ConfigError(f"{page}: cannot be written ({error.strerror}); name another file with --page") from None


if __name__ == "__main__":
    run_command(main)
