"""Each recipe, resolved to a whole trial, against a table written out independently from the published description."""

from typing import Any

import pytest

from ctxtune.config import TrialSettings, load_search_space
from ctxtune.config.paths import get_path
from ctxtune.errors import ConfigError
from ctxtune.recipes import load_recipe, published_recipe, published_results, recipe_names, recipe_notes

DATASET = {
    "cub200": "cub200",
    "cars196": "cars196",
    "sop": "sop",
    "inshop": "inshop",
    "inaturalist": "inaturalist2021_mini",
}
RECALL_AT = {
    "cub200": [1, 2, 4, 8],
    "cars196": [1, 2, 4, 8],
    "sop": [1, 10, 100, 1000],
    "inshop": [1, 10, 20, 30, 40, 50],
    "inaturalist": [1, 4, 16, 32],
}

# loss, data set, learning rate, projector, gamma
TABLE_224 = [
    ("contextual", "cub200", 1.4e-4, 2048, 0.1),
    ("contextual", "cars196", 8e-5, 2048, 0.1),
    ("contextual", "sop", 6e-5, None, 0.1),
    ("contrastive", "cub200", 2e-5, 2048, 0.0),
    ("contrastive", "cars196", 8e-5, 2048, 0.1),
    ("contrastive", "sop", 4e-5, None, 0.0),
    ("roadmap", "cub200", 2e-5, 2048, 0.1),
    ("roadmap", "cars196", 2e-5, 2048, 0.0),
    ("roadmap", "sop", 4e-5, None, 0.1),
    ("triplet", "cub200", 8e-5, None, 0.1),
    ("triplet", "cars196", 8e-5, None, 0.1),
    ("triplet", "sop", 4e-5, None, 0.1),
    ("multi_similarity", "cub200", 1.6e-4, 2048, 0.0),
    ("multi_similarity", "cars196", 8e-5, 2048, 0.0),
    ("multi_similarity", "sop", 8e-5, None, 0.0),
    ("proxy_anchor", "cub200", 1.6e-4, 2048, 0.0),
    ("proxy_anchor", "cars196", 8e-5, 2048, 0.0),
    ("proxy_anchor", "sop", 1.6e-4, None, 0.0),
    ("proxy_nca", "cub200", 1.6e-4, 2048, 0.0),
    ("proxy_nca", "cars196", 1.6e-4, 2048, 0.0),
    ("proxy_nca", "sop", 1.6e-4, None, 0.0),
]
# data set: epochs, step, factor, batch, least scale of the training crop
SCHEDULE_224 = {
    "cub200": (60, 10, 0.3, 128, 0.16),
    "cars196": (160, 20, 0.5, 64, 0.12),
    "sop": (80, 15, 0.3, 128, 0.08),
}
# data set: lambda, epsilon
CONTEXTUAL_224 = {"cub200": (0.95, 0.04), "cars196": (0.8, 0.05), "sop": (0.8, 0.05)}
# data set: learning rate, iterations, batch, super-classes, pooling, layer norm
TABLE_256 = {
    "cub200": (8e-5, 15, 128, None, "max", True),
    "cars196": (1.6e-4, 30, 128, None, "max", True),
    "sop": (4e-5, 655, 128, 2, "average", False),
    "inshop": (4e-5, 600, 128, None, "average", False),
    "inaturalist": (8e-5, 576, 256, 2, "average", False),
}
# data set: training resize, training crop, test resize, test crop
IMAGE_256 = {
    "cub200": (None, 256, 288, 256),
    "cars196": (None, 256, 288, 256),
    "sop": (288, 256, [288, 288], 256),
    "inshop": (288, 256, [288, 288], 256),
    "inaturalist": (288, 224, 256, 224),
}


def resolved(name: str, dataset: str) -> dict[str, Any]:
    return TrialSettings.model_validate({"dataset": {"name": DATASET[dataset]}, **load_recipe(name)}).tree()


def check(tree: dict[str, Any], expected: dict[str, Any]) -> None:
    found = {path: get_path(tree, path) for path in expected}
    assert found == expected


@pytest.mark.parametrize(("loss", "dataset", "lr", "projector", "gamma"), TABLE_224)
def test_recipes_at_224_px(loss: str, dataset: str, lr: float, projector: int | None, gamma: float) -> None:
    tree = resolved(f"{loss}_{dataset}_224", dataset)
    _, _, factor, batch, min_scale = SCHEDULE_224[dataset]
    check(
        tree,
        {
            "loss.name": loss,
            "model.backbone": "resnet50",
            "model.weights": "IMAGENET1K_V1",
            "model.pooling": "gem",
            "model.gem_power": 3.0,
            "model.gem_trainable": False,
            "model.layer_norm": False,
            "model.embedding_dim": 512,
            "model.embedding_init": "kaiming_normal",
            "model.projector_dim": projector,
            "regularizer.weight": gamma,
            "regularizer.similarity_target": 0.3,
            "optimizer.name": "adamw",
            "optimizer.lr": lr,
            "optimizer.weight_decay": 1e-4,
            "optimizer.lr_multipliers": {"backbone": 1.0, "embedding": 1.0, "projector": 2.0, "loss": 100.0},
            "schedule.name": "step",
            "schedule.factor": factor,
            "schedule.warmup_epochs": 0,
            "sampler.batch_size": batch,
            "image.train_resize": None,
            "image.train_crop": 224,
            "image.min_scale": min_scale,
            "image.max_scale": 1.0,
            "image.flip": True,
            "image.test_resize": 256,
            "image.test_crop": 224,
            "evaluation.recall_at": RECALL_AT[dataset],
            "precision": "float16",
        },
    )


@pytest.mark.parametrize(("loss", "dataset"), [row[:2] for row in TABLE_224])
def test_schedules_and_samplers_at_224_px(loss: str, dataset: str) -> None:
    tree = resolved(f"{loss}_{dataset}_224", dataset)
    epochs, step = SCHEDULE_224[dataset][:2]
    if loss in ("proxy_anchor", "proxy_nca"):
        on_sop = dataset == "sop"
        check(
            tree,
            {
                "schedule.epochs": 115 if on_sop else epochs,
                "schedule.step_epochs": 21 if on_sop else step,
                "schedule.head_warmup_epochs": 1 if on_sop else 10,
                "sampler.name": "random",
                "sampler.super_classes": None,
                "sampler.batches_per_epoch": None,
                "model.batch_norm": "frozen_statistics",
            },
        )
    else:
        check(
            tree,
            {
                "schedule.epochs": epochs,
                "schedule.step_epochs": step,
                "schedule.head_warmup_epochs": 0,
                "sampler.name": "balanced",
                "sampler.images_per_class": 4,
                "sampler.super_classes": 2 if dataset == "sop" else None,
                "sampler.classes_per_round": None if dataset == "sop" else 96,
                "sampler.batches_per_epoch": 660 if dataset == "sop" else None,
                "sampler.without_replacement": True,
                "sampler.round_up": True,
                "model.batch_norm": "frozen",
            },
        )


@pytest.mark.parametrize("dataset", sorted(CONTEXTUAL_224))
def test_contextual_loss_at_224_px(dataset: str) -> None:
    weight, epsilon = CONTEXTUAL_224[dataset]
    expected = {
        "contextual_weight": weight,
        "contrastive_weight": None,  # 1 - contextual
        "k": 4,
        "epsilon": epsilon,
        "slope": 10.0,
        "positive_margin": 0.75,
        "negative_margin": 0.6,
        "step": "heuristic",
        "conjunction": "product",
        "overlap": "both",
        "query_expansion": True,
        "detach_overlap_normalizer": True,
        "detach_expansion_normalizer": False,
    }
    check(resolved(f"contextual_{dataset}_224", dataset), {f"loss.{key}": value for key, value in expected.items()})


BASELINES = {
    "contrastive": {"positive_margin": 0.9, "negative_margin": 0.6, "miner": None},
    "roadmap": {
        "average_precision_weight": 0.5,
        "temperature": 0.01,
        "slope": 100.0,
        "offset": 1.44,
        "delta": 0.05,
        "start": 0.5,
        "positive_margin": 0.9,
        "negative_margin": 0.6,
    },
    "triplet": {"margin": 0.05, "miner.name": "distance_weighted"},
    "multi_similarity": {"miner.name": "multi_similarity"},
    "proxy_anchor": {"alpha": 32.0, "margin": 0.1, "miner": None, "proxies": "image"},
    "proxy_nca": {"softmax_scale": 9.0, "miner": None, "proxies": "image"},
}


@pytest.mark.parametrize("dataset", ["cub200", "cars196", "sop"])
@pytest.mark.parametrize("loss", sorted(BASELINES))
def test_baseline_losses(loss: str, dataset: str) -> None:
    tree = resolved(f"{loss}_{dataset}_224", dataset)
    check(tree, {f"loss.{key}": value for key, value in BASELINES[loss].items()})
    assert tree["loss"]["contextual"] is None
    assert tree["loss"]["memory"] is None


@pytest.mark.parametrize("dataset", sorted(TABLE_256))
def test_recipes_at_256_px(dataset: str) -> None:
    lr, batches, batch, super_classes, pooling, layer_norm = TABLE_256[dataset]
    train_resize, train_crop, test_resize, test_crop = IMAGE_256[dataset]
    check(
        resolved(f"contextual_{dataset}_256", dataset),
        {
            "model.backbone": "resnet50",
            "model.weights": "IMAGENET1K_V1",
            "model.pooling": pooling,
            "model.layer_norm": layer_norm,
            "model.layer_norm_affine": False,
            "model.embedding_dim": 512,
            "model.embedding_init": "torch_default",
            "model.projector_dim": None,
            "model.batch_norm": "frozen_statistics",
            "loss.name": "contextual",
            "loss.contextual_weight": 0.4,
            "loss.contrastive_weight": "remainder",  # 1 - 0.4 - 0.1 = 0.5
            "loss.k": 4,
            "loss.epsilon": 0.05,
            "loss.slope": 10.0,
            "loss.positive_margin": 0.75,
            "loss.negative_margin": 0.6,
            "regularizer.weight": 0.1,
            "regularizer.similarity_target": 0.25,
            "optimizer.name": "adam",
            "optimizer.lr": lr,
            "optimizer.weight_decay": 1e-4,
            "optimizer.lr_multipliers.backbone": 0.5,
            "optimizer.lr_multipliers.embedding": 1.0,
            "schedule.name": "multistep",
            "schedule.epochs": 80,
            "schedule.milestones": [15, 30, 45],
            "schedule.factor": 0.3,
            "schedule.head_warmup_epochs": 0,
            "sampler.name": "balanced",
            "sampler.images_per_class": 4,
            "sampler.batch_size": batch,
            "sampler.super_classes": super_classes,
            "sampler.batches_per_epoch": batches,
            "image.train_resize": train_resize,
            "image.train_crop": train_crop,
            "image.min_scale": 0.16,
            "image.max_scale": 1.0,
            "image.ratio": [0.75, 1.33],
            "image.flip": True,
            "image.test_resize": test_resize,
            "image.test_crop": test_crop,
            "evaluation.recall_at": RECALL_AT[dataset],
        },
    )


def test_the_tables_cover_every_recipe() -> None:
    covered = {f"{loss}_{dataset}_224" for loss, dataset, *_ in TABLE_224}
    covered |= {f"contextual_{dataset}_256" for dataset in TABLE_256}
    covered |= {
        f"{loss}_by_class_{dataset}_224" for loss, dataset, *_ in TABLE_224 if loss in ("proxy_anchor", "proxy_nca")
    }
    covered |= {f"multi_similarity_without_miner_{dataset}_224" for dataset in ("cub200", "cars196", "sop")}
    assert set(recipe_names()) == covered


def test_every_recipe_says_where_it_comes_from() -> None:
    for name in recipe_names():
        notes = recipe_notes(name)
        assert notes.tuned_on_test
        assert "arXiv 2210.01908" in notes.source
        assert name[-3:] in notes.source
        assert notes.description
        assert "about" not in load_recipe(name)
        assert "extends" not in load_recipe(name)


def test_published_recipe_of_a_data_set() -> None:
    assert published_recipe("cub200") == "contextual_cub200_224"
    assert published_recipe("cars196") == "contextual_cars196_224"
    assert published_recipe("sop") == "contextual_sop_224"
    assert published_recipe("inshop") == "contextual_inshop_256"
    assert published_recipe("inaturalist2018") == "contextual_inaturalist_256"
    assert published_recipe("inaturalist2021_mini") == "contextual_inaturalist_256"
    assert published_recipe("omniglot") is None


def test_unknown_recipe_names_its_neighbors() -> None:
    with pytest.raises(ConfigError, match='did you mean "contextual_cars196_224"'):
        load_recipe("contextual_cars_224")
    with pytest.raises(ConfigError, match="there are: contextual_cars196_224, "):
        load_recipe("zzz")
    for hidden in ("_224", "published_results", "../recipes/_224"):
        with pytest.raises(ConfigError, match="unknown recipe"):
            load_recipe(hidden)


def test_what_is_loaded_can_be_changed_without_harm() -> None:
    first = load_recipe("contextual_cub200_224")
    first["evaluation"]["recall_at"].append(16)
    first["loss"]["k"] = 8
    assert load_recipe("contextual_cub200_224")["evaluation"]["recall_at"] == [1, 2, 4, 8]
    assert load_recipe("contextual_cub200_224")["loss"]["k"] == 4
    published_results()["contextual_256"]["cub200"]["recall_at_1"] = 100.0
    assert published_results()["contextual_256"]["cub200"]["recall_at_1"] == 68.69


def test_published_results() -> None:
    results = published_results()
    assert results["contextual_256"]["cars196"]["recall_at_1"] == 89.29
    assert results["figure_224"]["cars196"]["contextual"] == {"test": 91.1, "train": 93.4}
    assert results["lambda_sweep_224"]["cub200"][0.95] == [71.2, 87.4]


def test_the_cars_search_space_spells_out_its_recipe(repository):
    ours = load_search_space(repository / "search_spaces/cars.yaml").trial
    recipe = TrialSettings.model_validate({**load_recipe("contextual_cars196_224"), "dataset": {"name": "cars196"}})
    for block in sorted(set(recipe.tree()) - {"dataset", "precision"}):  # precision: auto takes what the GPU is best at
        assert ours.tree()[block] == recipe.tree()[block], block


@pytest.mark.parametrize("dataset", ["cub200", "cars196", "sop"])
@pytest.mark.parametrize("loss", ["proxy_anchor", "proxy_nca"])
def test_honest_proxies_differ_in_the_proxies_alone(loss: str, dataset: str) -> None:
    published, honest = (resolved(f"{name}_{dataset}_224", dataset) for name in (loss, f"{loss}_by_class"))
    assert honest["loss"]["proxies"] == "class"
    honest["loss"]["proxies"] = "image"
    assert honest == published
    assert "not comparable" in " ".join(recipe_notes(f"{loss}_{dataset}_224").caveat.split())
    assert recipe_notes(f"{loss}_by_class_{dataset}_224").caveat == ""


@pytest.mark.parametrize("dataset", ["cub200", "cars196", "sop"])
def test_without_the_miner_nothing_else_differs(dataset: str) -> None:
    with_it, without = (resolved(f"multi_similarity{words}_{dataset}_224", dataset) for words in ("", "_without_miner"))
    assert with_it["loss"]["miner"] is not None
    assert without["loss"]["miner"] is None
    with_it["loss"]["miner"] = None
    assert without == with_it
