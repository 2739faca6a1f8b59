"""`python -m ctxtune.ablate FILE`: a designed comparison over paired seeds."""

import argparse
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ctxtune.command_line import EXIT_INCOMPLETE, EXIT_INTERRUPTED, EXIT_STOPPED, advise, program_name, run_command
from ctxtune.consoles import Console
from ctxtune.errors import ConfigError
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
    tracking_places,
    writable_folder,
)
from ctxtune.text import shortened

if TYPE_CHECKING:
    from ctxtune.config import Ablation
    from ctxtune.results.ablation import AblationResults


def build_parser() -> argparse.ArgumentParser:
    """The command line of an ablation."""
    parser = argparse.ArgumentParser(
        prog=program_name("ablate"),
        description="Compare configurations as a designed experiment: every cell over the same seeds, on request after a "
        "small search of its own with the same budget.",
        epilog=DRIVER_EXITS,
    )
    add_file_arguments(parser, "ablation file, e.g. ablations/quickstart.yaml")
    add_driver_arguments(parser, "ablation")
    parser.add_argument(
        "--pilot",
        metavar="NAME|N",
        help="with --dry-run: plan by an earlier ablation in MLflow, or by N seeds of every cell, which are run for it",
    )
    return parser


def main() -> int:
    """Run the command; the exit status."""
    arguments = build_parser().parse_args()
    check_docstrings()
    # Torch, then Ray and Optuna take seconds to import each: a file that is not there is told before, a wrong one between.
    file = find_file(arguments.file, ("ablations",))
    from ctxtune.ablation.base import finder
    from ctxtune.config import load_ablation
    from ctxtune.config.advice import ablation_advice
    from ctxtune.config.source import Override

    find_best = finder(Path(arguments.results), resume=arguments.resume)
    overrides = all_overrides(arguments)
    if arguments.pilot:
        if not arguments.dry_run:
            raise ConfigError("--pilot plans an ablation; give it with --dry-run")
        seeds = re.fullmatch(r"[0-9]{1,9}", arguments.pilot) is not None
        overrides.append(
            Override(
                "pilot", int(arguments.pilot) if seeds else arguments.pilot, f"--pilot {shortened(arguments.pilot)}"
            )
        )
    ablation = load_ablation(file, overrides, find_best=find_best)
    advise(ablation_advice(ablation))
    check_assumption(arguments)
    folder = writable_folder(Path(arguments.results) / ablation.name, "--results")
    if arguments.slurm is not None:
        from ctxtune.slurm.submission import run_on_slurm

        return run_on_slurm(arguments, "ablate", file, ablation)
    return _plan(ablation, arguments) if arguments.dry_run else _run(ablation, folder, arguments)


def _plan(ablation: "Ablation", arguments: argparse.Namespace) -> int:
    """`--dry-run`; the exit status."""
    from ctxtune.ablation.pilot import find_pilot
    from ctxtune.ablation.plan import print_plan
    from ctxtune.tuning.timing import read_assumed

    console = Console(highlight=False, markup=False)
    # A pilot that is none is told before data are loaded and steps are timed.
    pilot = find_pilot(ablation) if ablation.pilot is not None else None
    assumed = read_assumed(arguments.assume) if arguments.assume is not None else None
    print_plan(console, ablation, arguments.address, arguments.storage, assumed)
    if ablation.notify:
        console.print(f"at the end: {ablation.notify.places}")
    if ablation.pilot is not None:
        _print_power(console, ablation, pilot or _run_pilot(console, ablation, arguments))
    return 0


def _run(ablation: "Ablation", folder: Path, arguments: argparse.Namespace) -> int:
    """Run the ablation and show what it found; the exit status."""
    from ctxtune.ablation.display import ablation_display, print_results
    from ctxtune.ablation.run import run_ablation
    from ctxtune.notifications import notifying
    from ctxtune.results.wording import contrast_sentences
    from ctxtune.resume_hints import go_on_with, resume_hints_told

    go_on_without_output()
    progress = Console(stderr=arguments.json, quiet=arguments.quiet, highlight=False, markup=False)
    with (
        resume_hints_told("ablate", folder),
        notifying(ablation.notify, "ablate", ablation.name) as outcome,
        ablation_display(progress, ablation) as display,
    ):  # told when the display is closed
        result = run_ablation(
            ablation,
            root=Path(arguments.results),
            resume=arguments.resume,
            address=arguments.address,
            storage=arguments.storage,
            watcher=display.watcher(go_on_with("ablate")),
        )
        outcome.message = " ".join(contrast_sentences(result))
    status = 0 if display.complete else EXIT_INCOMPLETE
    if arguments.json:
        sys.stdout.write((folder / "summary.json").read_text(encoding="utf-8") + os.linesep)
        return status
    files = {
        "report": report_command(ablation.name, ablation.tracking.uri),
        **tracking_places(ablation.tracking.uri, display.link),
    }
    print_results(Console(highlight=False, markup=False), result, files)
    return status


def _run_pilot(console: Console, ablation: "Ablation", arguments: argparse.Namespace) -> "AblationResults":
    """Run the few seeds of a pilot, or go on with them; what they found."""
    from ctxtune.ablation.display import ablation_display
    from ctxtune.ablation.pilot import pilot_ablation, resumable
    from ctxtune.ablation.run import run_ablation
    from ctxtune.tuning.ending import SweepStopped

    go_on_without_output()
    root, pilot = Path(arguments.results), pilot_ablation(ablation)
    console.print(f"the pilot {pilot.name} is run: {pilot.seeds} seeds of every cell")
    try:
        with ablation_display(Console(quiet=arguments.quiet, highlight=False, markup=False), pilot) as display:
            return run_ablation(
                pilot,
                root=root,
                resume=resumable(root, pilot),
                watcher=display.watcher("the same command goes on with the pilot"),
                address=arguments.address,
                storage=arguments.storage,
            )
    except SweepStopped as stopped:
        console.print(f"stopped: {stopped}\nthe same command goes on with the pilot")
        raise SystemExit(EXIT_INTERRUPTED if stopped.reason == "interrupted" else EXIT_STOPPED) from None


def _print_power(console: Console, ablation: "Ablation", pilot: "AblationResults") -> None:
    """What the ablation will be able to say by its pilot."""
    from ctxtune.ablation.pilot import power_notes, power_of, power_table

    power = power_of(ablation, pilot)
    console.print(power_table(ablation, pilot, power))
    for note in power_notes(ablation, pilot, power):
        console.print(note, soft_wrap=True)


if __name__ == "__main__":
    run_command(main)
