"""`python -m ctxtune.train FILE`: one run, on this machine, without Ray; several processes through torchrun."""

import argparse
import os
from pathlib import Path

from ctxtune.command_line import EXIT_USER_ERROR, OTHER_EXITS, advise, program_name, run_command, whole_number
from ctxtune.durable_files import NO_ROOM
from ctxtune.errors import ConfigError, CtxtuneError, RunFailed
from ctxtune.shipped import find_file
from ctxtune.standard_streams import go_on_without_output
from ctxtune.terminal import add_file_arguments, all_overrides
from ctxtune.text import shortened


def build_parser() -> argparse.ArgumentParser:
    """The command line of a single run."""
    parser = argparse.ArgumentParser(
        prog=program_name("train"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train the one configuration of a file (best.yaml, or the `trial` of a search-space file) and score\n"
        "it on the validation classes of its folds. The test classes are left to the confirmation of a sweep.\n\n"
        "In RESULTS/NAME/train-seedN: a checkpoint after every epoch (the newest two are kept, and best.pt, the one\n"
        "with the best validation score, for information) and result.json with the scores of every evaluation.",
        epilog="examples:\n"
        "  python -m ctxtune.train search_spaces/quickstart.yaml\n"
        "  python -m ctxtune.train search_spaces/cars.yaml --set trial.optimizer.micro_batch=32 --name cars-small-gpu\n"
        "  torchrun --nproc-per-node 4 -m ctxtune.train search_spaces/cars.yaml     # four GPUs, one batch\n\n"
        "exit status: 0 done; 2 wrong input, or a run that could not go on, said in one message;\n"
        f"{OTHER_EXITS}.",
    )
    add_file_arguments(parser, "YAML file, e.g. results/NAME/best.yaml or search_spaces/quickstart.yaml")
    parser.add_argument(
        "--seed-index",
        metavar="N",
        type=whole_number,
        default=0,
        help="which repetition, from 0: other weights, batches and crops (default: %(default)s)",
    )
    parser.add_argument(
        "--device",
        default="auto",
        help="auto (a CUDA GPU where there is one), cpu, cuda, cuda:N or mps; under torchrun each process takes its own "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the newest checkpoint, bit by bit as if never stopped"
    )
    parser.add_argument("--threads", metavar="N", type=whole_number, help="CPU threads (default: what torch takes)")
    parser.add_argument("--quiet", action="store_true", help="no progress display, only where the result lies")
    return parser


def main() -> int:
    """Run the command; the exit status."""
    arguments = build_parser().parse_args()
    rank, processes = _launched()
    try:
        _train(arguments, rank, processes)
    except CtxtuneError as error:
        # What is wrong with the input is wrong in every process; the first one says it.
        everywhere = not isinstance(error, RunFailed) or error.reason != "out_of_memory"
        if rank > 0 and everywhere:
            return EXIT_USER_ERROR
        raise
    except OSError as error:
        then = "; make room, then go on with --resume" if error.errno in NO_ROOM else ""
        raise CtxtuneError(f"{error.filename or arguments.results}: {error.strerror or error}{then}") from error
    return 0


def _launched() -> tuple[int, int]:
    """Rank and number of processes as torchrun says them. Raises ConfigError for what cannot be."""
    written = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR")}
    rank, processes = written["RANK"] or "0", written["WORLD_SIZE"] or "1"
    sound = rank.isdecimal() and processes.isdecimal() and int(rank) < int(processes)
    if not sound or (int(processes) > 1 and not written["MASTER_ADDR"]):
        said = ", ".join(f"{name}={value}" for name, value in written.items() if value is not None)
        raise ConfigError(
            f"the environment says {shortened(said)}: start several processes with torchrun, or unset these"
        )
    return int(rank), int(processes)


def _train(arguments: argparse.Namespace, rank: int, processes: int) -> None:
    # Torch takes seconds to import: what is wrong with the file is told before.
    path = find_file(arguments.file, ("search_spaces",))
    from ctxtune.config import load_trial_file
    from ctxtune.config.advice import trial_advice

    file = load_trial_file(path, all_overrides(arguments))
    advise(trial_advice(file.trial))
    if arguments.seed_index < 0:
        raise ConfigError(f"--seed-index {arguments.seed_index}: counts from 0")
    from ctxtune.single_run import train_file

    go_on_without_output()
    train_file(
        file,
        Path(arguments.results),
        seed_index=arguments.seed_index,
        device=arguments.device,
        threads=arguments.threads,
        resume=arguments.resume,
        quiet=arguments.quiet,
        rank=rank,
        processes=processes,
    )


if __name__ == "__main__":
    run_command(main)
