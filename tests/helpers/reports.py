"""Ablations and sweeps written to MLflow as the commands write them, with scores whose truth is known."""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from ctxtune.embedded_image import embedded_image
from ctxtune.reporting.ablation.data import read_ablation
from ctxtune.reporting.ablation.report import ablation_document
from ctxtune.reporting.document import Picture
from ctxtune.reporting.rendering import ReportFiles, write_document
from ctxtune.reporting.study import read_study
from ctxtune.retrieved_images import SHOWN_QUERIES_FILE, RetrievedImage, ShownQuery, to_json
from ctxtune.tracking import Tracker, record_test_scoring, replay
from tests.helpers.tracking import new_store

CLASSES = 12
QUERIES = 10


@dataclass
class FakeAblation:
    """What an ablation would have found. `effect(variant, levels)` is the true score of a cell."""

    effect: Callable[[str, Mapping[str, Any]], float]
    variants: Sequence[str]
    name: str = "ablation"
    factors: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    seeds: int = 5
    repeats: int = 1
    folds: Sequence[str] = ("0",)
    tuning: str = "none"
    tuned_for: str | None = None
    dataset: str = "glyphs"
    metric: str = "validation/map_at_r"
    noise: float = 0.004
    failed: Sequence[tuple[str, int]] = ()
    finished_seeds: int | None = None
    finished_folds: Sequence[str] | None = None
    folds_told: bool = True
    classes_kept: bool = True
    closed_set: bool = False

    def cells(self) -> list[dict[str, Any]]:
        names = list(self.factors)
        cells = []
        for levels in product(*self.factors.values()):
            at = dict(zip(names, levels, strict=True))
            for variant in self.variants:
                label = ", ".join([variant, *(f"{name.rpartition('.')[2]}={value}" for name, value in at.items())])
                settings = {**at, **({} if variant == self.variants[0] else {f"loss.{variant}": True})}
                digest = f"{zlib.crc32(label.encode()):08x}"
                cells.append({"cell": label, "variant": variant, "levels": at, "settings": settings, "hash": digest})
        return cells

    def file(self) -> dict[str, Any]:
        dataset = {"name": self.dataset, "root": "/home/somebody/data", "image_size": 32}
        trial = {"dataset": dataset, "schedule": {"epochs": 24}, "precision": "float32"}
        return {
            "name": self.name,
            "trial": trial,
            "validation": {"scheme": "class_folds", "use": [0]},
            "tune_each": None,
        }

    def design(self) -> dict[str, Any]:
        cells = self.cells()
        at_level = {json.dumps(cell["levels"]): cell["cell"] for cell in cells if cell["variant"] == self.variants[0]}
        contrasts = [
            {"cell": cell["cell"], "against": at_level[json.dumps(cell["levels"])]}
            for cell in cells
            if cell["variant"] != self.variants[0]
        ]
        return {
            "name": self.name, "metric": self.metric, "mode": "max", "correction": "holm", "reference": cells[0]["cell"],
            "design": "grid", "seeds": self.seeds, "repeats": self.repeats,
            **({"folds": list(self.folds)} if self.folds_told else {}), "confirmatory": self.metric.startswith("test/"),
            "tuning": self.tuning, "tuned_for": self.tuned_for, "dataset": self.dataset, "closed_set": self.closed_set,
            "factors": {name: list(levels) for name, levels in self.factors.items()}, "variants": list(self.variants),
            "cells": cells, "contrasts": contrasts,
        }  # fmt: skip

    def write(self, folder: Path, uri: str | None = None) -> str:
        """Write everything into the store `uri`, a new one if there is none; the store's URI."""
        uri = uri or new_store(folder)
        spool = folder / f"spool-{self.name}"
        tracker = Tracker(uri, self.name, spool, deliver=False)
        tags = {
            "data_set": self.dataset,
            "version.ctxtune": "0.1.0",
            "hardware.gpus": "0",
            "hardware.cpu": "a processor",
        }
        tracker.start_run("ablation", name=self.name, kind="ablation", tags=tags)
        tracker.log_text("ablation", json.dumps(self.design()), "design.json")
        tracker.log_text("ablation", yaml.safe_dump(self.file()), "ablation.yaml")
        for cell in self.cells():
            if self.tuning == "each":
                self._search(tracker, str(cell["cell"]))
            for repeat, seed, fold in product(range(self.repeats), range(self.seeds), self.folds):
                begun = self.finished_folds is None or fold in self.finished_folds
                if begun and (self.finished_seeds is None or seed < self.finished_seeds):
                    self._run(tracker, cell, repeat, seed, fold)
        if self.finished_seeds is None:
            tracker.end_run("ablation", "completed")
        tracker.close(timeout=0)
        replay(spool)
        return uri

    def _run(self, tracker: Tracker, cell: Mapping[str, Any], repeat: int, seed: int, fold: str) -> None:
        name = str(cell["cell"])
        key = f"{zlib.crc32(name.encode()):08x}-repeat{repeat}-seed{seed}-fold{fold}"
        tags = {
            "cell": name,
            "variant": str(cell["variant"]),
            "seed_index": str(seed),
            "repeat": str(repeat),
            "fold": fold,
        }
        params = {"loss.k": "4", "optimizer.lr": "0.002"} if self.tuning == "each" else {}
        tracker.start_run(key, name=f"{name} seed {seed}", kind="cell", parent="ablation", tags=tags, params=params)
        if self.metric.startswith("test/"):
            record_test_scoring(tracker, key, self.dataset)
        if (name, seed) in self.failed:
            tracker.end_run(key, "failed", "non_finite: the loss is not finite at epoch 2")
            return
        split = self.metric.partition("/")[0]
        table = self.class_table(cell, repeat, seed, fold)
        score = sum(total for total, _ in table.values()) / sum(count for _, count in table.values())
        scores = {
            f"{split}/map_at_r": score,
            f"{split}/recall_at_1": min(1.0, score + 0.2),
            f"{split}/r_precision": score + 0.05,
        }
        tracker.log_metrics(key, {metric: 0.8 * value for metric, value in scores.items()}, 1)
        tracker.log_metrics(key, {**scores, "time/seconds": 60.0, "train/loss": 0.1}, 2)
        if self.classes_kept:
            tracker.log_text(key, json.dumps({f"{split}/map_at_r": table}), "per_class_scores.json")
        tracker.end_run(key, "completed")

    def _search(self, tracker: Tracker, cell: str) -> None:
        """Three trials of each repeat: the arm as it came 0.4, a better one 0.6, and one that failed."""
        for repeat in range(self.repeats):
            for trial, (rate, score) in enumerate((("0.01", 0.4), ("0.002", 0.6), ("0.1", None))):
                key = f"{zlib.crc32(cell.encode()):08x}-repeat{repeat}-trial{trial}"
                tags = {"cell": cell, "repeat": str(repeat), "trial": str(trial)}
                params = {"loss.k": "4", "optimizer.lr": rate}
                tracker.start_run(key, name=key, kind="cell_search", parent="ablation", tags=tags, params=params)
                if score is not None:
                    tracker.log_metrics(key, {"validation/map_at_r": score}, 1)
                tracker.end_run(key, "completed" if score is not None else "failed", "")

    def class_table(self, cell: Mapping[str, Any], repeat: int, seed: int, fold: str) -> dict[str, tuple[float, int]]:
        """Score sum and number of queries of each class of one run."""

        def draw(*key: Any) -> np.random.Generator:
            return np.random.default_rng(zlib.crc32(json.dumps(key).encode()))

        true = self.effect(str(cell["variant"]), cell["levels"])
        luck = draw("seed", repeat, seed, fold).normal(0, 0.01)
        own = draw("own", cell["cell"], repeat, seed, fold).normal(0, self.noise)
        classes = draw("classes", fold).normal(0, 0.05, CLASSES)
        peculiar = draw("peculiar", cell["variant"], fold).normal(0, 0.004, CLASSES)
        means = np.clip(true + luck + own + classes - classes.mean() + peculiar - peculiar.mean(), 0, 1)
        return {f"class {fold}-{index}": (float(mean * QUERIES), QUERIES) for index, mean in enumerate(means)}


SPACE: dict[str, Any] = {
    "name": "sweep",
    "trial": {
        "dataset": {"name": "cars196"},
        "schedule": {"epochs": 9},
        "evaluation": {"every": 1, "recall_at": [1, 2]},
    },
    "search": {
        "objective": {"metric": "validation/map_at_r", "mode": "max"},
        "space": {
            "optimizer.lr": {"loguniform": [1.0e-4, 1.0e-2]},
            "loss.k": {"choice": [2, 4, 8]},
            "loss.step": {"choice": ["heuristic", "sigmoid"]},
            "loss.name": {"fixed": "contextual"},
        },
        "scheduler": {"name": "asha", "grace_epochs": 1, "reduction_factor": 3},
    },
}


@dataclass
class FakeSweep:
    """What a sweep would have found: the score hangs on the learning rate (best at 0.001), a little on k."""

    name: str = "sweep"
    trials: int = 24
    confirmed: bool = True
    subsets: bool = True
    gain: float = 0.03
    state: str | None = "completed"
    seed: int = 0
    lost: Sequence[str] = ()
    shown: bool = False
    closed_set: bool = False

    def scores(self) -> list[tuple[dict[str, Any], list[float], str]]:
        """Point, scores by epoch and state of each trial; the last one failed."""
        generator = np.random.default_rng(self.seed)
        found: list[tuple[dict[str, Any], list[float], str]] = []
        for number in range(self.trials):
            rate = 10 ** generator.uniform(-4, -2)
            point = {"optimizer.lr": rate, "loss.k": int(generator.choice([2, 4, 8]))}
            point["loss.step"] = str(generator.choice(["heuristic", "sigmoid"]))
            end = 0.6 - 0.15 * (np.log10(rate) + 3) ** 2 - 0.004 * abs(point["loss.k"] - 4) + generator.normal(0, 0.002)
            curve = [float(end * (1 - 0.5 * np.exp(-epoch / 3))) for epoch in range(1, 10)]
            state = "completed" if end > 0.5 or number == 0 else "pruned"
            state = "failed" if number == self.trials - 1 else state
            found.append((point, curve if state == "completed" else curve[:1], state))
        return found

    def write(self, folder: Path, uri: str | None = None) -> str:
        """Write everything into the store `uri`, a new one if there is none; the store's URI."""
        uri = uri or new_store(folder)
        spool = folder / f"spool-{self.name}"
        tracker = Tracker(uri, self.name, spool, deliver=False)
        tracker.start_run("sweep", name=self.name, kind="sweep", tags={"data_set": "cars196", "hardware.gpus": "1"})
        trial = {**SPACE["trial"], "dataset": {"name": "cars196", "closed_set": self.closed_set}}
        tracker.log_text("sweep", yaml.safe_dump({**SPACE, "name": self.name, "trial": trial}), "space.yaml")
        for number, (point, curve, state) in enumerate(self.scores()):
            key = f"trial-{number:04d}"
            tracker.start_run(key, name=key, kind="trial", parent="sweep", params=point, tags={"arm": key})
            for epoch, score in enumerate(curve, 1):
                metrics = {"validation/map_at_r": score, "time/seconds": 60.0 * epoch, "gpu/memory_gib": 9.0}
                metrics |= {"cost/gpu_hours": 0.5 * epoch / 60, "cost/money": 1.5 * epoch / 60}
                tracker.log_metrics(key, metrics, epoch)
            tracker.end_run(key, state, "out_of_memory: 24 GiB were not enough" if state == "failed" else "")
        if self.confirmed:
            self._stages(tracker)
        if self.state:
            tracker.end_run("sweep", self.state)
        tracker.close(timeout=0)
        replay(spool)
        return uri

    @property
    def best(self) -> str:
        """The best completed trial."""
        ended = [(curve[-1], number) for number, (_, curve, state) in enumerate(self.scores()) if state == "completed"]
        return f"trial-{max(ended)[1]:04d}"

    def test_scores(self, arm: str) -> list[float]:
        """Test MAP@R of an arm over three seeds."""
        luck = np.random.default_rng(7).normal(0, 0.01, 3)
        own = np.random.default_rng(self.seed + len(arm)).normal(0, 0.002, 3)
        return [float(value) for value in 0.4 + luck + own + (0.0 if arm == "start" else self.gain)]

    def shown_queries(self, arm: str) -> tuple[ShownQuery, ...]:
        """Two queries with three neighbors: of the start's one is right, of the chosen one's two."""
        right = 1 if arm == "start" else 2
        return tuple(
            ShownQuery(
                row=row,
                class_name=f"<car {row}>",
                picture=embedded_image(Image.new("RGB", (70, 70), (row, 0, 0)), "query"),
                found=tuple(
                    RetrievedImage(
                        class_name="car", similarity=0.9, right=place < right,
                        picture=None if place == 2 else embedded_image(Image.new("RGB", (70, 70), (row, place, 9)), "car"),
                    )
                    for place in range(3)
                ),
            )
            for row in (4, 7)
        )  # fmt: skip

    def _stages(self, tracker: Tracker) -> None:
        for arm in (self.best, "start"):
            for fold in range(2):
                key = f"selection-{arm}-fold{fold}"
                tracker.start_run(key, name=key, kind="selection", parent="sweep", tags={"arm": arm})
                score = (0.58 if arm != "start" else 0.5) + 0.01 * fold
                tracker.log_metrics(key, {"validation/map_at_r": score, "time/seconds": 600.0}, 9)
                tracker.end_run(key, "completed")
            for seed, score in enumerate(self.test_scores(arm)):
                key = f"confirmation-{arm}-seed{seed}"
                tags = {"arm": arm, "seed_index": str(seed)}
                tracker.start_run(key, name=key, kind="confirmation", parent="sweep", tags=tags)
                record_test_scoring(tracker, key, "cars196")
                if key in self.lost:
                    tracker.end_run(key, "failed", "not_finite: the loss is not finite at epoch 2")
                    continue
                metrics = {
                    "test/map_at_r": score,
                    "test/recall_at_1": score + 0.4,
                    "floor/map_at_r": 0.02,
                    "floor/recall_at_1": 0.1,
                }
                metrics |= {"test_subset/map_at_r": score + 0.12} if self.subsets else {}
                tracker.log_metrics(key, {**metrics, "time/seconds": 900.0}, 9)
                if self.shown and seed == 0:
                    tracker.log_text(key, to_json(self.shown_queries(arm)), SHOWN_QUERIES_FILE)
                tracker.end_run(key, "completed")


def write_without_figures(uri: str, folder: Path, name: str = "ablation") -> ReportFiles:
    """The report of an ablation without its figures, which take most of its time."""
    document = ablation_document(read_ablation(read_study(uri, name)))
    sections = [
        replace(section, items=[item for item in section.items if not isinstance(item, Picture)])
        for section in document.sections
    ]
    return write_document(replace(document, sections=sections), folder)
