"""The density of trials along one dimension: a kernel on each of them, and one over the whole dimension as the prior."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from scipy.special import ndtr, ndtri

ALIKE = 25
"""Of more trials than these, the older count the less, in equal steps down to almost nothing."""
NARROWEST = 100.0
"""No kernel is narrower than this part of the dimension."""
_NORMAL = math.sqrt(2 * math.pi)
_TINY = 1e-300


class Density(Protocol):
    """Of values in Optuna's internal representation: numbers as they are, choices by their place."""

    def draw(self, random: np.random.RandomState, count: int) -> np.ndarray:
        """Values, [count], of this density."""

    def log_density(self, values: np.ndarray) -> np.ndarray:
        """Of values, [n], the logarithm of the density (of the probability, where values are counted), [n]."""


def density_of(observed: np.ndarray, distribution: BaseDistribution) -> Density:
    """The density of what was observed in a dimension, [n], the oldest first, as Optuna's TPE estimates it (Bergstra et al.
    2011, Algorithms for Hyper-Parameter Optimization, section 4; Watanabe 2023, arXiv:2304.11127, sections 3.2 to 3.4)."""
    weights = np.append(_weights(len(observed)), 1.0)
    weights /= weights.sum()
    if isinstance(distribution, CategoricalDistribution):
        return _Choices.around(observed.astype(int), weights, len(distribution.choices))
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    return _Numbers.around(observed, weights, distribution)


def _weights(count: int) -> np.ndarray:
    if count < ALIKE:
        return np.ones(count)
    return np.concatenate([np.linspace(1 / count, 1, num=count - ALIKE), np.ones(ALIKE)])


@dataclass(frozen=True)
class _Choices:
    """Each observation's own choice is likelier than the others; ``kernels``: their probabilities, [n + 1, choices]."""

    weights: np.ndarray
    kernels: np.ndarray

    @classmethod
    def around(cls, observed: np.ndarray, weights: np.ndarray, choices: int) -> "_Choices":
        kernels = np.full((len(weights), choices), 1 / len(weights))
        kernels[np.arange(len(observed)), observed] += 1
        return cls(weights, kernels / kernels.sum(1, keepdims=True))

    def draw(self, random: np.random.RandomState, count: int) -> np.ndarray:
        chosen = random.choice(len(self.weights), p=self.weights, size=count)
        cumulated = np.cumsum(self.kernels[chosen], axis=1)
        cumulated[:, -1] = 1.0
        return np.asarray((cumulated < random.rand(count)[:, None]).sum(1))

    def log_density(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(np.log(self.weights @ self.kernels)[values.astype(int)])


@dataclass(frozen=True)
class _Numbers:
    """Normal kernels, cut off at the ends of the dimension.

    In the logarithm of the numbers, if the dimension is logarithmic. With a step each number stands for the numbers up to
    half a step away, and its density is their probability.
    """

    weights: np.ndarray
    centers: np.ndarray
    widths: np.ndarray
    distribution: FloatDistribution | IntDistribution
    low: float
    high: float

    @classmethod
    def around(
        cls, observed: np.ndarray, weights: np.ndarray, distribution: FloatDistribution | IntDistribution
    ) -> "_Numbers":
        half = (distribution.step or 0.0) / 2
        low, high = distribution.low - half, distribution.high + half
        if distribution.log:
            observed, low, high = np.log(observed), math.log(low), math.log(high)
        centers = np.append(observed, (low + high) / 2)
        widths = np.append(_widths(observed, low, high), high - low)
        return cls(weights, centers, widths, distribution, low, high)

    def draw(self, random: np.random.RandomState, count: int) -> np.ndarray:
        chosen = random.choice(len(self.weights), p=self.weights, size=count)
        center, width = self.centers[chosen], self.widths[chosen]
        below, inside = ndtr((self.low - center) / width), _mass(self.low, self.high, center, width)
        drawn = np.clip(ndtri(below + random.uniform(size=count) * inside) * width + center, self.low, self.high)
        if self.distribution.log:
            drawn = np.exp(drawn)
        if (step := self.distribution.step) is not None:
            drawn = self.distribution.low + np.round((drawn - self.distribution.low) / step) * step
        return np.asarray(np.clip(drawn, self.distribution.low, self.distribution.high))

    def log_density(self, values: np.ndarray) -> np.ndarray:
        distinct, place = np.unique(values, return_inverse=True)
        half = (self.distribution.step or 0.0) / 2
        ends = distinct[:, None] + (-half, half)
        start, end = (np.log(ends) if self.distribution.log else ends).T[:, :, None]
        if half:
            weights, centers, widths = self._distinct_kernels()
            density = _mass(start, end, centers, widths)
        else:
            weights, centers, widths = self.weights, self.centers, self.widths
            density = np.exp(((start - centers) / widths) ** 2 / -2) / (widths * _NORMAL)
        inside = np.maximum(_mass(self.low, self.high, centers, widths), _TINY)
        return np.asarray(np.log(density @ (weights / inside))[place])

    def _distinct_kernels(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where numbers are counted many trials share one, and so a kernel: weights, centers and widths."""
        kernels, place = np.unique(self.centers + 1j * self.widths, return_inverse=True)
        return np.bincount(place, self.weights), kernels.real, kernels.imag


def _widths(centers: np.ndarray, low: float, high: float) -> np.ndarray:
    """The distance to the farther of the two neighbors, [n]; for the first and the last trial of several, to its only one."""
    order = np.argsort(centers)
    gaps = np.diff(centers[order], prepend=low, append=high)
    if len(centers) > 1:
        gaps[0], gaps[-1] = gaps[1], gaps[-2]
    widths = np.empty(len(centers))
    widths[order] = np.maximum(gaps[:-1], gaps[1:])
    narrowest = (high - low) / min(NARROWEST, len(centers) + 2)
    return np.asarray(np.clip(widths, narrowest, high - low))


def _mass(start: float | np.ndarray, end: float | np.ndarray, center: np.ndarray, width: np.ndarray) -> np.ndarray:
    """The probability between two points of a normal distribution that is not cut off, from its thinner tail."""
    first, last = (start - center) / width, (end - center) / width
    flipped = np.where(first > 0, -1.0, 1.0)
    return np.asarray(np.abs(ndtr(flipped * last) - ndtr(flipped * first)))
