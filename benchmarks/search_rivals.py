"""Searches of other libraries for `benchmarks/search.py`; none is needed to install or test the package.

Install what is to be compared into a folder of its own and put that on PYTHONPATH:

    python -m pip install --no-deps --target FOLDER hpbandster ConfigSpace more-itertools statsmodels \
        patsy Pyro4 serpent netifaces  # BOHB
    python -m pip install --no-deps --target FOLDER HEBO "pymoo<0.6.2" gpytorch linear_operator jaxtyping \
        wadler_lindig disjoint-set moocore cffi pycparser alive_progress about_time grapheme  # HEBO

All are stopped by this package's rungs, so that only who suggests differs.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
from search_methods import Ours
from search_table import DIMENSIONS

NEEDS = {
    "BOHB's sampler + ASHA": ("hpbandster", "ConfigSpace", "statsmodels"),
    "HEBO + ASHA": ("hebo",),
}
"""What a search of that name imports."""


def missing(name: str) -> list[str]:
    """The libraries that a search needs and that are not installed."""
    return [library for library in NEEDS.get(name, ()) if importlib.util.find_spec(library) is None]


class Rival(Ours):
    """Another library's suggestions under this package's rungs. It knows nothing of constraints."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, sampler="random")
        self._points: dict[str, dict[str, Any]] = {}

    def ask(self, key: str) -> dict[str, Any]:
        self._points[key] = self.suggest()
        return self._points[key]

    def goes_on(self, key: str, epoch: int, score: float) -> bool:
        self.learn(self._points[key], epoch, score)
        return self.passes(key, epoch, score)

    def end(self, key: str, state: str, epoch: int, score: float | None) -> None:
        if state == "failed":
            self.learn(self._points[key], epoch, -np.inf)
        del self._points[key]

    def suggest(self) -> dict[str, Any]:
        raise NotImplementedError

    def learn(self, point: dict[str, Any], epoch: int, score: float) -> None:
        raise NotImplementedError


class BOHB(Rival):
    """BOHB's sampler, hpbandster's: densities of good and of poor points, of as many epochs as have enough of both."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        from hpbandster.optimizers.config_generators.bohb import BOHB as Generator

        np.random.seed(seed)  # what it draws from
        logging.getLogger("hpbandster").setLevel(logging.CRITICAL)
        self._generator = Generator(configspace=_config_space(seed))

    def suggest(self) -> dict[str, Any]:
        values, _ = self._generator.get_config(None)
        return {path: _plain(values[path]) for path in DIMENSIONS}

    def learn(self, point: dict[str, Any], epoch: int, score: float) -> None:
        kwargs = {"budget": epoch, "config": point}
        self._generator.new_result(SimpleNamespace(result={"loss": -score}, kwargs=kwargs, exception=None))


def _config_space(seed: int) -> Any:
    """The space for hpbandster, which calls ConfigSpace by names that it had before version 1."""
    import ConfigSpace
    from ConfigSpace.api.types import categorical, float

    class Space(ConfigSpace.ConfigurationSpace):
        def get_hyperparameters(self) -> list[Any]:
            return list(self.values())

        def get_hyperparameter(self, name: str) -> Any:
            return self[name]

        def get_hyperparameter_by_idx(self, index: int) -> str:
            return self.at[index]

    ConfigSpace.Configuration.get_dictionary = lambda self: dict(self)
    space = Space(seed=seed)
    for name, dimension in DIMENSIONS.items():
        kind, arguments = next(iter(dimension.items()))
        if kind == "choice":
            space.add(categorical.Categorical(name, arguments))
        else:
            space.add(float.Float(name, tuple(arguments), log=kind == "loguniform"))
    return space


class HEBO(Rival):
    """HEBO (heteroscedastic evolutionary Bayesian optimization); of each trial it knows its last score, and runs count too."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        import torch
        from hebo.design_space.design_space import DesignSpace
        from hebo.optimizers.hebo import HEBO as Optimizer

        np.random.seed(seed)
        torch.manual_seed(seed)
        self._make = lambda: Optimizer(DesignSpace().parse(_design_space()), rand_sample=10, scramble_seed=seed)
        self._started = self._make()
        self._known: dict[tuple[Any, ...], float] = {}

    def suggest(self) -> dict[str, Any]:
        import pandas as pd

        optimizer = self._started
        if len(self._known) >= 10:
            optimizer = self._make()
            points = pd.DataFrame(list(self._known), columns=list(DIMENSIONS))
            optimizer.observe(points, -np.array(list(self._known.values()))[:, None])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = optimizer.suggest().iloc[0]
        return {path: _plain(found[path]) for path in DIMENSIONS}

    def learn(self, point: dict[str, Any], epoch: int, score: float) -> None:
        finite = score if np.isfinite(score) else min(self._known.values(), default=0.0)
        self._known[tuple(point[path] for path in DIMENSIONS)] = finite


def _design_space() -> list[dict[str, Any]]:
    kinds = {"uniform": "num", "loguniform": "pow"}
    return [
        {"name": name, "type": "cat", "categories": arguments}
        if kind == "choice"
        else {"name": name, "type": kinds[kind], "lb": arguments[0], "ub": arguments[1]}
        for name, dimension in DIMENSIONS.items()
        for kind, arguments in dimension.items()
    ]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
