"""`python -m ctxtune.train FILE`: one run, on this machine, without Ray."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.live import Live
from rich.table import Table

from ctxtune.config import TrialFile, load_trial_file, stage_seed
from ctxtune.errors import ConfigError
from ctxtune.terminal import add_file_arguments, all_overrides, run_command
from ctxtune.training import CheckpointFolder, Run, fold_parts
from ctxtune.training.run import Progress
from ctxtune.training.session import Report, Session


def build_parser() -> argparse.ArgumentParser:
    """The command line of a single run."""
    parser = argparse.ArgumentParser(
        prog="python -m ctxtune.train",
        description="Train the one configuration of a file (best.yaml, or the `trial` of a search-space file) and score "
        "it on the validation classes of its folds. The test classes are left to the confirmation of a sweep.",
        epilog="Exit status: 0 done, 2 wrong input or a run that could not go on, 130 interrupted.",
    )
    add_file_arguments(parser, "YAML file, e.g. results/NAME/best.yaml or search_spaces/quickstart.yaml")
    parser.add_argument("--seed-index", type=int, default=0, help="which repetition (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: what torch takes)")
    parser.add_argument("--quiet", action="store_true", help="print the result only")
    return parser


def main() -> int:
    """Run the command; the exit status."""
    arguments = build_parser().parse_args()
    file = load_trial_file(arguments.file, all_overrides(arguments))
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = _device(arguments.device)
    folder = Path(arguments.results) / file.name / f"train-seed{arguments.seed_index}"
    checkpoints = CheckpointFolder(folder)
    newest = checkpoints.load_newest()
    if newest is not None and not arguments.resume:
        raise ConfigError(f"{folder} holds a run already; go on with it by --resume, or give this one another --name")
    console = Console(highlight=False, quiet=arguments.quiet)
    session = open_session(file, seed_index=arguments.seed_index, device=device)
    if newest is not None:
        session.load_state_dict(newest)
        console.print(f"going on after epoch {session.epoch}")
    history: list[dict[str, float]] = []
    with Live(console=console, transient=True) as live:

        def on_report(report: Report) -> None:
            checkpoints.save(report.state(), int(report.metrics["epoch"]))
            history.append(report.metrics)
            console.print(_line(report.metrics))

        def on_epoch(progress: Progress) -> None:
            if console.is_terminal:
                live.update(_progress_table(progress))

        session.run(on_report, on_epoch)
    _write_result(folder, file, session, history)
    print(f"checkpoints and result.json in {folder}", file=sys.stdout)  # noqa: T201
    return 0


def open_session(file: TrialFile, *, seed_index: int, device: torch.device) -> Session:
    """The run of a file, one for each validation fold in use."""
    seed = stage_seed("train", seed_index)
    folds = [fold_parts(file.trial, file.validation, fold, seed) for fold in file.validation.use]
    return Session([Run(file.trial, parts, seed=seed, device=device) for parts in folds])


def _device(asked: str) -> torch.device:
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
    except RuntimeError:
        raise ConfigError(f"--device {asked}: expected auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"--device {asked}: torch sees no CUDA device on this machine")
    return device


def _line(metrics: dict[str, float]) -> str:
    shown = [f"epoch {metrics['epoch']:>3.0f}"]
    for name, value in metrics.items():
        if name.startswith(("train/loss", "validation/")) or name == "train/recall_at_1":
            shown.append(f"{name} {value:.4f}")
    return "  ".join([*shown, f"{metrics['time/images_per_second']:.0f} images/s"])


def _progress_table(progress: Progress) -> Table:
    table = Table.grid(padding=(0, 2))
    terms = [f"{name} {value:.4f}" for name, value in progress.terms.items()]
    table.add_row(f"epoch {progress.epoch}/{progress.epochs}", *terms, f"{progress.images_per_second:.0f} images/s")
    return table


def _write_result(folder: Path, file: TrialFile, session: Session, history: list[dict[str, float]]) -> None:
    run = session.runs[0]
    result: dict[str, Any] = {
        "name": file.name,
        "config_hash": file.trial.hash(),
        "trial": file.trial.tree(),
        "seed": run.seed,
        "device": str(run.device),
        "precision": run.precision,
        "torch": torch.__version__,
        "metrics": history[-1] if history else {},
        "history": history,
    }
    (folder / "result.json").write_text(json.dumps(result, indent=2), encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
