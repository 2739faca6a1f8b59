"""Successive halving, against Ray Tune's own for any order of any reports."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from ray.tune.schedulers import AsyncHyperBandScheduler

from ctxtune.tuning.search.successive_halving import SuccessiveHalving, quantile

SCORES = some.one_of(some.floats(0, 1), some.sampled_from([0.25, 0.5, math.nan, math.inf, -math.inf]))


@dataclass(frozen=True)
class Trial:
    """What Ray's scheduler asks of a trial."""

    trial_id: str


@given(
    mode=some.sampled_from(["max", "min"]),
    grace=some.integers(1, 4),
    longest=some.integers(4, 30),
    factor=some.sampled_from([2, 3, 4, 2.5]),
    reports=some.lists(some.tuples(some.integers(0, 30), some.integers(1, 31), SCORES), max_size=120),
)
@pytest.mark.filterwarnings("ignore:All-NaN slice", "ignore:invalid value")
def test_decides_as_rays(mode, grace, longest, factor, reports):
    ours = SuccessiveHalving(mode=mode, grace_epochs=grace, max_epochs=longest, reduction_factor=factor)
    rays = AsyncHyperBandScheduler("epoch", "score", mode, max_t=longest, grace_period=grace, reduction_factor=factor)
    for number, epoch, score in reports:
        rays.on_trial_add(None, Trial(str(number)))
        expected = rays.on_trial_result(None, Trial(str(number)), {"epoch": epoch, "score": score})
        assert ours.stops(str(number), epoch, score) == (expected == "STOP")


@given(numbers=some.lists(some.floats(-1e9, 1e9), min_size=1, max_size=50), factor=some.sampled_from([2, 3, 4, 7]))
def test_quantiles_are_numpys_to_the_bit(numbers, factor):
    share = (1 - 1 / factor) * 100 / 100
    assert quantile(sorted(numbers), share) == np.nanpercentile(numbers, (1 - 1 / factor) * 100)
