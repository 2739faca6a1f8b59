"""`python -m ctxtune.embed CHECKPOINT FOLDER_OR_TABLE --out DIR`: embeddings as parquet, and a faiss index."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import Progress

from ctxtune.command_line import OTHER_EXITS, program_name, run_command, whole_number
from ctxtune.consoles import Console
from ctxtune.errors import ConfigError
from ctxtune.terminal import add_model_arguments, named_device, use_threads, writable_folder
from ctxtune.text import counted, shortened

if TYPE_CHECKING:
    from ctxtune.evaluation.embedding import Embedded

NAMED_AT_MOST = 10
"""Images that cannot be read, on the terminal; about.json names all."""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=program_name("embed"),
        description="Embed images with a checkpoint's model. DIR then holds embeddings.parquet (id, path, label, embedding), "
        "index.faiss with the same ids for cosine similarity, and about.json. Images that cannot be read are named and left "
        "out.",
        epilog="Exit status: 0 done, 2 wrong input, " + OTHER_EXITS + ".",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="file, or the folder of a run: its newest")
    parser.add_argument(
        "data",
        metavar="FOLDER_OR_TABLE",
        type=Path,
        help="a folder: all images below it; or a CSV or parquet file, a tar shard, a folder of parquet files or shards",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder to write")
    parser.add_argument("--force", action="store_true", help="replace embeddings that are there")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="e.g. trial.image.test_crop=256, 'trial.dataset.columns={image: photo}' (again for more)",
    )
    parser.add_argument("--fold", type=whole_number, help="of a checkpoint with several folds: this one's model")
    add_model_arguments(parser)
    return parser


def main() -> int:
    """Run the command; the exit status."""
    arguments = build_parser().parse_args()
    # torch comes with these, which --help need not wait for
    from ctxtune.data.collection import image_collection
    from ctxtune.evaluation import one_model, read_checkpoint
    from ctxtune.evaluation.embedding import embed_images
    from ctxtune.evaluation.embedding_folder import ABOUT, About, Row, faiss, file_sha256, write_folder

    console = Console(highlight=False, soft_wrap=True, markup=False)
    use_threads(arguments.threads)
    device = named_device(arguments.device)
    writable_folder(arguments.out, "--out")
    if (arguments.out / ABOUT).exists() and not arguments.force:
        raise ConfigError(f"--out {arguments.out} holds embeddings; name another folder, or replace them with --force")
    faiss()
    checkpoint = read_checkpoint(arguments.checkpoint, arguments.overrides, fold=arguments.fold)
    model = one_model(checkpoint).to(device)
    columns = checkpoint.trial.dataset.columns or {}
    collection = image_collection(arguments.data, columns)
    total = len(collection.images)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("embedding", total=total)
        found = embed_images(
            checkpoint, model, collection.images, device, lambda done: bar.update(task, completed=done)
        )
    rows = [Row(_text(collection.images.path(int(row))), collection.labels[row]) for row in found.rows]

    def about(checksums: dict[str, str]) -> About:
        return About(
            checkpoint=str(checkpoint.path.absolute()),
            fold=arguments.fold,
            overrides=tuple(arguments.overrides),
            images=str(arguments.data.absolute()),
            columns=dict(columns),
            count=len(found.rows),
            dimension=found.embeddings.shape[1],
            left_out={_text(path): reason for path, reason in found.left_out.items()},
            sha256={"checkpoint": file_sha256(checkpoint.path), **checksums},
        )

    write_folder(arguments.out, found.rows, rows, found.embeddings, about)
    for line in _left_out(found):
        console.print(line, style="yellow")
    console.print(
        f"{counted(len(found.rows), 'image')} embedded as {found.embeddings.shape[1]} numbers each, in {arguments.out}\n"
        f"next: python -m ctxtune.search {arguments.out} IMAGE",
    )
    return 0


def _text(path: str) -> str:
    """A file's name that is no Unicode, as parquet can hold it."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _left_out(found: "Embedded") -> list[str]:
    lines = [
        f"unreadable, left out: {_text(path)}: {shortened(reason, 200)}" for path, reason in found.left_out.items()
    ]
    if len(lines) <= NAMED_AT_MOST:
        return lines
    return [*lines[:NAMED_AT_MOST], f"unreadable, left out: {len(lines):,} in all, named in about.json"]


if __name__ == "__main__":
    run_command(main)
