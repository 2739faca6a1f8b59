"""Label and image noise, withheld classes and images: exact shares, repeatable, on the given part only."""

import numpy as np
import pytest
from pydantic import ValidationError

from ctxtune.data import DatasetSettings, SamplerSettings, build_sampler, corrupt
from ctxtune.data.sources import FolderSource
from ctxtune.data.split import make_part
from ctxtune.errors import DataError


def part_of(classes=20, images=10, supers=4):
    labels = np.repeat(np.arange(classes) * 3 + 5, images)
    super_labels = np.repeat(np.arange(classes) % supers, images) if supers else None
    paths = [f"{label}/{index}.jpg" for index, label in enumerate(labels)]
    return make_part("made/train", FolderSource("."), paths, labels, super_labels)


def spoiled(part, seed=0, **options):
    return corrupt(part, DatasetSettings(name="class_folders", **options), seed)


def test_nothing_asked_is_nothing_done():
    part = part_of()
    assert spoiled(part) is part


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_label_noise_changes_exactly_its_share_to_other_classes(share):
    part = part_of()
    noisy = spoiled(part, label_noise=share)
    changed = noisy.labels != part.labels
    assert changed.sum() == round(share * 200)
    assert set(noisy.labels) <= set(part.labels)
    assert np.array_equal(noisy.rows, part.rows)
    super_of = dict(zip(part.labels, part.super_labels, strict=True))
    assert [super_of[label] for label in noisy.labels] == noisy.super_labels.tolist()
    assert part.notes == {} and noisy.notes["label_noise"] == share and noisy.notes["corruption_seed"] == 0


def test_uniform_label_noise_is_uniform_over_the_other_classes():
    part = part_of(classes=6, images=5000, supers=0)
    noisy = spoiled(part, label_noise=0.8)
    counts = np.zeros((6, 6))
    np.add.at(counts, ((part.labels - 5) // 3, (noisy.labels - 5) // 3), 1)
    off_diagonal = counts[~np.eye(6, dtype=bool)]
    assert abs(off_diagonal / 5000 - 0.16).max() < 5 * np.sqrt(0.16 * 0.84 / 5000)


@pytest.mark.parametrize("supers", [0, 4])
def test_confusable_label_noise_sends_each_class_to_one_other(supers):
    part = part_of(supers=supers)
    noisy = spoiled(part, label_noise=0.5, label_noise_kind="confusable")
    changed = noisy.labels != part.labels
    assert changed.sum() == 100
    targets = {label: set(noisy.labels[changed & (part.labels == label)]) for label in set(part.labels)}
    assert all(len(found) <= 1 for found in targets.values())
    if supers:
        assert np.array_equal(noisy.super_labels, part.super_labels)


def test_image_noise_replaces_images_by_those_of_other_classes():
    part = part_of()
    noisy = spoiled(part, image_noise=0.3)
    changed = noisy.rows != part.rows
    assert changed.sum() == 60
    assert np.array_equal(noisy.labels, part.labels)
    assert (part.labels[noisy.rows[changed]] != part.labels[changed]).all()
    assert noisy.path(int(np.flatnonzero(changed)[0])).split("/")[0] != str(noisy.labels[changed][0])


def test_withheld_classes_and_images():
    part = part_of()
    fewer = spoiled(part, withheld_classes=0.25)
    assert len(fewer.classes()) == 15 and len(fewer) == 150
    thinner = spoiled(part, withheld_images=0.4)
    assert len(thinner) == 120 and len(thinner.classes()) == 20
    assert len(spoiled(part, withheld_images=0.99)) == 20  # one image of each class stays
    with pytest.raises(DataError, match=r"withheld_classes 0\.99 leaves 0 of 20 classes"):
        spoiled(part, withheld_classes=0.99)


def test_all_at_once_is_a_function_of_the_seed_alone():
    part = part_of()
    options = {"label_noise": 0.2, "image_noise": 0.1, "withheld_classes": 0.1, "withheld_images": 0.2}
    one, again, other = (spoiled(part, seed, **options) for seed in (3, 3, 4))
    assert np.array_equal(one.rows, again.rows) and np.array_equal(one.labels, again.labels)
    assert len(one) != len(other) or not np.array_equal(one.labels, other.labels)


def test_more_noise_spoils_the_same_images_and_more():
    part = part_of()
    little, much = (spoiled(part, label_noise=share).labels != part.labels for share in (0.1, 0.3))
    assert (much | ~little).all()
    # Another corruption beside it does not move the label noise.
    both = spoiled(part, label_noise=0.1, image_noise=0.2)
    assert np.array_equal(both.labels != part.labels, little)


@pytest.mark.parametrize("kind", ["label_noise", "image_noise"])
def test_which_batches_an_image_goes_into_does_not_depend_on_whether_it_is_spoiled(kind):
    part = part_of(classes=50, images=40)
    noisy = spoiled(part, seed=7, **{kind: 0.2})
    wrong = (noisy.labels != part.labels) | (noisy.rows != part.rows)
    sampler = build_sampler(SamplerSettings(name="random", batch_size=40), noisy.labels, None, seed=7)
    for epoch in range(6):
        first_fifth = sampler.epoch(epoch)[: sampler.batches_per_epoch // 5]
        assert abs(wrong[first_fifth].mean() - 0.2) < 0.08  # 4.5 sigma of 400 drawn out of 2000


def test_noise_needs_a_second_class():
    with pytest.raises(DataError, match="label_noise needs at least two classes"):
        spoiled(part_of(classes=1), label_noise=0.1)
    with pytest.raises(ValidationError):
        DatasetSettings(name="class_folders", label_noise=1.0)
