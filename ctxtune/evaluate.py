"""`python -m ctxtune.evaluate CHECKPOINT`: score a checkpoint, look at its errors, export its model."""

import argparse
import os
from pathlib import Path

from ctxtune.command_line import OTHER_EXITS, program_name, run_command, whole_number
from ctxtune.errors import ConfigError, CtxtuneError
from ctxtune.terminal import PAGES, add_model_arguments, check_replaced


def build_parser() -> argparse.ArgumentParser:
    """The command line of an evaluation."""
    parser = argparse.ArgumentParser(
        prog=program_name("evaluate"),
        description="Score a checkpoint of ctxtune.train or of a run of a sweep: by default on the validation classes that "
        "the run was scored on.",
        epilog="Exit status: 0 done, 2 wrong input, " + OTHER_EXITS + ".",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="file, or the folder of a run: its newest")
    parser.add_argument(
        "--data", nargs=2, metavar=("NAME", "ROOT"), help="another data set or place; ROOT - is the usual one"
    )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="e.g. trial.image.test_crop=256, trial.dataset.root=DIR, validation.use=[1] (again for more)",
    )
    parser.add_argument(
        "--split",
        "--part",
        choices=("validation", "train", "test"),
        default="validation",
        help="(--part is its former name)",
    )
    parser.add_argument("--fold", type=whole_number, help="of a checkpoint with several folds: this one only")
    parser.add_argument(
        "--recall-at", type=whole_number, nargs="+", metavar="K", help="default: as in the run's configuration"
    )
    add_model_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    parser.add_argument("--per-class", action="store_true", help="the scores of each class too, the worst first")
    parser.add_argument("--export", type=Path, metavar="OUT", help="write the embedding model: OUT.pt, .pt2 or .onnx")
    parser.add_argument(
        "--no-score", action="store_true", help="only --export; where its image size is set, no data is needed"
    )
    parser.add_argument("--gallery-report", type=Path, metavar="OUT.html", help="write a page of the worst queries")
    parser.add_argument(
        "--worst", type=whole_number, default=24, metavar="N", help="queries on that page (default: %(default)s)"
    )
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="with --split test: enter the scoring in the ledger there"
    )
    return parser


def main() -> int:
    """Run the command; the exit status."""
    arguments = build_parser().parse_args()
    _check_arguments(arguments)
    # Torch takes seconds to import: what is not there is told before.
    if not os.path.exists(arguments.checkpoint):  # noqa: PTH110  # Path raises for names that are too long
        raise CtxtuneError(f"{arguments.checkpoint}: no such checkpoint")
    from ctxtune.checkpoint_evaluation import evaluate_checkpoint

    evaluate_checkpoint(arguments)
    return 0


def _check_arguments(arguments: argparse.Namespace) -> None:
    if arguments.no_score and (arguments.gallery_report or not arguments.export):
        raise ConfigError("--no-score goes with --export, and without --gallery-report")
    if arguments.tracking_uri and arguments.split != "test":
        raise ConfigError(
            "--tracking-uri enters a scoring of the test classes in the ledger: it goes with --split test"
        )
    if min(arguments.recall_at or [1]) < 1 or arguments.worst < 1:
        raise ConfigError("--recall-at and --worst take numbers from 1 on")
    page, export = arguments.gallery_report, arguments.export
    check_replaced("--gallery-report", page, ours=page is not None and page.suffix in PAGES)
    check_replaced("--export", export, ours=os.path.exists(f"{export}.json"))  # noqa: PTH110


if __name__ == "__main__":
    run_command(main)
