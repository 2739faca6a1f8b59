"""Completion for shells, made by shtab from the parsers of all commands."""

import argparse
import importlib

import shtab

from ctxtune.__main__ import COMMANDS
from ctxtune.shipped import shipped_files

FILES_AND_NAMES = {
    "bash": "_ctxtune_{kind}",
    "zsh": "_ctxtune_{kind}",
    "tcsh": "f",
}
FILES = ("checkpoint", "destination", "spool", "root", "gallery_report", "export", "output", "page", "images")
"""Arguments that are files, by the names that the parsers give them."""
NAMED = {"sweep": "search_spaces", "train": "search_spaces", "ablate": "ablations"}
"""Commands whose file may be a shipped one's name."""


def completion_script(shell: str) -> str:
    """The script for bash, zsh or tcsh."""
    parser = argparse.ArgumentParser(prog="ctxtune")
    parser.add_argument("--version", action="store_true", help="show the version")
    parser.add_argument("--completion", choices=("bash", "zsh", "tcsh"), help="print the completion of a shell")
    commands = parser.add_subparsers()
    for name, what in COMMANDS.items():
        own = _parser_of(name)
        commands.add_parser(name, help=what, parents=[own], add_help=False, conflict_handler="resolve")
        _complete_files(commands.choices[name], name)
    return shtab.complete(parser, shell=shell, preamble=_preamble())  # type: ignore[arg-type]  # it takes one for each shell too


def _parser_of(command: str) -> argparse.ArgumentParser:
    module = importlib.import_module(f"ctxtune.{command}")
    if not hasattr(module, "build_parser"):
        module = importlib.import_module(f"ctxtune.{command}.__main__")
    parser: argparse.ArgumentParser = module.build_parser()
    return parser


def _complete_files(parser: argparse.ArgumentParser, command: str) -> None:
    """Positional files by name, options that take folders by folder."""
    for action in parser._actions:
        if action.dest == "file" and command in NAMED:
            kind = NAMED[command]
            action.complete = {shell: how.format(kind=kind) for shell, how in FILES_AND_NAMES.items()}  # type: ignore[attr-defined]
        elif action.dest in (
            "checkpoint",
            "destination",
            "spool",
            "root",
            "gallery_report",
            "export",
            "output",
            "page",
            "images",
        ):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.dest in ("results", "out", "folder"):
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]


def _preamble() -> dict[str, str]:
    """Shell functions that offer the shipped names beside files."""
    names = {kind: " ".join(name for name in shipped_files(kind) if "/" not in name) for kind in set(NAMED.values())}
    bash = "\n".join(
        f'_ctxtune_{kind}() {{ compgen -W "{listed}" -- "$1"; compgen -f -- "$1"; }}'
        for kind, listed in sorted(names.items())
    )
    zsh = "\n".join(
        f"_ctxtune_{kind}() {{ _alternative 'names:shipped:({listed})' 'files:file:_files' }}"
        for kind, listed in sorted(names.items())
    )
    return {"bash": bash, "zsh": zsh}
