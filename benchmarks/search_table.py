"""The recorded space of `record_search_tables.py`, its tables as a file, and a surrogate for every other point of it."""

from __future__ import annotations

import json
import math
import os
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ctxtune.config import SweepConfig, load_search_space

HERE = Path(__file__).resolve().parent
TABLES = HERE / "search_tables.npz"
METRIC = "validation/map_at_r"
EPOCHS = 9
REPEATED = 64
"""So many configurations are recorded under a second seed."""
Floats = npt.NDArray[np.floating[Any]]

DIMENSIONS: dict[str, dict[str, list[Any]]] = {
    "optimizer.lr": {"loguniform": [1.0e-4, 3.0e-2]},
    "optimizer.weight_decay": {"loguniform": [1.0e-5, 1.0e-1]},
    "loss.contextual_weight": {"uniform": [0.1, 1.0]},
    "loss.epsilon": {"loguniform": [0.005, 0.5]},
    "loss.positive_margin": {"uniform": [0.5, 0.95]},
    "loss.negative_margin": {"uniform": [0.1, 0.7]},
    "regularizer.weight": {"loguniform": [0.01, 1.0]},
    "loss.k": {"choice": [2, 4, 8]},
    "loss.overlap": {"choice": ["both", "shared", "none"]},
}
"""The space as a user would write it; `sampler.images_per_class` is tied to `loss.k`."""
_HEAD = [
    "trial.schedule.epochs=9",
    "trial.sampler.batch_size=48",
    "trial.sampler.batches_per_epoch=6",
    "trial.model.embedding_dim=64",
    "trial.evaluation={every: 1, recall_at: [1]}",
]
TASKS: dict[str, list[str]] = {
    "photographs": [],
    "omniglot": [
        "trial.dataset={name: omniglot, root: " + os.environ.get("CTXTUNE_DATA", "data") + "/omniglot, image_size: 64}",
        "trial.image={train_crop: 64, test_resize: null, test_crop: null, views: null}",
    ],
    "noisy_labels": ["trial.dataset.label_noise=0.3"],
}
"""What each task changes in `search_spaces/grocery.yaml`."""


def search_space(task: str, **search: Any) -> SweepConfig:
    """The grocery space with the recorded dimensions; ``search`` overrides entries of its `search` block."""
    search = {"start_from": [], **search}
    overrides = [*_HEAD, *TASKS[task], f"search.space={json.dumps(DIMENSIONS)}"]
    overrides += [f"search.{key}={json.dumps(value)}" for key, value in search.items()]
    return load_search_space(HERE.parent / "search_spaces" / "grocery.yaml", overrides)


def from_unit_cube(row: Floats) -> dict[str, Any]:
    """The point of the space at a place of the unit cube."""
    point: dict[str, Any] = {}
    for (path, dimension), place in zip(DIMENSIONS.items(), row, strict=True):
        kind, arguments = next(iter(dimension.items()))
        if kind == "choice":
            point[path] = arguments[min(int(place * len(arguments)), len(arguments) - 1)]
            continue
        low, high = (math.log(bound) if kind == "loguniform" else bound for bound in arguments)
        value = low + float(place) * (high - low)
        point[path] = float(f"{math.exp(value) if kind == 'loguniform' else value:.5g}")
    return point


@dataclass(frozen=True)
class Table:
    """What was recorded on one task.

    Attributes:
        values: (n, dimensions), in the order of `DIMENSIONS`; of a choice its place in the list.
        curves: (n, EPOCHS) scores; not a number from where a run failed.
        repeats: (m, 2, EPOCHS) scores of m configurations under two seeds.
    """

    values: Floats
    curves: Floats
    repeats: Floats


def write_tables(tables: Mapping[str, Table], path: Path = TABLES) -> None:
    """Write all tables as one file."""
    arrays = {f"{name}/{part}": value for name, table in tables.items() for part, value in vars(table).items()}
    np.savez_compressed(path, **arrays)


def read_tables(path: Path = TABLES) -> dict[str, Table]:
    """The tables by task."""
    with np.load(path) as file:
        names = dict.fromkeys(key.rpartition("/")[0] for key in file.files)
        return {
            name: Table(*(file[f"{name}/{part}"].astype(np.float64) for part in ("values", "curves", "repeats")))
            for name in names
        }


class Surrogate:
    """A learning curve for any point of the space: what a model of the table says, and how rough the table is.

    The model is a Gaussian process (Matern 5/2, a length scale for each dimension, fitted to the last epoch), or with
    ``trees`` a forest of randomized trees, of all epochs at once. To its curve is added the cross-validated residual of a
    recorded configuration, the same one whenever the same point is asked for: trials share a seed, so that a point has
    one curve.
    """

    def __init__(self, table: Table, *, trees: bool = False, folds: int = 5) -> None:
        from sklearn.model_selection import KFold

        whole = np.isfinite(table.curves).all(1)
        inputs, self.recorded = encoded(table.values[whole]), table.curves[whole]
        self._mean, self._deviation = self.recorded.mean(0), self.recorded.std(0)
        targets = (self.recorded - self._mean) / self._deviation
        fit = _forest if trees else _gaussian_process(inputs, targets)
        self.cross_validated = np.empty_like(targets)
        for learned, held_out in KFold(folds, shuffle=True, random_state=0).split(inputs):
            self.cross_validated[held_out] = fit(inputs[learned], targets[learned])(inputs[held_out])
        self.cross_validated = self.cross_validated * self._deviation + self._mean
        self._residuals = self.recorded - self.cross_validated
        self._predict = fit(inputs, targets)

    def curve(self, point: Mapping[str, Any]) -> Floats:
        """The scores that a trial of a point reports, epoch by epoch."""
        drawn = zlib.crc32(repr([point[path] for path in DIMENSIONS]).encode()) % len(self._residuals)
        scores: Floats = self.expected(point) + self._residuals[drawn]
        return scores

    def expected(self, point: Mapping[str, Any]) -> Floats:
        """The same without chance."""
        scores: Floats = self.expected_of_all([point])[0]
        return scores

    def expected_of_all(self, points: Sequence[Mapping[str, Any]]) -> Floats:
        """The same of many points: (n, EPOCHS)."""
        rows = [
            [dim["choice"].index(point[path]) if "choice" in dim else point[path] for path, dim in DIMENSIONS.items()]
            for point in points
        ]
        scores: Floats = self._predict(encoded(np.array(rows, np.float64))) * self._deviation + self._mean
        return scores


def encoded(values: Floats) -> Floats:
    """Points as a model sees them: ranges from 0 to 1, a column for each choice."""
    columns = []
    for column, dimension in zip(values.T, DIMENSIONS.values(), strict=True):
        kind, arguments = next(iter(dimension.items()))
        if kind == "choice":
            columns += [(column == place).astype(np.float64) for place in range(len(arguments))]
            continue
        low, high, places = (np.log(each) if kind == "loguniform" else each for each in (*arguments, column))
        columns.append((places - low) / (high - low))
    return np.stack(columns, axis=1)


Predict = Callable[[Floats], Floats]


def _gaussian_process(inputs: Floats, targets: Floats, most: int = 500) -> Callable[[Floats, Floats], Predict]:
    """A fit whose kernel was found on some of the table."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    scales = np.ones(inputs.shape[1])
    kernel = ConstantKernel() * Matern(scales, (0.05, 50.0), nu=2.5) + WhiteKernel(0.1, (1e-3, 1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a dimension that does not matter: a scale at its bound
        found = GaussianProcessRegressor(kernel, random_state=0).fit(inputs[:most], targets[:most, -1]).kernel_
    variance, lengths, noise = found.k1.k1.constant_value, found.k1.k2.length_scale, found.k2.noise_level

    def covariance(left: Floats, right: Floats) -> Floats:
        squared = ((left[:, None] - right[None]) ** 2 / lengths**2).sum(-1) if len(left) == 1 else _squared(left, right)
        far = np.sqrt(5.0 * np.maximum(squared, 0.0))
        values: Floats = variance * (1.0 + far + far**2 / 3.0) * np.exp(-far)
        return values

    def _squared(left: Floats, right: Floats) -> Floats:
        left, right = left / lengths, right / lengths
        values: Floats = (left**2).sum(1)[:, None] + (right**2).sum(1)[None] - 2.0 * left @ right.T
        return values

    def fit(inputs: Floats, targets: Floats) -> Predict:
        weights = np.linalg.solve(covariance(inputs, inputs) + noise * np.eye(len(inputs)), targets)
        return lambda points: covariance(points, inputs) @ weights

    return fit


def _forest(inputs: Floats, targets: Floats) -> Predict:
    from sklearn.ensemble import ExtraTreesRegressor

    forest = ExtraTreesRegressor(100, min_samples_leaf=2, max_features=0.7, random_state=0).fit(inputs, targets)
    trees = [tree.tree_ for tree in forest.estimators_]

    def predict(points: Floats) -> Floats:
        rows = np.ascontiguousarray(points, np.float32)
        means: Floats = np.mean([tree.predict(rows)[:, :, 0] for tree in trees], axis=0)
        return means

    return predict
