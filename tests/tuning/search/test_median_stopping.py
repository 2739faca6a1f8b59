"""The median rule, against Ray Tune's own for any curves that come in any order."""

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as some
from ray.tune.schedulers import MedianStoppingRule

from ctxtune.tuning.search.median_stopping import MedianStopping

SCORES = some.one_of(some.integers(0, 1024).map(lambda number: number / 1024), some.sampled_from([0.25, 0.5]))
"""Their sums are exact: of 0.1, 0.1 and 0.1 numpy's mean is more than 0.1, and Ray stops a trial for that."""


class NobodyWaits:
    """What Ray's rule asks its controller for."""

    def get_live_trials(self) -> list[object]:
        return []


class Trial(str):
    """What Ray's rule asks of a trial: to be a key, and its name for the log."""

    @property
    def trial_id(self) -> str:
        return self


@given(
    mode=some.sampled_from(["max", "min"]),
    grace=some.integers(1, 5),
    reports=some.lists(some.tuples(some.integers(0, 8), some.sampled_from([1, 1, 1, 2, 3]), SCORES), max_size=120),
)
def test_decides_as_rays(mode, grace, reports):
    ours = MedianStopping(mode=mode, grace_epochs=grace)
    rays = MedianStoppingRule("epoch", "score", mode, grace_period=grace)
    epochs, stopped = Counter(), set()
    for number, later, score in reports:
        trial = Trial(number)
        if trial in stopped:
            continue
        epochs[trial] += later
        told = rays.on_trial_result(NobodyWaits(), trial, {"epoch": epochs[trial], "score": score})
        assert ours.stops(trial, epochs[trial], score) == (told == "STOP"), (trial, epochs[trial])
        if told == "STOP":
            stopped.add(trial)


def test_what_a_resumed_trial_reports_again_counts_once():
    rule = MedianStopping(mode="max", grace_epochs=1)
    for number, score in enumerate((0.2, 0.4, 0.6)):
        assert not any(rule.stops(f"trial-{number}", epoch, score) for epoch in (1, 1, 1))
    assert rule.stops("poor", 1, 0.3) and not rule.stops("poor", 1, 0.3)
    assert not rule.stops("good", 1, 0.5)


def test_a_score_that_is_not_a_number_stops_no_other():
    rule = MedianStopping(mode="max", grace_epochs=1)
    for number in range(4):
        assert not rule.stops(f"trial-{number}", 1, math.nan)
    assert not rule.stops("trial-4", 1, 0.1)
