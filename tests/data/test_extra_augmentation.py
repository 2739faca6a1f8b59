"""`image.augment`: torchvision's transforms by name, drawn for each image, the same whenever a run is resumed or shared out."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torchvision.transforms.v2 import functional

from ctxtune.config import load_search_space
from ctxtune.data import ImageSettings, TrainingImages, load
from ctxtune.data.augmentation import normalized
from ctxtune.shipped import find_file
from ctxtune.training.process_group import ProcessGroup, SharedTrainingImages
from tests.helpers import trees

PLAIN = {"train_crop": 16, "min_scale": 0.5}
JITTER = {"ColorJitter": {"brightness": 0.9, "hue": 0.3}}


@pytest.fixture
def train(tmp_path, monkeypatch):
    monkeypatch.setenv("CTXTUNE_CACHE", str(tmp_path / "cache"))
    trees.class_folders(tmp_path / "data", {"train": 3, "test": 2}, images=4, size=(60, 40))
    return load("class_folders", tmp_path / "data").train


def batches(train, augment, orders, *, kind=TrainingImages, first=0, epoch=1, **changes):
    images = kind(train, ImageSettings(**PLAIN, augment=augment, **changes), seed=3, workers=0)
    found = [(batch.clone(), indices) for batch, indices in images.batches(np.array(orders), epoch, first)]
    images.close()
    return found


def pixels(batch):
    """In 8 bits: what an image was before it was normalized."""
    zero = normalized(torch.zeros(1, 3, 1, 1, dtype=torch.uint8), ImageSettings())
    one = normalized(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8), ImageSettings())
    return ((batch - zero) / (one - zero) * 255).round().to(torch.uint8)


@pytest.mark.parametrize("cache", ["decoded", "encoded"])
def test_a_transform_does_what_torchvisions_does(train, cache):
    (plain, _), (gray, _) = (
        batches(train, augment, [[0, 1, 5, 7]], cache=cache)[0] for augment in (None, {"RandomGrayscale": {"p": 1.0}})
    )
    assert torch.equal(pixels(gray), functional.rgb_to_grayscale(pixels(plain), num_output_channels=3))
    assert not torch.equal(plain, gray)


def test_transforms_follow_each_other_in_their_order(train):
    both = [{"RandomInvert": {"p": 1.0}}, {"RandomPosterize": {"bits": 2, "p": 1.0}}]
    (plain, _), *found = (
        batches(train, augment, [[0, 4]])[0] for augment in (None, {**both[0], **both[1]}, {**both[1], **both[0]})
    )
    before = pixels(plain)
    assert torch.equal(pixels(found[0][0]), functional.posterize(functional.invert(before), 2))
    assert torch.equal(pixels(found[1][0]), functional.invert(functional.posterize(before, 2)))


def test_each_image_has_draws_of_its_own_and_they_repeat_themselves(train):
    orders = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    whole = batches(train, JITTER, orders)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    resumed = batches(train, JITTER, orders, first=1)
    assert torch.equal(before, torch.random.get_rng_state())  # nobody else's draws move
    assert all(torch.equal(one[0], other[0]) for one, other in zip(whole[1:], resumed, strict=True))
    other_epoch = batches(train, JITTER, orders, epoch=2)
    assert not torch.equal(whole[0][0], other_epoch[0][0])
    plain = batches(train, None, orders)
    images = [torch.cat([batch for batch, _ in found]) for found in (whole, plain)]
    means = [pixels(found).double().mean(dim=(1, 2, 3)) for found in images]
    ratios = {round(float(ratio), 3) for ratio in means[0] / means[1]}
    assert len(ratios) > 8  # of 12 images: brightness differs from image to image


def test_the_shares_of_several_processes_are_the_whole_batch(train):
    ((whole, _),) = batches(train, JITTER, [[0, 1, 2, 3, 4, 5, 6, 7]])
    shares = []
    for rank in range(2):
        kind = type("Share", (SharedTrainingImages,), {"world": ProcessGroup(rank, 2)})
        shares.append(batches(train, JITTER, [[0, 1, 2, 3, 4, 5, 6, 7]], kind=kind)[0][0])
    assert torch.equal(torch.cat(shares), whole)


@pytest.mark.parametrize(
    ("augment", "said"),
    [
        ({"ColourJitter": {}}, "torchvision has no v2 transform 'ColourJitter'; did you mean \"ColorJitter\""),
        ({"ColorJitter": {"brightnes": 1}}, "augment.ColorJitter: .*unexpected keyword argument 'brightnes'"),
        ({"ColorJitter": {"hue": 3}}, "augment.ColorJitter: "),
        (
            {"Resize": {"size": 8}},
            r"augment.Resize: it must give an image of the same size.* gave torch.uint8 \(3, 8, 8\)",
        ),
        ({"ToDtype": {"dtype": "x"}}, "augment.ToDtype: "),
        ({"GaussianBlur": None}, "augment.GaussianBlur: .*kernel_size"),
        (["RandAugment"], r"expected transforms by name with their arguments, such as \{ColorJitter"),
    ],
)
def test_what_torchvision_does_not_know_is_refused(augment, said):
    with pytest.raises(ValidationError, match=said):
        ImageSettings(augment=augment)


def test_an_argument_can_be_searched():
    space = find_file("search_spaces/quickstart")
    sets = ["trial.image.augment={ColorJitter: {brightness: 0.2}, RandomErasing:}"]
    sets.append("search.space.image.augment.ColorJitter.brightness={uniform: [0, 0.8]}")
    config = load_search_space(space, sets)
    assert config.trial.image.augment == {"ColorJitter": {"brightness": 0.2}, "RandomErasing": {}}
    assert config.trial.hash() != load_search_space(space).trial.hash()
