"""What Ray Tune is kept from doing for every trial, only while a stage runs."""

import pytest
from ray.tune.execution.tune_controller import TuneController
from ray.tune.registry import TRAINABLE_CLASS, _Registry

from ctxtune.tuning.backend.ray_internals import thrifty_tune


def test_a_trainable_is_fetched_once_and_an_unknown_one_is_still_missing():
    registry = _Registry(prefix="test")
    registry.register(TRAINABLE_CLASS, "known", {"some": "class"})
    assert registry.get(TRAINABLE_CLASS, "known") is not registry.get(TRAINABLE_CLASS, "known")
    with thrifty_tune():
        assert registry.contains(TRAINABLE_CLASS, "known")
        assert registry.get(TRAINABLE_CLASS, "known") is registry.get(TRAINABLE_CLASS, "known") == {"some": "class"}
        registry.register(TRAINABLE_CLASS, "late", 1)
        assert registry.contains(TRAINABLE_CLASS, "late")
        assert not registry.contains(TRAINABLE_CLASS, "unknown")


def test_a_ray_that_has_no_such_function_is_left_alone(monkeypatch):
    monkeypatch.delattr(TuneController, "_get_trial_checkpoints")
    with thrifty_tune():
        assert not hasattr(TuneController, "_get_trial_checkpoints")


def test_tune_is_as_it_was_afterwards_also_after_an_error():
    before = (TuneController._get_trial_checkpoints, _Registry.get, _Registry.contains)
    with pytest.raises(RuntimeError), thrifty_tune():
        assert TuneController._get_trial_checkpoints is not before[0]
        raise RuntimeError
    assert before == (TuneController._get_trial_checkpoints, _Registry.get, _Registry.contains)
