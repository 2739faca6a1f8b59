"""Cheaper trials: what `search.schedule`, `search.images` and `search.crop` make of a configuration, and what they refuse."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxtune.config import load_search_space, resolve_trial, start_points
from ctxtune.config.fidelity import shortened
from ctxtune.errors import ConfigError
from ctxtune.training.optimization import learning_rate_factor


def cars(repository, *overrides: str):
    return load_search_space(repository / "search_spaces/cars.yaml", overrides)


def test_a_short_trial_has_the_learning_rates_of_the_full_one_at_each_share_of_its_length(repository):
    space = cars(repository, "search.schedule={epochs: 40}", "search.scheduler.grace_epochs=2")
    full = resolve_trial(space, next(iter(start_points(space).values())))
    short = space.search_trial(full)
    assert (short.schedule.epochs, short.schedule.step_epochs, short.evaluation.every) == (40, 5, 2)
    for share in (0.0, 0.2, 0.4, 0.7, 0.99):
        assert learning_rate_factor(short.schedule, 40 * share) == learning_rate_factor(full.schedule, 160 * share)
    same = {"loss", "model", "image", "optimizer", "sampler", "dataset"}
    assert short.model_dump(include=same) == full.model_dump(include=same)
    assert space.search_epochs == 40


@given(epochs=st.integers(2, 160), warmup=st.integers(0, 30), crop=st.integers(32, 224), images=st.floats(0.05, 0.95))
def test_every_cheaper_form_is_sound_and_no_longer(repository, epochs, warmup, crop, images):
    full = cars(repository, f"trial.schedule.warmup_epochs={warmup}", "trial.schedule.head_warmup_epochs=1").trial
    short = shortened(full, epochs=epochs, crop=crop, images=images)
    assert short.schedule.epochs == epochs and short.schedule.warmup_epochs < epochs
    assert (short.schedule.warmup_epochs > 0) == (warmup > 0)
    assert short.image.train_crop == crop <= full.image.train_crop
    assert 1 - short.dataset.withheld_classes == pytest.approx(images, abs=1e-5)


def test_milestones_sizes_and_a_fixed_number_of_batches_scale_along(repository):
    space = cars(
        repository, "trial.schedule={name: multistep, epochs: 80, milestones: [15, 30, 45]}", "trial.evaluation.every=5",
        "trial.image.train_resize=[256, 256]", "trial.sampler.batches_per_epoch=31", "trial.dataset.withheld_classes=0.2",
        "search.schedule={epochs: 20}", "search.crop=112", "search.images=0.5", "search.scheduler.grace_epochs=2",
    )  # fmt: skip
    short = space.search_trial(space.trial)
    assert short.schedule.milestones == (4, 8, 11) and short.evaluation.every == 1
    image = short.image
    assert (image.train_crop, image.test_crop, image.test_resize, image.train_resize) == (112, 112, 128, (128, 128))
    assert short.sampler.batches_per_epoch == 16
    assert short.dataset.withheld_classes == pytest.approx(0.6)  # half of the 0.8 that are there


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["search.schedule={epochs: 161}"], "above the 160 epochs"),
        (["search.crop=256"], r"search.crop \(256\) is above trial.image.train_crop \(224\)"),
        (["search.images=1.5"], "a number below 1"),
        (["search.schedule={epochs: 40}", "search.scheduler.grace_epochs=3"], r"evaluation.every \(2, scaled by search"),
        (["search.crop=128", "search.space.image.train_crop={choice: [192, 224]}"], "search.crop changes image.train_crop"),
        (["search.schedule={epochs: 40}", "search.scheduler.name=none", "search.space.schedule.epochs={int: [20, 40]}"],
         "search.schedule changes schedule.epochs"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(repository, overrides, words):
    with pytest.raises(ConfigError, match=words):
        cars(repository, *overrides)
