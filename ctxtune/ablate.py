"""`python -m ctxtune.ablate FILE`: a designed comparison over paired seeds."""

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console

from ctxtune.command_line import EXIT_INCOMPLETE, advise, program_name, run_command
from ctxtune.shipped import find_file
from ctxtune.terminal import (
    DRIVER_EXITS,
    add_driver_arguments,
    add_file_arguments,
    all_overrides,
    check_assumption,
    report_command,
    tracking_places,
    writable_folder,
)


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
    return parser


def main() -> int:
    """Run the command; the exit status."""
    arguments = build_parser().parse_args()
    # Torch, then Ray and Optuna take seconds to import each: a file that is not there is told before, a wrong one between.
    file = find_file(arguments.file, ("ablations",))
    from ctxtune.ablation.base import finder
    from ctxtune.config import load_ablation
    from ctxtune.config.advice import ablation_advice

    find_best = finder(Path(arguments.results), resume=arguments.resume)
    ablation = load_ablation(file, all_overrides(arguments), find_best=find_best)
    advise(ablation_advice(ablation))
    check_assumption(arguments)
    folder = writable_folder(Path(arguments.results) / ablation.name, "--results")
    if arguments.slurm is not None:
        from ctxtune.slurm.submission import run_on_slurm

        return run_on_slurm(arguments, "ablate", file, ablation)
    from ctxtune.ablation.display import ablation_display, print_results
    from ctxtune.ablation.plan import print_plan
    from ctxtune.ablation.run import run_ablation
    from ctxtune.notifications import notifying
    from ctxtune.results.wording import contrast_sentences
    from ctxtune.resume_hints import go_on_with, resume_hints_told
    from ctxtune.tuning.timing import read_assumed

    console = Console(highlight=False)
    if arguments.dry_run:
        assumed = read_assumed(arguments.assume) if arguments.assume else None
        print_plan(console, ablation, arguments.address, arguments.storage, assumed)
        if ablation.notify:
            console.print(f"at the end: {ablation.notify.places}", markup=False)
        return 0
    progress = Console(stderr=arguments.json, quiet=arguments.quiet, highlight=False)
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
    print_results(console, result, files)
    return status


if __name__ == "__main__":
    run_command(main)
