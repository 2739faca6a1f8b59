"""`python -m ctxtune.copy [NAME [DESTINATION]]`: list the shipped search spaces and ablations, or copy one to edit it."""

import argparse
import os
import re
from pathlib import Path

from ctxtune.command_line import OTHER_EXITS, program_name, run_command
from ctxtune.consoles import Console
from ctxtune.durable_files import write_whole
from ctxtune.errors import ConfigError, CtxtuneError
from ctxtune.shipped import KINDS, described, find_file, named, shipped_files, shipped_folder
from ctxtune.text import dry_run_command
from ctxtune.yaml_text import file_text


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=program_name("copy"),
        description="List the search spaces and ablations that come with the package, or copy one of them here to edit it. "
        "They need not be copied to be run: ctxtune.sweep, ctxtune.ablate and ctxtune.train take their names.",
        epilog="Exit status: 0 done; 2 wrong input, said in one message; " + OTHER_EXITS + ".",
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="as listed, e.g. cars; none: list them")
    parser.add_argument(
        "destination", metavar="DESTINATION", nargs="?", default=".", help="file or folder (default: NAME.yaml here)"
    )
    parser.add_argument("--force", action="store_true", help="overwrite a file that is there")
    return parser


def main() -> int:
    """Run the command; the exit status."""
    arguments = build_parser().parse_args()
    console = Console(highlight=False, soft_wrap=True, markup=False)
    if arguments.name is None:
        _list(console)
        return 0
    found = named(arguments.name)
    if len(found) > 1:
        both = " or ".join(f"{kind}/{arguments.name}" for kind in KINDS)
        raise ConfigError(f"{arguments.name} is a search space and an ablation: say {both}")
    source = found[0] if found else find_file(arguments.name)
    target = Path(arguments.destination)
    target = target / source.name if target.is_dir() else target
    if os.path.lexists(target) and not arguments.force:
        raise ConfigError(f"{target} is there already; name another file, or overwrite it with --force")
    try:
        write_whole(target, text_of_copy(source))
    except OSError as error:
        raise CtxtuneError(f"{target}: {error.strerror or error}") from error
    command = "ablate" if "ablations" in source.parts else "sweep"
    console.print(f"{target}   try it: {dry_run_command(command, target)}")
    return 0


def text_of_copy(source: Path) -> str:
    """A shipped file's text, with what it names by relative paths named so that it holds anywhere.

    The base of an ablation becomes the name of the shipped file, the schema an absolute path.

    Raises:
        ConfigError: the file cannot be read, or is no file of settings.
    """
    text = file_text(source)

    def base(match: re.Match[str]) -> str:
        path = (source.parent / match[1]).resolve()
        for kind in KINDS:
            folder = shipped_folder(kind).resolve()
            if path.is_relative_to(folder):
                return f"base: {kind}/{path.relative_to(folder).with_suffix('').as_posix()}"
        return match[0]

    def schema(match: re.Match[str]) -> str:
        return f"$schema={shipped_folder('schemas') / Path(match[1]).name}"

    text = re.sub(r"^base: (\S+\.yaml)$", base, text, count=1, flags=re.MULTILINE)
    return re.sub(r"(?<=^# yaml-language-server: )\$schema=(\S+)", schema, text, count=1)


def _list(console: Console) -> None:
    for kind, command in zip(KINDS, ("sweep", "ablate"), strict=True):
        console.print(f"{kind}   (python -m ctxtune.{command} NAME)")
        files = {name: file for name, file in shipped_files(kind).items() if "/" not in name}
        width = max(map(len, files))
        for name, file in files.items():
            console.print(f"  {name:<{width}}  {described(file)}")
    console.print("Copy one to edit it: python -m ctxtune.copy NAME")


if __name__ == "__main__":
    run_command(main)
