"""Label and image noise, withheld classes and images: exact shares, repeatable, on the given part only."""

import numpy as np
import pytest
from pydantic import ValidationError

from ctxtune.data import DatasetSettings, SamplerSettings, build_sampler, corrupt
from ctxtune.data.sources import FolderSource
from ctxtune.data.split import make_split
from ctxtune.errors import DataError


def split_of(classes=20, images=10, supers=4):
    labels = np.repeat(np.arange(classes) * 3 + 5, images)
    super_labels = np.repeat(np.arange(classes) % supers, images) if supers else None
    paths = [f"{label}/{index}.jpg" for index, label in enumerate(labels)]
    return make_split("made/train", FolderSource("."), paths, labels, super_labels)


def spoiled(split, seed=0, **options):
    return corrupt(split, DatasetSettings(name="class_folders", **options), seed)


def test_nothing_asked_is_nothing_done():
    split = split_of()
    assert spoiled(split) is split


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_label_noise_changes_exactly_its_share_to_other_classes(share):
    split = split_of()
    noisy = spoiled(split, label_noise=share)
    changed = noisy.labels != split.labels
    assert changed.sum() == round(share * 200)
    assert set(noisy.labels) <= set(split.labels)
    assert np.array_equal(noisy.rows, split.rows)
    super_of = dict(zip(split.labels, split.super_labels, strict=True))
    assert [super_of[label] for label in noisy.labels] == noisy.super_labels.tolist()
    assert split.notes == {} and noisy.notes["label_noise"] == share and noisy.notes["corruption_seed"] == 0


def test_uniform_label_noise_is_uniform_over_the_other_classes():
    split = split_of(classes=6, images=5000, supers=0)
    noisy = spoiled(split, label_noise=0.8)
    counts = np.zeros((6, 6))
    np.add.at(counts, ((split.labels - 5) // 3, (noisy.labels - 5) // 3), 1)
    off_diagonal = counts[~np.eye(6, dtype=bool)]
    assert abs(off_diagonal / 5000 - 0.16).max() < 5 * np.sqrt(0.16 * 0.84 / 5000)


@pytest.mark.parametrize("supers", [0, 4])
def test_confusable_label_noise_sends_each_class_to_one_other(supers):
    split = split_of(supers=supers)
    noisy = spoiled(split, label_noise=0.5, label_noise_kind="confusable")
    changed = noisy.labels != split.labels
    assert changed.sum() == 100
    targets = {label: set(noisy.labels[changed & (split.labels == label)]) for label in set(split.labels)}
    assert all(len(found) <= 1 for found in targets.values())
    if supers:
        assert np.array_equal(noisy.super_labels, split.super_labels)


def test_image_noise_replaces_images_by_those_of_other_classes():
    split = split_of()
    noisy = spoiled(split, image_noise=0.3)
    changed = noisy.rows != split.rows
    assert changed.sum() == 60
    assert np.array_equal(noisy.labels, split.labels)
    assert (split.labels[noisy.rows[changed]] != split.labels[changed]).all()
    assert noisy.path(int(np.flatnonzero(changed)[0])).split("/")[0] != str(noisy.labels[changed][0])


def test_withheld_classes_and_images():
    split = split_of()
    fewer = spoiled(split, withheld_classes=0.25)
    assert len(fewer.classes()) == 15 and len(fewer) == 150
    thinner = spoiled(split, withheld_images=0.4)
    assert len(thinner) == 120 and len(thinner.classes()) == 20
    assert len(spoiled(split, withheld_images=0.99)) == 20  # one image of each class stays
    with pytest.raises(DataError, match=r"withheld_classes 0\.99 leaves 0 of 20 classes"):
        spoiled(split, withheld_classes=0.99)


def test_all_at_once_is_a_function_of_the_seed_alone():
    split = split_of()
    options = {"label_noise": 0.2, "image_noise": 0.1, "withheld_classes": 0.1, "withheld_images": 0.2}
    one, again, other = (spoiled(split, seed, **options) for seed in (3, 3, 4))
    assert np.array_equal(one.rows, again.rows) and np.array_equal(one.labels, again.labels)
    assert len(one) != len(other) or not np.array_equal(one.labels, other.labels)


def test_more_noise_spoils_the_same_images_and_more():
    split = split_of()
    little, much = (spoiled(split, label_noise=share).labels != split.labels for share in (0.1, 0.3))
    assert (much | ~little).all()
    # Another corruption beside it does not move the label noise.
    both = spoiled(split, label_noise=0.1, image_noise=0.2)
    assert np.array_equal(both.labels != split.labels, little)


@pytest.mark.parametrize("kind", ["label_noise", "image_noise"])
def test_which_batches_an_image_goes_into_does_not_depend_on_whether_it_is_spoiled(kind):
    split = split_of(classes=50, images=40)
    noisy = spoiled(split, seed=7, **{kind: 0.2})
    wrong = (noisy.labels != split.labels) | (noisy.rows != split.rows)
    sampler = build_sampler(SamplerSettings(name="random", batch_size=40), noisy.labels, None, seed=7)
    for epoch in range(6):
        first_fifth = sampler.epoch(epoch)[: sampler.batches_per_epoch // 5]
        assert abs(wrong[first_fifth].mean() - 0.2) < 0.08  # 4.5 sigma of 400 drawn out of 2000


def test_noise_needs_a_second_class():
    with pytest.raises(DataError, match="label_noise needs at least two classes"):
        spoiled(split_of(classes=1), label_noise=0.1)
    with pytest.raises(ValidationError):
        DatasetSettings(name="class_folders", label_noise=1.0)
