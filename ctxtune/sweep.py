"""`python -m ctxtune.sweep FILE`: search, select, confirm."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ctxtune.command_line import EXIT_INCOMPLETE, advise, program_name, run_command
from ctxtune.consoles import Console
from ctxtune.shipped import find_file
from ctxtune.standard_streams import go_on_without_output
from ctxtune.terminal import (
    DRIVER_EXITS,
    add_driver_arguments,
    add_file_arguments,
    all_overrides,
    check_assumption,
    check_docstrings,
    report_command,
    shell_command,
    tracking_places,
    writable_folder,
)

if TYPE_CHECKING:
    from ctxtune.config import SweepConfig


def build_parser() -> argparse.ArgumentParser:
    """The command line of a sweep."""
    parser = argparse.ArgumentParser(
        prog=program_name("sweep"),
        description="Search a space of configurations, choose one on validation classes, and confirm it on the test "
        "classes over fresh seeds beside the unaltered start configuration.",
        epilog=DRIVER_EXITS,
    )
    add_file_arguments(parser, "search-space file, e.g. search_spaces/quickstart.yaml")
    add_driver_arguments(parser, "sweep")
    return parser


def main() -> int:
    """Run the command; the exit status."""
    arguments = build_parser().parse_args()
    check_docstrings()
    # Torch, then Ray and Optuna take seconds to import each: a file that is not there is told before, a wrong one between.
    file = find_file(arguments.file, ("search_spaces",))
    from ctxtune.config import load_search_space
    from ctxtune.config.advice import search_advice, sweep_advice

    config = load_search_space(file, all_overrides(arguments))
    for advice in (sweep_advice(config), *search_advice(config)):
        advise(advice)
    check_assumption(arguments)
    folder = writable_folder(Path(arguments.results) / config.name, "--results")
    if arguments.slurm is not None:
        from ctxtune.slurm.submission import run_on_slurm

        return run_on_slurm(arguments, "sweep", file, config)
    return _plan(config, arguments) if arguments.dry_run else _run(config, folder, arguments)


def _plan(config: "SweepConfig", arguments: argparse.Namespace) -> int:
    """`--dry-run`; the exit status."""
    from ctxtune.tuning.plan import print_plan
    from ctxtune.tuning.timing import read_assumed

    console = Console(highlight=False, markup=False)
    assumed = read_assumed(arguments.assume) if arguments.assume is not None else None
    print_plan(console, config, arguments.address, arguments.storage, assumed)
    if config.notify:
        console.print(f"at the end: {config.notify.places}")
    return 0


def _run(config: "SweepConfig", folder: Path, arguments: argparse.Namespace) -> int:
    """Run the sweep and show what it found; the exit status."""
    from ctxtune.notifications import notifying
    from ctxtune.results.wording import confirmation_sentence
    from ctxtune.resume_hints import go_on_with, resume_hints_told
    from ctxtune.tuning.display import print_results, sweep_display
    from ctxtune.tuning.sweep import run_sweep

    go_on_without_output()
    progress = Console(stderr=arguments.json, quiet=arguments.quiet, highlight=False, markup=False)
    with (
        resume_hints_told("sweep", folder),
        notifying(config.notify, "sweep", config.name) as outcome,
        sweep_display(progress, config) as display,
    ):  # told when the display is closed
        result = run_sweep(
            config,
            root=Path(arguments.results),
            resume=arguments.resume,
            address=arguments.address,
            storage=arguments.storage,
            watcher=display.watcher(go_on_with("sweep")),
        )
        outcome.message = f"Chosen: {result.chosen}. {confirmation_sentence(result)}"
    status = 0 if display.complete else EXIT_INCOMPLETE
    if arguments.json:
        sys.stdout.write((folder / "summary.json").read_text(encoding="utf-8") + os.linesep)
        return status
    best = folder / "best.yaml"
    files = {
        "best configuration": f"{best}   ({shell_command('python', '-m', 'ctxtune.train', best)})",
        "report": report_command(config.name, config.tracking.uri),
        **tracking_places(config.tracking.uri, display.link),
    }
    print_results(Console(highlight=False, markup=False), result, files)
    return status


if __name__ == "__main__":
    run_command(main)
