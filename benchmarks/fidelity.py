"""What cheaper trials cost in ranking: rank correlation of short runs with full-length ones.

    python benchmarks/fidelity.py record SPACE OUT.csv [--configurations 64] [--set ...]   # trains; goes on where it stopped
    python benchmarks/fidelity.py OUT.csv [OUT.csv ...]                                    # the table

Random points of a search space are trained at full length with two seeds, and once at each cheaper form that
`search.schedule`, `search.images` and `search.crop` give, with the seed that the trials of a search share. Two full-length
seeds among themselves are the ceiling: no cheaper form can rank better than a run ranks its own repetition. Reported are
Spearman's rank correlation with a bootstrap interval, how many of the full-length top five are in the cheaper form's first
third (what the search needs of a rung), and the regret: of twenty configurations drawn from the recorded ones, how far the
one that the form chooses is from the best, in points of the score at full length (mean of both seeds), mean over the draws;
"selected" takes the form's best five and of these the one that another full-length seed finds best, as selection does.
"""

import argparse
import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from ctxtune.config import SweepConfig, TrialSettings, load_search_space, resolve_trial, stage_seed
from ctxtune.config.fidelity import shortened
from ctxtune.data import load_dataset
from ctxtune.errors import RunFailed
from ctxtune.training import FoldTrainer, fold_splits
from ctxtune.training.trainer import Report, Trainer
from ctxtune.tuning.search.sampler import Sampler

METRIC = "validation/map_at_r"
DRAWN, SELECTED = 20, 5
"""Configurations of a search whose regret is told, and those of them that selection scores again."""
FULL, AGAIN = "full", "full, another seed"


def forms(trial: TrialSettings) -> dict[str, dict[str, Any]]:
    """What is measured: options of `shortened`, by name."""
    epochs, crop = trial.schedule.epochs, trial.image.train_crop
    found: dict[str, dict[str, Any]] = {FULL: {}, AGAIN: {}}
    found |= {f"epochs / {part}": {"epochs": epochs // part} for part in (2, 4)}
    found |= {"half the classes": {"images": 0.5}, "crop x 3/4": {"crop": crop * 3 // 4}}
    if trial.model.train != "head":  # a head gains nothing from crops: its features are as many numbers
        found["epochs / 2, crop x 3/4"] = {"epochs": epochs // 2, "crop": crop * 3 // 4}
    return found


def record(space: SweepConfig, out: Path, count: int) -> None:
    """Train what is not in the file yet, a line for each run."""
    torch.set_num_threads(1)
    random = space.search.model_copy(update={"sampler": space.search.sampler.model_copy(update={"name": "random"})})
    sampler = Sampler(space.model_copy(update={"search": random}))
    points = [sampler.ask(f"point-{number}") for number in range(count)]
    done = {(row["point"], row["form"]) for row in rows_of(out)} if out.exists() else set()
    with out.open("a", newline="") as file:
        writer = csv.writer(file)
        if not done:
            writer.writerow(["point", "form", "epochs", "cost", "score", "seconds", "curve"])
        for number, point in enumerate(points):
            trial = resolve_trial(space, point)
            for name, options in forms(trial).items():
                if (str(number), name) in done:
                    continue
                run = trained(space, shortened(trial, **options), stage_seed("search", int(name == AGAIN)))
                writer.writerow([number, name, *run])
                file.flush()


def trained(space: SweepConfig, trial: TrialSettings, seed: int) -> list[Any]:
    """Epochs, cost (training pixels; images, where features are kept), last score (empty: the run failed), seconds, scores."""
    parts = fold_splits(trial, space.validation, space.validation.use[0], seed, load_dataset(trial.dataset))
    trainer = Trainer([FoldTrainer(trial, parts, seed=seed, cores=1)])
    scores: list[float] = []
    began = time.process_time()

    def note(report: Report) -> None:
        scores.append(report.metrics[METRIC])

    try:
        trainer.run(note)
    except RunFailed:
        scores = []
    finally:
        trainer.close()
    cost = trial.schedule.epochs * trainer.runs[0].batches_per_epoch * trial.sampler.batch_size
    if trial.model.train != "head":  # a head learns from kept features, as many numbers at every crop
        cost *= trial.image.train_crop**2
    curve = " ".join(f"{score:.4f}" for score in scores)
    last = f"{scores[-1]:.5f}" if scores else ""
    return [trial.schedule.epochs, cost, last, round(time.process_time() - began, 1), curve]


def rows_of(path: Path) -> list[dict[str, str]]:
    """The lines of a recording."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def table(path: Path) -> list[str]:
    """One recording as lines of Markdown."""
    rows = rows_of(path)
    scores = {(row["point"], row["form"]): float(row["score"] or 0) for row in rows}
    costs = {(row["point"], row["form"]): float(row["cost"]) for row in rows}
    curves = {row["point"]: [float(score) for score in row["curve"].split()] for row in rows if row["form"] == FULL}
    names = list(dict.fromkeys(row["form"] for row in rows))
    points = [
        point for point in dict.fromkeys(row["point"] for row in rows) if all((point, n) in scores for n in names)
    ]
    full = np.array([scores[point, FULL] for point in points])
    lines = [f"{path.stem}: {len(points)} configurations; full-length scores {full.min():.3f} to {full.max():.3f}, "
             f"median {np.median(full):.3f}", "",
             "| trials | cost | rank correlation | 95 % | top five in its first third | regret | selected |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    measured = [
        (name, np.array([scores[point, name] for point in points]),
         float(np.mean([costs[point, name] / costs[point, FULL] for point in points])))
        for name in names if name != FULL
    ]  # fmt: skip
    evaluations = min((len(curve) for curve in curves.values() if curve), default=0)
    for at in range(max(1, evaluations // 4), evaluations, max(1, evaluations // 4)):
        early = np.array([curves[point][at - 1] if curves[point] else 0.0 for point in points])
        measured.append((f"stopped at {at}/{evaluations} of the full schedule", early, at / evaluations))
    again = np.array([scores[point, AGAIN] for point in points])
    for name, values, cost in [(FULL, full, 1.0), *measured]:
        low, high = bootstrap(full, values)
        chosen, selected = regrets((full + again) / 2, values, again)
        top = set(np.argsort(-full)[:5])
        kept = len(top & set(np.argsort(-values)[: len(points) // 3]))
        rho = stats.spearmanr(full, values).statistic
        ranks = f"{rho:.2f} | {low:.2f} to {high:.2f} | {kept} of 5" if name != FULL else "| |"
        lines.append(f"| {name} | {cost:.2f} | {ranks} | {chosen:.1f} | {selected:.1f} |")
    return lines


def regrets(true: np.ndarray, values: np.ndarray, again: np.ndarray, times: int = 2000) -> tuple[float, float]:
    """Mean regret in percent of who is first by ``values``, and of who is first by ``again`` among their first five."""
    random = np.random.default_rng(0)
    chosen = selected = 0.0
    for _ in range(times):
        drawn = random.choice(len(true), DRAWN, replace=False)
        best, ranked = true[drawn].max(), drawn[np.argsort(-values[drawn])]
        chosen += best - true[ranked[0]]
        selected += best - true[max(ranked[:SELECTED], key=lambda row: again[row])]
    return 100 * chosen / times, 100 * selected / times


def bootstrap(one: np.ndarray, other: np.ndarray, times: int = 2000) -> tuple[float, float]:
    """The 95 % percentile interval of the rank correlation."""
    random = np.random.default_rng(0)
    drawn = random.integers(len(one), size=(times, len(one)))
    found = [stats.spearmanr(one[rows], other[rows]).statistic for rows in drawn]
    low, high = np.nanquantile(found, (0.025, 0.975))
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--configurations", type=int, default=64)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    if str(arguments.files[0]) == "record":
        space, out = arguments.files[1:]
        record(load_search_space(space, arguments.overrides), out, arguments.configurations)
        return
    for path in arguments.files:
        print("\n".join(table(path)) + "\n")


if __name__ == "__main__":
    main()
