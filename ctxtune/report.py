"""`python -m ctxtune.report NAME`: tables, figures and one HTML page of a sweep or an ablation, from MLflow alone."""

import argparse
import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ctxtune.command_line import OTHER_EXITS, program_name, run_command
from ctxtune.consoles import Console
from ctxtune.errors import CtxtuneError
from ctxtune.terminal import DEFAULT_TRACKING, writable_folder

if TYPE_CHECKING:
    from ctxtune.reporting.rendering import ReportFiles


def build_parser() -> argparse.ArgumentParser:
    """The command line of a report."""
    parser = argparse.ArgumentParser(
        prog=program_name("report"),
        description="Make the report of a sweep or an ablation, finished or still running, from its MLflow server alone: "
        "one HTML page that needs no network, Markdown, LaTeX (booktabs) and CSV tables, PNG, SVG and PDF figures. All "
        "of it is also logged as artifacts (report/...) of the sweep's or ablation's own run.",
        epilog="Exit status: 0 done; 2 wrong input, said in one message; " + OTHER_EXITS + ".",
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="of the sweep or ablation: its MLflow experiment")
    parser.add_argument(
        "--compare",
        metavar="NAME",
        nargs="+",
        default=[],
        help="put two or more sweeps, or ablations, side by side; of ablations with the same arms, over several data sets "
        "say, also mean ranks and interquartile means",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="folder of the files (default: results/NAME/report, results/compare-A-B)"
    )
    parser.add_argument(
        "--tracking",
        metavar="URI",
        default=os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_TRACKING,
        help=f"MLflow server or database (default: MLFLOW_TRACKING_URI, else {DEFAULT_TRACKING})",
    )
    parser.add_argument(
        "--probabilities",
        action="store_true",
        help="of an ablation: also how probable it is that an arm is practically better, equal or worse (Bayesian t-test)",
    )
    parser.add_argument("--no-store", action="store_true", help="do not log the report as artifacts of the run")
    return parser


def main() -> int:
    """Run the command; the exit status."""
    parser = build_parser()
    arguments = parser.parse_args()
    if (arguments.name is None) == (not arguments.compare):
        parser.error("give one NAME, or --compare with two names or more")
    if arguments.compare and arguments.probabilities:
        parser.error("--probabilities is for the report of one ablation, not for --compare")
    if len(arguments.compare) == 1 or len(set(arguments.compare)) < len(arguments.compare):
        parser.error("--compare takes two different names or more")
    # A thousand runs are millions of objects, next to none of them garbage: looking for it took a fifth of the time.
    gc.set_threshold(100_000)
    usual = (
        Path(Path(arguments.name).name, "report") if arguments.name else Path(f"compare-{'-'.join(arguments.compare)}")
    )
    folder = writable_folder(Path(arguments.out or Path("results") / usual), "--out")
    try:
        _print_files(_compare(arguments, folder) if arguments.compare else _report(arguments, folder))
    except OSError as error:
        raise CtxtuneError(f"{error.filename or folder}: {error.strerror or error}") from error
    return 0


def _compare(arguments: argparse.Namespace, folder: Path) -> "ReportFiles":
    from ctxtune.reporting.writing import write_comparison

    return write_comparison(arguments.tracking, arguments.compare, folder)


def _report(arguments: argparse.Namespace, folder: Path) -> "ReportFiles":
    from ctxtune.reporting.study import begin_reading

    processes = min(2, os.cpu_count() or 1)
    reading = begin_reading(arguments.tracking, arguments.name, processes)
    from ctxtune.reporting.writing import report_study  # imports scipy and matplotlib, while the runs are read

    study = reading()
    gc.freeze()  # what was imported and read stays; no collection need look through it
    errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    return report_study(
        study,
        folder,
        store=not arguments.no_store,
        processes=processes,
        probabilities=arguments.probabilities,
        on_note=lambda text: errors.print(f"note: {text}", style="yellow"),
    )


def _print_files(files: "ReportFiles") -> None:
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(f"{files.page}   the report; it needs no network")
    console.print(f"{files.folder / 'tables'}   {len(files.tables)} files: CSV, LaTeX, Markdown")
    console.print(f"{files.folder / 'figures'}   {len(files.figures)} files: PNG, SVG, PDF")


if __name__ == "__main__":
    run_command(main)
