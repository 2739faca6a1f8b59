"""What wrong labels meet in an embedding while it learns: neighborhoods that mean something from the start, or not.

    CTXTUNE_DATA=/where/omniglot/grocery/and/weights/are \
        python docs/figures/neighborhoods_over_training.py FOLDER [--seeds N] [--redraw]

Trains the contextual and the contrastive loss from scratch (small_conv on Omniglot) and on a pretrained network (a head on the
groceries' features), without and with 20 % wrong labels, and measures at some epochs, on the images that are learned from:

- the share of the K nearest neighbors that are truly of the image's class;
- the contextual similarity, in batches as the sampler makes them from the wrong labels, of right pairs (same label, same true
  class) and wrong pairs (same label, another true class). Where the training was clean the pairs are those that the noise
  would have made.

Leaves measured.csv, one row a run and epoch, and neighborhoods_over_training.png. `--redraw` draws from measured.csv alone.
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes

from ctxtune.config import load_trial_file, stage_seed
from ctxtune.config.resolve import with_values
from ctxtune.config.trial import TrialSettings
from ctxtune.data import Split, build_sampler
from ctxtune.losses import contextual_similarity
from ctxtune.palette import BLUE, VERMILION
from ctxtune.reporting.style import WIDTH, new_figure, styled
from ctxtune.retrieval import nearest
from ctxtune.training import FoldTrainer, ProcessGroup, fold_splits
from ctxtune.training.embedding import embed
from ctxtune.training.inputs import EvaluationInputs, Reading, open_inputs

REPOSITORY = Path(__file__).resolve().parents[2]
SETTINGS = {
    "from scratch (Omniglot)": REPOSITORY / "ablations/bases/omniglot.yaml",
    "pretrained (groceries)": REPOSITORY / "search_spaces/grocery.yaml",
}
LOSSES = {"contextual": BLUE, "contrastive": VERMILION}
NOISE = 0.2
K = 4
EPOCHS = (0, 1, 2, 4, 8, 12, 16, 20, 24)
BATCHES = 12
COLUMNS = ("setting", "loss", "noise", "seed", "epoch", "right_neighbors", "right_pairs", "wrong_pairs")
Row = dict[str, str | float | int]


class Measurer:
    """Measures an embedding on the images that it learns from, by their true classes."""

    def __init__(self, trial: TrialSettings, true: Split, noisy: Split, inputs: EvaluationInputs, seed: int) -> None:
        self.trial, self.true, self.noisy, self.inputs = trial, true, noisy, inputs
        sampler = build_sampler(trial.sampler, noisy.labels, noisy.super_labels, seed)
        self.batches = sampler.epoch(0)[:BATCHES]

    def __call__(self, run: FoldTrainer) -> dict[str, float]:
        """Share of right neighbors, contextual similarity of right and of wrong pairs."""
        embeddings, kept = embed(
            run.scored_model, self.inputs, batch_size=512, precision=run.precision, device=run.device
        )
        assert len(kept) == len(self.true), "the measures want images that can all be read"
        labels = self.true.labels
        neighbors = nearest(embeddings, k=K).indices
        measured = {"right_neighbors": float((labels[neighbors] == labels[:, None]).mean())}
        unit = torch.nn.functional.normalize(embeddings)
        pairs: dict[str, list[float]] = {"right_pairs": [], "wrong_pairs": []}
        for batch in self.batches:
            rows = unit[torch.from_numpy(batch)]
            similar = contextual_similarity(rows @ rows.T, k=K, epsilon=self.trial.loss.epsilon).numpy()
            together = self.noisy.labels[batch][:, None] == self.noisy.labels[batch][None]
            right = self.true.labels[batch][:, None] == self.true.labels[batch][None]
            together &= ~np.eye(len(batch), dtype=bool)
            pairs["right_pairs"] += similar[together & right].tolist()
            pairs["wrong_pairs"] += similar[together & ~right].tolist()
        return measured | {name: float(np.mean(values)) for name, values in pairs.items()}


def measure(setting: str, loss: str, noise: float, index: int) -> list[Row]:
    """Train one run; what was measured at each of `EPOCHS`."""
    file = load_trial_file(SETTINGS[setting], [])
    trial = with_values(file.trial, {"loss.name": loss} if loss != file.trial.loss.name else {})
    seed = stage_seed("train", index)
    true = fold_splits(trial, file.validation, 0, seed).fit
    noisy = fold_splits(with_values(trial, {"dataset.label_noise": NOISE}), file.validation, 0, seed).fit
    trial = with_values(trial, {"dataset.label_noise": noise})
    run = FoldTrainer(trial, fold_splits(trial, file.validation, 0, seed), seed=seed)
    reading = Reading(run.device, seed, None, 1, run.precision, ProcessGroup())
    inputs = open_inputs(trial, reading).evaluation(true)
    measurer = Measurer(load_trial_file(SETTINGS[setting], []).trial, true, noisy, inputs, seed)
    rows: list[Row] = []
    for epoch in (epoch for epoch in EPOCHS if epoch <= run.epochs):
        run.advance(until=epoch)
        measured = measurer(run)
        rows.append({"setting": setting, "loss": loss, "noise": noise, "seed": index, "epoch": epoch, **measured})
    inputs.close()
    run.close()
    return rows


def draw(rows: list[Row], path: Path) -> None:
    """Two rows of panels, from scratch and pretrained; lines are means over the seeds, bands their range."""
    with styled():
        figure, panels = new_figure(4.6, WIDTH, nrows=len(SETTINGS), ncols=3, squeeze=False)
        for setting, axes in zip(SETTINGS, panels, strict=True):
            own = [row for row in rows if row["setting"] == setting]
            for loss, color in LOSSES.items():
                for noise, line in ((0.0, "-"), (NOISE, "--")):
                    of_run = [row for row in own if row["loss"] == loss and float(row["noise"]) == noise]
                    _line(axes[0], of_run, "right_neighbors", color, line, f"{loss}, {noise:.0%} wrong labels")
                    panel = axes[1] if noise == 0 else axes[2]
                    _line(panel, of_run, "right_pairs", color, "-", f"{loss}, right pairs")
                    _line(panel, of_run, "wrong_pairs", color, ":", f"{loss}, wrong pairs")
            axes[0].set_ylabel(setting)
            for panel in axes:
                panel.set_ylim(0, 1)
                panel.set_xlim(0, None)
        titles = (f"share of right ones among\nthe {K} nearest", "contextual similarity,\nclean training",
                  f"contextual similarity,\n{NOISE:.0%} wrong labels")  # fmt: skip
        for panel, title in zip(panels[0], titles, strict=True):
            panel.set_title(title, loc="left")
        for panel in panels[-1]:
            panel.set_xlabel("epoch")
        panels[0][0].legend(loc="lower right", fontsize=6.5)
        panels[0][1].legend(loc="center right", fontsize=6.5)
        figure.savefig(path, dpi=150)


def _line(axes: Axes, rows: list[Row], name: str, color: str, line: str, label: str) -> None:
    by_epoch: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        by_epoch[int(row["epoch"])].append(float(row[name]))
    epochs = sorted(by_epoch)
    axes.plot(epochs, [np.mean(by_epoch[epoch]) for epoch in epochs], color=color, linestyle=line, label=label)
    low, high = ([end(by_epoch[epoch]) for epoch in epochs] for end in (min, max))
    axes.fill_between(epochs, low, high, color=color, alpha=0.15, linewidth=0)


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--redraw", action="store_true", help="draw from FOLDER/measured.csv, train nothing")
    arguments = parser.parse_args()
    file = arguments.folder / "measured.csv"
    if not arguments.redraw:
        torch.set_num_threads(1)
        arguments.folder.mkdir(parents=True, exist_ok=True)
        with file.open("w", newline="") as opened:
            writer = csv.DictWriter(opened, COLUMNS)
            writer.writeheader()
            for index in range(arguments.seeds):
                for setting in SETTINGS:
                    for loss in LOSSES:
                        for noise in (0.0, NOISE):
                            writer.writerows(measure(setting, loss, noise, index))
                            opened.flush()
    with file.open(newline="") as opened:
        draw(list(csv.DictReader(opened)), arguments.folder / "neighborhoods_over_training.png")


if __name__ == "__main__":
    main()
