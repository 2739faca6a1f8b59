"""`ctxtune COMMAND ...`, which is `python -m ctxtune.COMMAND ...` by a shorter name."""

import argparse
import importlib
import sys

from ctxtune.command_line import OTHER_EXITS, run_command
from ctxtune.version import __version__

COMMANDS = {
    "sweep": "search a space of configurations, choose one, confirm it on the test classes",
    "ablate": "compare configurations as a designed experiment",
    "report": "tables, figures and one page of a sweep or an ablation",
    "train": "train one configuration, without Ray",
    "evaluate": "score a checkpoint, look at its errors, export its model",
    "embed": "embed a folder or table of images: parquet, and a faiss index",
    "search": "find the images of such an index that are nearest to a picture",
    "data": "look at a data set, build its image cache, picture it",
    "new": "look at your own images, and write a search-space file for them",
    "doctor": "check this machine and installation, say what to fix",
    "copy": "list the shipped search spaces and ablations, copy one to edit it",
    "tracking": "what waits on its way to MLflow: show it, deliver it",
}
SHELLS = ("bash", "zsh", "tcsh")


def build_parser() -> argparse.ArgumentParser:
    """The command line before the command's own."""
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="ctxtune",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Tune and ablate the contextual loss and its rivals for image retrieval.\n\n"
        f"commands (ctxtune COMMAND --help; each is the same as python -m ctxtune.COMMAND):\n{listed}",
        epilog=f"Exit status: that of the command; 0 done, 2 wrong input, {OTHER_EXITS}.",
    )
    parser.add_argument("--version", action="version", version=f"ctxtune {__version__}")
    parser.add_argument(
        "--completion",
        choices=SHELLS,
        help='print the completion of a shell; for bash: eval "$(ctxtune --completion bash)"',
    )
    parser.add_argument("command", metavar="COMMAND", nargs="?", choices=tuple(COMMANDS), help="one of the above")
    parser.add_argument("arguments", metavar="...", nargs=argparse.REMAINDER, help="of the command")
    return parser


def main() -> int:
    """Run the command; the exit status."""
    parser = build_parser()
    given = sys.argv[1:]
    if given and given[0] in COMMANDS:  # the rest is the command's, its --help among it
        sys.argv = [f"ctxtune {given[0]}", *given[1:]]
        return _module(given[0]).main() or 0
    arguments = parser.parse_args()
    if arguments.completion:
        from ctxtune.completion import completion_script

        print(completion_script(arguments.completion), file=sys.stdout)  # noqa: T201
        return 0
    parser.print_help()
    return 2


def _module(command: str):  # type: ignore[no-untyped-def]  # a module
    """The module of a command: `ctxtune.sweep`, or `ctxtune.data.__main__` where a room has its name."""
    module = importlib.import_module(f"ctxtune.{command}")
    return module if hasattr(module, "main") else importlib.import_module(f"ctxtune.{command}.__main__")


def run() -> None:
    """The entry point of the command `ctxtune`."""
    run_command(main)


if __name__ == "__main__":
    run()
