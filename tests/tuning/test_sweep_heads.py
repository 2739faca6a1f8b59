"""Sweeps of heads on kept features, and of what trains, by their command."""

import sqlite3

import pytest
import timm
import torch
from safetensors.torch import save_file

from ctxtune.tuning.record.journal import Journal
from tests.helpers import trees
from tests.helpers.hub import publish, repository_of, running_hub
from tests.helpers.sweeps import CARS_CLASSES, run_sweep, sweep_here

CLASSES = 16


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_trains_is_searched_and_features_are_made_before_the_runs_that_need_them(repository, tmp_path):
    trees.class_folders(tmp_path / "photographs", {"train": CLASSES, "test": 6}, images=4)
    torch.manual_seed(0)
    network = timm.create_model("test_efficientnet", num_classes=0)
    save_file({name: value.clone() for name, value in network.state_dict().items()}, tmp_path / "weights.safetensors")
    overrides = [
        f"trial.dataset={{name: class_folders, root: {tmp_path / 'photographs'}}}",
        f"trial.model={{backbone: timm/test_efficientnet, weights: {tmp_path / 'weights.safetensors'}, train: head, "
        "embedding_dim: 8, projector_dim: null}",
        "trial.image={train_crop: 32, test_resize: 32, test_crop: 32}",
        "trial.sampler.batch_size=16",
        "trial.schedule.epochs=2",
        "trial.evaluation={every: 1, recall_at: [1]}",
        "search.constraints=[]",
        'search.space={model.train: {choice: [head, "last_blocks: 1", full]}}',
        "search.sampler.name=grid",
        "search.scheduler.name=none",
        "search.trials=3",
        "select=null",
        "confirm.seeds=2",
        "resources={gpus: 0, cpus: 1}",
    ]
    cache = tmp_path / "cache"
    variables = {"CTXTUNE_CACHE": str(cache)}
    done = run_sweep(repository, tmp_path, file="grocery.yaml", overrides=overrides, variables=variables, timeout=1100)
    assert done.returncode == 0, done.stderr
    assert "computing the features of timm/test_efficientnet on the train side" in done.stdout
    journal = Journal(tmp_path / "results/grocery/journal.jsonl")
    searched = journal.stage("search")
    assert {run.spec.point["model.train"] for run in searched} == {"head", "last_blocks: 1", "full"}
    assert {run.state for run in searched} == {"completed"}
    assert len([folder for folder in cache.glob("*train-features*") if folder.is_dir()]) == 1
    arms = {run.spec.trial.model.train for run in journal.stage("confirmation")}
    assert len([folder for folder in cache.glob("*test-features*") if folder.is_dir()]) == ("head" in arms)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        tags = dict(database.execute("SELECT key, value FROM tags WHERE key LIKE 'model.weights%'").fetchall())
    assert tags["model.weights_source"] == "weights.safetensors"
    assert len(tags["model.weights_sha256"]) == 64


def test_missing_weights_are_one_message_before_anything_starts(repository, tmp_path, monkeypatch):
    trees.class_folders(tmp_path / "photographs", {"train": CLASSES, "test": 6}, images=4)
    overrides = [f"trial.dataset={{name: class_folders, root: {tmp_path / 'photographs'}}}"]
    monkeypatch.setenv("CTXTUNE_DATA", "no")
    done = sweep_here(repository, tmp_path, file="grocery.yaml", overrides=overrides)
    assert done.returncode == 2
    assert "model.weights: there is no file" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "results").glob("*/journal.jsonl"))


def photographs_with(folder, model, space):
    trees.class_folders(folder / "photographs", {"train": CLASSES, "test": 6}, images=4)
    return [
        f"trial.dataset={{name: class_folders, root: {folder / 'photographs'}}}",
        f"trial.model={{{model}, embedding_dim: 8, projector_dim: null}}",
        "trial.image={train_crop: 32, test_resize: 32, test_crop: 32}",
        "trial.sampler.batch_size=16",
        "trial.schedule.epochs=1",
        "trial.evaluation={every: 1, recall_at: [1]}",
        "search.constraints=[]",
        f"search.space={space}",
        "search.sampler.name=grid",
        "search.scheduler.name=none",
        "select=null",
        "confirm=null",
        "resources={gpus: 0, cpus: 1}",
    ]


def test_missing_weights_that_only_some_trials_need_are_one_message_too(repository, tmp_path):
    torch.manual_seed(0)
    weights = tmp_path / "weights.safetensors"
    save_file({name: value.clone() for name, value in timm.create_model("test_vit").state_dict().items()}, weights)
    overrides = photographs_with(
        tmp_path,
        f"backbone: timm/test_vit, weights: {weights}, train: full",
        f"{{model.weights: {{choice: [{weights}, pretrained]}}}}",
    )
    done = sweep_here(repository, tmp_path, file="grocery.yaml", overrides=overrides)
    assert done.returncode == 2
    assert "the pretrained weights of timm/test_vit could not be had" in done.stderr
    assert not list((tmp_path / "results").glob("*/journal.jsonl"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_driver_fetches_what_trials_start_from_and_their_processes_ask_no_hub(repository, tmp_path):
    names = ("test_vit", "test_efficientnet")
    for name in names:
        publish(name, tmp_path / "hub")
    overrides = photographs_with(
        tmp_path,
        "backbone: timm/test_vit, weights: pretrained, train: full",
        "{model.backbone: {choice: [timm/test_vit, timm/test_efficientnet]}, optimizer.lr: {choice: [0.001, 0.002]}}",
    )
    with running_hub(tmp_path / "hub") as hub:
        variables = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        done = run_sweep(
            repository, tmp_path, file="grocery.yaml", overrides=overrides, variables=variables, timeout=1100
        )
    assert done.returncode == 0, done.stderr
    searched = Journal(tmp_path / "results/grocery/journal.jsonl").stage("search")
    assert [run.state for run in searched] == ["completed"] * 4
    assert {run.spec.point["model.backbone"] for run in searched} == {f"timm/{name}" for name in names}
    assert sorted(hub.sent) == sorted(f"/objects/{repository_of(name)}/model.safetensors" for name in names)
    assert len([path for _, path in hub.requests if "/resolve/" in path]) == 2 * len(names)


@pytest.mark.slow
def test_the_dinov2_file_passes_a_dry_run_without_weights(repository, tmp_path):
    trees.cars196(tmp_path / "data/cars196", "original", CARS_CLASSES, images=4)
    overrides = [
        "trial.model.weights=null",
        "trial.image={train_crop: 28, test_resize: 32, test_crop: 28, views: 1}",
        "trial.sampler.batch_size=16",
    ]
    variables = {"CTXTUNE_CACHE": str(tmp_path / "cache")}
    done = run_sweep(
        repository, tmp_path, "--dry-run", file="cars_dinov2.yaml", overrides=overrides, variables=variables
    )
    assert done.returncode == 0, done.stderr
    assert "lora: {rank: 8, alpha: 16}" in done.stdout
