"""Learning curves of thousands of configurations of one space on three tasks, recorded once for `benchmarks/search.py`.

    CTXTUNE_DATA=/where/the/data/are python benchmarks/record_search_tables.py --to FOLDER [--minutes 30]
    python benchmarks/record_search_tables.py --to FOLDER --pack      # appends to benchmarks/search_tables.npz

Each configuration is trained by `ctxtune.training.FoldTrainer`, as a trial of a sweep is: a head of 64 dimensions on the
kept features of a frozen EfficientNet-Lite0, nine epochs of six batches of 48 images under a cosine schedule. It is
scored after every epoch (validation MAP@R) on at most 320 images of the fold's classes, which keeps a run at about 0.3 s.

- photographs: the Grocery Store data set, as in `search_spaces/grocery.yaml`
- omniglot: characters, with the same network's features
- noisy_labels: the photographs, 30 % of whose labels are wrong

Point number i of a scrambled Sobol sequence is trained on all three before the next one, so that they grow together. The
first 64 are trained with a second seed too: what chance adds. Points that `search_tables.npz` holds already are left out:
remove that file to record all anew. A line is appended to `FOLDER/TASK.csv` as each run ends; started again, it goes on.
Empty scores: the run failed there. `--pack` appends the lines to the tables.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from search_table import (
    DIMENSIONS,
    EPOCHS,
    METRIC,
    REPEATED,
    TABLES,
    TASKS,
    Floats,
    Table,
    from_unit_cube,
    read_tables,
    search_space,
    write_tables,
)

from ctxtune.config import SweepConfig, resolve_trial, stage_seed
from ctxtune.config.resolve import is_feasible
from ctxtune.data import Benchmark, load_dataset
from ctxtune.errors import RunFailed
from ctxtune.training import FoldTrainer, RunSplits, fold_splits

SCORED_IMAGES = 320
SOBOL_POINTS = 2**14


@dataclass
class Task:
    """One task, ready to be trained on."""

    name: str
    space: SweepConfig
    benchmark: Benchmark

    def record(self, point: dict[str, Any], repeat: int) -> list[float]:
        """Train one configuration; its score after each epoch, as far as it came."""
        seed = stage_seed("search", repeat)
        trial = resolve_trial(self.space, point)
        splits = _scored_in_part(fold_splits(trial, self.space.validation, 0, seed, self.benchmark))
        scores: list[float] = []
        trainer = FoldTrainer(trial, splits, seed=seed, cores=1)
        try:
            for _ in range(EPOCHS):
                trainer.advance()
                scores.append(trainer.evaluate()[METRIC])
        except RunFailed as failure:
            print(f"{self.name} {point}: {failure}")
        finally:
            trainer.close()
        return scores


def _scored_in_part(splits: RunSplits) -> RunSplits:
    """The same with at most `SCORED_IMAGES` of the images to score, equally many of each class."""
    labels = splits.query.labels
    each = SCORED_IMAGES // len(np.unique(labels))
    rank = np.array([np.count_nonzero(labels[:index] == label) for index, label in enumerate(labels)])
    query = splits.query.select(np.flatnonzero(rank < each), splits.query.name)
    return RunSplits(splits.fit, query, splits.gallery, splits.scored_as)


def points(space: SweepConfig) -> Iterator[tuple[int, dict[str, Any]]]:
    """The feasible points of the sequence, by their number."""
    from scipy.stats import qmc

    cube = qmc.Sobol(len(DIMENSIONS), seed=20261126).random(SOBOL_POINTS)
    for number, row in enumerate(cube):
        point = from_unit_cube(row)
        if is_feasible(space, point):
            yield number, point


def _done(path: Path) -> set[tuple[int, int]]:
    if not path.exists():
        return set()
    with path.open(newline="") as file:
        return {(int(row["number"]), int(row["repeat"])) for row in csv.DictReader(file)}


def _append(path: Path, number: int, repeat: int, point: dict[str, Any], scores: list[float]) -> None:
    header = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if header:
            writer.writerow(["number", "repeat", *DIMENSIONS, *(f"epoch_{epoch}" for epoch in range(1, EPOCHS + 1))])
        values = [f"{score:.5f}" for score in scores] + [""] * (EPOCHS - len(scores))
        writer.writerow([number, repeat, *point.values(), *values])


def record(folder: Path, deadline: float) -> None:
    """Train what is missing, in the order of the sequence, until the deadline."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = []
    for name in TASKS:
        space = search_space(name)
        tasks.append(Task(name, space, load_dataset(space.trial.dataset)))
    done = {name: _done(folder / f"{name}.csv") for name in TASKS}
    packed = {name: len(table.values) for name, table in _packed().items()}
    for count, (number, point) in enumerate(points(tasks[0].space)):
        for task in tasks:
            if count < packed[task.name]:
                continue
            for repeat in range(2 if count < REPEATED else 1):
                if (number, repeat) in done[task.name]:
                    continue
                if time.monotonic() > deadline:
                    return
                _append(folder / f"{task.name}.csv", number, repeat, point, task.record(point, repeat))
        if count % 50 == 0:
            print(f"{time.strftime('%H:%M:%S')} {count} configurations", flush=True)


def _packed() -> dict[str, Table]:
    """The tables as they are shipped; empty ones where there are none."""
    if TABLES.exists():
        return read_tables()
    empty = Table(np.empty((0, len(DIMENSIONS))), np.empty((0, EPOCHS)), np.empty((0, 2, EPOCHS)))
    return dict.fromkeys(TASKS, empty)


def pack(folder: Path) -> None:
    """Append the recorded lines to the tables, one compact file."""
    tables, packed = {}, _packed()
    place = {str(number): place for place, (number, _) in enumerate(points(search_space(next(iter(TASKS)))))}
    for name in TASKS:
        with (folder / f"{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        whole = [row for row in rows if row["repeat"] == "0" and place[row["number"]] >= len(packed[name].values)]
        again = {row["number"]: row for row in rows if row["repeat"] == "1"}
        pairs = [(_scores(row), _scores(again[row["number"]])) for row in whole if row["number"] in again]
        values = [[_index(path, row[path]) for path in DIMENSIONS] for row in whole]
        tables[name] = Table(
            values=_appended(packed[name].values, values),
            curves=_appended(packed[name].curves, [_scores(row) for row in whole]),
            repeats=_appended(packed[name].repeats, pairs),
        )
        print(f"{name}: {len(tables[name].values)} configurations, {len(whole)} of them new")
    write_tables(tables)


def _appended(array: Floats, rows: Sequence[object]) -> Floats:
    return np.concatenate([array, np.array(rows).reshape(-1, *array.shape[1:])]).astype(np.float32)


def _index(path: str, text: str) -> float:
    """A number as it is; of a choice, which one."""
    kind, arguments = next(iter(DIMENSIONS[path].items()))
    return [str(each) for each in arguments].index(text) if kind == "choice" else float(text)


def _scores(row: dict[str, str]) -> list[float]:
    return [float(row[f"epoch_{epoch}"] or math.nan) for epoch in range(1, EPOCHS + 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, required=True, help="folder of the lines; outside the repository")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long; start again to go on")
    parser.add_argument(
        "--pack", action="store_true", help="record nothing, append the lines to benchmarks/search_tables.npz"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.pack:
        pack(arguments.to)
    else:
        record(arguments.to, time.monotonic() + 60 * arguments.minutes)


if __name__ == "__main__":
    main()
