"""`python -m ctxtune.tracking`: what waits in a spool (status), deliver it (replay), runs that are there twice (dedupe)."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TextIO

from ctxtune.command_line import OTHER_EXITS, program_name, run_command
from ctxtune.consoles import printable_lines
from ctxtune.errors import TrackingError
from ctxtune.text import counted
from ctxtune.tracking.checking import ask_store
from ctxtune.tracking.delivery_process import DeliveryProcess, replay
from ctxtune.tracking.queries import dedupe
from ctxtune.tracking.spool import Spool


def build_parser() -> argparse.ArgumentParser:
    """The command line of all commands."""
    parser = argparse.ArgumentParser(
        prog=program_name("tracking"),
        description="The spool on the way to MLflow.",
        epilog=f"Exit status: 0 done, 2 wrong input, {OTHER_EXITS}.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="replay | status | dedupe")
    command = commands.add_parser("replay", help="deliver what a sweep could not deliver")
    command.add_argument("spool", type=Path, help="the spool's folder")
    command.add_argument("--uri", help="the tracking server, where it is not the one that the spool was made for")
    command = commands.add_parser("status", help="say what is waiting in a spool")
    command.add_argument("spool", type=Path, help="the spool's folder")
    command = commands.add_parser(
        "dedupe",
        help="set aside runs that a slow server has made twice",
        description="Set aside the runs that a slow server has made twice. Of each the one with the data counts; the other is "
        "marked (tag ctxtune.duplicate_of), closed, taken out of the ledger of test scorings and, where it holds no data, "
        "deleted: MLflow can restore it.",
    )
    command.add_argument("name", help="of the sweep or ablation: its MLflow experiment")
    command.add_argument(
        "--uri",
        default=os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db"),
        help="the tracking server (default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db)",
    )
    command = commands.add_parser("deliver")  # what the Tracker starts; reads its orders from standard input
    command.add_argument("spool", type=Path)
    commands.add_parser("check")  # what `check_store` starts; reads its orders from standard input
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one of the commands; the exit status (2 after a user's error)."""
    options = build_parser().parse_args(arguments)
    try:
        if options.command == "deliver":
            DeliveryProcess(options.spool).run()
            os._exit(0)  # everything is on disk; MLflow's own farewell takes half a second
        elif options.command == "check":
            return _check()
        elif options.command == "dedupe":
            _dedupe(options.uri, options.name)
        elif options.command == "status":
            _status(options.spool)
        else:
            print_progress = sys.stderr.isatty()
            count = replay(options.spool, options.uri, _progress if print_progress else lambda pending: None)
            _say(f"{count} events were delivered; the spool is empty")
    except TrackingError as error:
        _say(str(error), sys.stderr)
        return 2
    return 0


def _check() -> int:
    try:
        ask_store(**json.load(sys.stdin))
    except TrackingError as error:
        _say(str(error))
        return 2
    return 0


def _status(folder: Path) -> None:
    spool = Spool(folder, create=False)
    counts = spool.counts()
    _say(f"experiment {spool.state('experiment')!r} at {spool.state('uri')}")
    _say(
        f"{counts.runs} runs, {counts.delivered} events delivered, {counts.pending} events pending, {counts.refused} refused"
    )
    error = spool.state("last_error")
    if error:
        _say(f"last error: {error}")
    for key, kind, reason in spool.refusals():
        _say(f"refused {kind} of {key}: {reason}")


def _dedupe(uri: str, name: str) -> None:
    found = dedupe(uri, name)
    for doubled in found:
        kept = f", of which {len(doubled.kept)} with data of their own are only marked" if doubled.kept else ""
        _say(f"{doubled.key}: counts {doubled.run_id}; set aside: {', '.join(doubled.spares)}{kept}")
    _say(f"{counted(sum(len(doubled.spares) for doubled in found), 'duplicate run')} set aside in {name}")


def _progress(pending: int) -> None:
    _say(f"{pending} events to go", sys.stderr)


def _say(text: str, stream: TextIO | None = None) -> None:
    print(printable_lines(text), file=stream)


if __name__ == "__main__":
    run_command(main)
