"""From a sweep's command line to the first step of its first trial, and on to its end: what the time goes to.

    python benchmarks/startup.py [--set PATH=VALUE ...] [--stop-at-first-step]

Starts a small sweep of search_spaces/quickstart.yaml in an empty folder and looks at its processes twenty times a second: when
each landmark was passed, and how much processor time each kind of process had taken by then. Processor time counts: seconds on
the wall depend on what else the machine does.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
LOOK_SECONDS = 0.05
TRIALS = "trials"
STAMP = "CTXTUNE_BENCHMARK_STAMP"
LOSS = f"""
import os
import torch
from pathlib import Path


class Stamping(torch.nn.Module):
    def forward(self, embeddings, labels):
        Path(os.environ["{STAMP}"]).touch()
        same = (labels[:, None] == labels[None, :]).to(embeddings.dtype)
        return ((torch.nn.functional.normalize(embeddings) @ torch.nn.functional.normalize(embeddings).T - same) ** 2).mean()
"""
SMALL = [
    "trial.loss={name: 'stamping:Stamping'}", "search.space={optimizer.lr: {loguniform: [1.0e-3, 1.0e-2]}}",
    "search.constraints=[]", "trial.model.width=8", "trial.model.embedding_dim=16", "trial.sampler.batch_size=32",
    "trial.sampler.batches_per_epoch=3", "trial.schedule.epochs=3", "search.trials=6",
    "select={top: 1, folds: [1], seeds: 1}", "confirm.seeds=2",
]  # fmt: skip


def kind_of(process: psutil.Process, driver: int) -> str:
    """What a process of a sweep is."""
    line = " ".join(process.cmdline())
    if process.pid == driver:
        return "driver"
    if "ctxtune.tracking deliver" in line:
        return "delivery to MLflow"
    if line.startswith("ray::ImplicitFunc"):
        return TRIALS
    if "ray::" in line or "default_worker.py" in line:
        return "Ray: workers not used yet"
    if "/ray/" in line or "ray" in process.name():
        return "Ray's own"
    return "others"


class Watched:
    """The processor time of all processes that a command has started, those that have ended included."""

    def __init__(self, driver: int) -> None:
        self._driver = psutil.Process(driver)
        self._seen: dict[psutil.Process, tuple[str, float]] = {}

    def look(self) -> None:
        """Take in what runs now."""
        for process in [self._driver, *self._driver.children(recursive=True)]:
            try:
                times = process.cpu_times()
                before, _ = self._seen.get(process, ("", 0.0))
                kind = before if before == TRIALS else kind_of(process, self._driver.pid)
                self._seen[process] = (kind, times.user + times.system)
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue

    def seconds(self) -> Counter[str]:
        """By kind of process."""
        found: Counter[str] = Counter()
        for kind, seconds in self._seen.values():
            found[kind] += seconds
        return found

    def count(self, kind: str) -> int:
        """How many processes of a kind there were."""
        return sum(each == kind for each, _ in self._seen.values())


def landmarks(folder: Path, watched: Watched) -> dict[str, Callable[[], bool]]:
    """What is passed in turn on the way to the first step."""
    return {
        "file read and checked": (folder / "results/quickstart").exists,
        "Ray being started": lambda: watched.count("Ray's own") > 0,
        "first run asked for": lambda: '"asked"' in read(folder / "results/quickstart/journal.jsonl"),
        "first trial's process": lambda: watched.count(TRIALS) > 0,
        "first step": (folder / "stamp").exists,
    }


def read(file: Path) -> str:
    """The text of a file, none where it is not there yet."""
    return file.read_text(errors="replace") if file.exists() else ""


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE", help="of the sweep, as its own --set"
    )
    parser.add_argument("--stop-at-first-step", action="store_true", help="leave out the rest of the sweep")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ctxtune-startup-") as name:
        folder = Path(name)
        (folder / "stamping.py").write_text(LOSS)
        sets = [part for each in [*SMALL, *arguments.set] for part in ("--set", each)]
        began = time.monotonic()
        sweep = subprocess.Popen(
            [sys.executable, "-m", "ctxtune.sweep", str(ROOT / "search_spaces/quickstart.yaml"), *sets],
            cwd=folder, stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{folder}", STAMP: str(folder / "stamp"), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        watched = Watched(sweep.pid)
        waiting = landmarks(folder, watched)
        print(f"{'':<28}{'on the wall':>12}{'processor':>11}  of it")
        while sweep.poll() is None:
            watched.look()
            while waiting and next(iter(waiting.values()))():
                tell(next(iter(waiting)), time.monotonic() - began, watched)
                waiting.pop(next(iter(waiting)))
            if not waiting and arguments.stop_at_first_step:
                sweep.terminate()
                sweep.wait()
                return 0
            time.sleep(LOOK_SECONDS)
        tell("end of the sweep", time.monotonic() - began, watched)
        print(f"{watched.count('trials')} processes have run trials")
    return sweep.returncode


def tell(landmark: str, seconds: float, watched: Watched) -> None:
    """One line of the table."""
    parts = watched.seconds()
    told = ", ".join(f"{kind} {each:.1f}" for kind, each in parts.most_common() if each >= 0.05)
    print(f"{landmark:<28}{seconds:>10.1f} s{sum(parts.values()):>9.1f} s  {told}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
