"""Learning curves of a finite space of 144 configurations on glyphs, recorded once for `benchmarks/search.py`.

    python benchmarks/record_curves.py [--minutes 30]

Each configuration is trained as a trial of `search_spaces/quickstart.yaml` would be (fold 0, the seed that all trials of
a search share, 9 epochs) and scored after every epoch. A line is appended to `curves.csv` as each ends, so that the
script can be stopped and started again; 20 minutes of one core in all. An empty score: the run failed there.
"""

import argparse
import csv
import itertools
import time
from pathlib import Path
from typing import Any

import torch

from ctxtune.config import SweepConfig, load_search_space, resolve_trial, stage_seed
from ctxtune.data import load_dataset
from ctxtune.errors import RunFailed
from ctxtune.training import FoldTrainer, fold_splits
from ctxtune.training.trainer import Report, Trainer

HERE = Path(__file__).resolve().parent
TABLE = HERE / "curves.csv"
METRIC = "validation/map_at_r"
EPOCHS = 9
LEVELS: dict[str, tuple[float, ...]] = {
    "optimizer.lr": (5.0e-4, 1.25e-3, 3.0e-3, 8.0e-3),
    "loss.contextual_weight": (0.1, 0.4, 0.7, 1.0),
    "loss.epsilon": (0.005, 0.05, 0.5),
    "loss.k": (2, 4, 8),
}
"""The recorded values of each dimension: all combinations."""
DIMENSIONS: dict[str, dict[str, list[float]]] = {
    "optimizer.lr": {"loguniform": [5.0e-4, 8.0e-3]},
    "loss.contextual_weight": {"uniform": [0.1, 1.0]},
    "loss.epsilon": {"loguniform": [0.005, 0.5]},
    "loss.k": {"choice": [2, 4, 8]},
}
"""The space as a user would write it."""


def search_space(**search: Any) -> SweepConfig:
    """The quickstart with the recorded dimensions; ``search`` overrides entries of its `search` block."""
    import json

    overrides = [f"search.space={json.dumps(DIMENSIONS)}", "search.constraints=[]", "trial.dataset.name=glyphs"]
    overrides += [f"search.{key}={json.dumps(value)}" for key, value in search.items()]
    return load_search_space(HERE.parent / "search_spaces" / "quickstart.yaml", overrides)


def points() -> list[dict[str, float]]:
    """Every combination of `LEVELS`, in a fixed order."""
    return [dict(zip(LEVELS, values, strict=True)) for values in itertools.product(*LEVELS.values())]


def read_table(path: Path = TABLE) -> dict[tuple[float, ...], list[float]]:
    """Scores after each epoch, as far as the run came, by the values of `LEVELS`' dimensions."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        tuple(float(row[name]) for name in LEVELS): [
            float(row[f"epoch_{epoch}"]) for epoch in range(1, EPOCHS + 1) if row[f"epoch_{epoch}"]
        ]
        for row in rows
    }


def record(space: SweepConfig, point: dict[str, float]) -> list[float]:
    """Train one configuration; its score after each epoch, as far as it came."""
    seed = stage_seed("search", 0)
    trial = resolve_trial(space, point)
    splits = fold_splits(trial, space.validation, space.validation.use[0], seed, load_dataset(trial.dataset))
    trainer = Trainer([FoldTrainer(trial, splits, seed=seed)])
    scores: list[float] = []

    def note(report: Report) -> None:
        scores.append(report.metrics[METRIC])

    try:
        trainer.run(note)
    except RunFailed as failure:
        print(f"{point}: {failure}")
    finally:
        trainer.close()
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long; start again to go on")
    deadline = time.monotonic() + 60 * parser.parse_args().minutes
    torch.set_num_threads(1)
    space, done = search_space(), read_table()
    header = not TABLE.exists()
    with TABLE.open("a", newline="") as file:
        writer = csv.writer(file)
        if header:
            writer.writerow([*LEVELS, *(f"epoch_{epoch}" for epoch in range(1, EPOCHS + 1))])
        for number, point in enumerate(points(), start=1):
            if tuple(map(float, point.values())) in done or time.monotonic() > deadline:
                continue
            scores = record(space, point)
            writer.writerow([*point.values(), *(f"{score:.5f}" for score in scores), *[""] * (EPOCHS - len(scores))])
            file.flush()
            print(f"{number}/{len(points())} {point}: {scores[-1:]}", flush=True)


if __name__ == "__main__":
    main()
