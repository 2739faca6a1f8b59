"""What the budget of each shipped GPU space buys: trials, share of the search, selection and confirmation.

    python benchmarks/budget.py [cars cub ...] [--rates 150 400 900 2000] [--gpus 1 4 8] [--hours 24]

Each file is run through the real driver, sampler, rungs, budget and recorder on a simulated clock; a run takes the time of
its training images at so many a second, evaluations included. No images are needed: the official sizes are taken.
"""

import argparse
from collections import Counter
from pathlib import Path

from ctxtune.config import load_search_space
from ctxtune.errors import CtxtuneError
from ctxtune.tuning.plan import full_run
from ctxtune.tuning.simulation import simulated_sweep
from ctxtune.tuning.timing import Assumed, planned_resources

SPACES = Path(__file__).resolve().parent.parent / "search_spaces"
GPU_SPACES = ("cars", "cub", "sop", "inshop", "inaturalist")


def line(name: str, overrides: list[str], rate: float, gpus: int) -> str:
    """One simulated sweep as a line of Markdown."""
    space = load_search_space(SPACES / f"{name}.yaml", overrides)
    assumed = Assumed(rate, gpus)
    resources = planned_resources(space, None, space.search.max_concurrent, assumed)
    full = full_run(space, assumed)
    head = f"| {name} | {rate:g} | {gpus} | {full.seconds / 60:.0f} min |"
    try:
        with simulated_sweep(space, resources, full.seconds) as simulated:
            journal, executor = simulated.journal, simulated.executor
            states = Counter(run.state for run in journal.stage("search"))
            epochs = sum(run.epoch for run in journal.stage("search"))
            work = sum(executor.busy.values())
            seeds = journal.decisions.confirmation.seeds
            return (
                f"{head} {states.total()} ({states['completed']} whole) | {epochs} | {executor.busy['search'] / work:.0%} | "
                f"{len(journal.stage('selection'))} | {seeds} | {executor.clock / 3600:.1f} |"
            )
    except CtxtuneError as refused:
        return f"{head} {refused} | | | | | |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spaces", nargs="*", default=GPU_SPACES)
    parser.add_argument("--rates", nargs="+", type=float, default=[150, 400, 900, 2000])
    parser.add_argument("--gpus", nargs="+", type=int, default=[1, 4, 8])
    parser.add_argument("--hours", type=float, help="instead of the file's")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    overrides = [*arguments.overrides, *([f"search.budget.hours={arguments.hours}"] if arguments.hours else [])]
    print("| space | images/s | GPUs | full run | trials | epochs | search | selection runs | seeds | hours |")
    print("|---" * 10 + "|")
    for name in arguments.spaces:
        for rate in arguments.rates:
            for gpus in arguments.gpus:
                print(line(name, overrides, rate, gpus), flush=True)


if __name__ == "__main__":
    main()
