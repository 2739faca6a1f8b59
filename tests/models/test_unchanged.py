"""Recipes and models of before other backbones were taken in: the same configuration hashes, the same embeddings."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ctxtune.config import TrialSettings
from ctxtune.models import ModelSettings, build_model
from ctxtune.recipes import load_recipe, recipe_names

STORED: dict[str, Any] = json.loads((Path(__file__).parent / "fixtures" / "before_other_backbones.json").read_text())
OTHERS: dict[str, Any] = {
    "defaults": {"dataset": {"name": "cub200"}},
    "small_conv": STORED["trials"]["small_conv"],
    "vit_class_token": {"dataset": {"name": "cub200"}, "model": {"backbone": "vit_b_16", "pooling": "class_token"}},
}


def recipe_of_then(name: str) -> dict[str, Any]:
    """A recipe as it stood when the hashes were stored: before samplers and precision followed the published code."""
    tree = load_recipe(name)
    assert tree.pop("precision") == "float16"
    sampler = {key: value for key, value in tree["sampler"].items() if key not in ("round_up", "without_replacement")}
    loss = {key: value for key, value in tree.get("loss", {}).items() if key != "proxies"}
    return {**tree, "sampler": sampler, "loss": loss}


@pytest.mark.parametrize("name", STORED["configurations"])
def test_configurations_keep_their_hash(name: str) -> None:
    tree = OTHERS[name] if name in OTHERS else {"dataset": {"name": "cars196"}, **recipe_of_then(name)}
    trial = TrialSettings.model_validate(tree)
    assert trial.hash() == STORED["configurations"][name]
    assert TrialSettings.model_validate(trial.tree()).hash() == trial.hash()
    assert name in OTHERS or name in recipe_names()


def test_what_is_said_differently_has_another_hash() -> None:
    tree = OTHERS["small_conv"]
    said = [
        {"model": {**tree["model"], "train": "head"}},
        {"optimizer": {"layer_decay": 0.9}},
        {"image": {**tree["image"], "interpolation": "bicubic"}},
    ]
    hashes = {TrialSettings.model_validate(tree | change).hash() for change in [{}, *said]}
    assert len(hashes) == 1 + len(said)


@pytest.mark.parametrize("name", STORED["embeddings"])
def test_seeded_models_keep_their_embeddings(name: str) -> None:
    stored = STORED["embeddings"][name]
    size = stored["image_size"]
    torch.manual_seed(0)
    model = build_model(ModelSettings(**stored["model"]), image_size=size).eval()
    images = torch.linspace(-2, 2, 2 * 3 * size * size).reshape(2, 3, size, size).sin()
    with torch.no_grad():
        found = model(images)
    expected = torch.tensor(stored["embeddings"])
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
