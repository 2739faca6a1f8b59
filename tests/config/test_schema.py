"""The JSON schemas of the files: as the models say, taking every shipped file, refusing what the loader refuses."""

import copy
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from ctxtune.config import load_ablation, load_search_space
from ctxtune.config.schema import FILES, file_schema, schema_text, trial_paths
from ctxtune.copy import text_of_copy
from ctxtune.errors import ConfigError
from ctxtune.shipped import find_file
from ctxtune.yaml_text import read_yaml

SCHEMAS = {name: jsonschema.Draft202012Validator(file_schema(name)) for name in FILES}
SHIPPED = {"search_spaces": "search_space.json", "ablations": "ablation.json", "bases": "trial.json"}


def shipped(repository: Path) -> list[Path]:
    return sorted([*(repository / "search_spaces").glob("*.yaml"), *(repository / "ablations").rglob("*.yaml")])


@pytest.mark.parametrize("name", FILES)
def test_the_shipped_schema_is_that_of_the_models(repository, name):
    made_anew = "python -m ctxtune.config.schema schemas"
    assert (repository / "schemas" / name).read_text(encoding="utf-8") == schema_text(name), made_anew
    jsonschema.Draft202012Validator.check_schema(json.loads(schema_text(name)))


def test_every_shipped_file_is_valid_and_names_its_schema(repository):
    for file in shipped(repository):
        text = file.read_text(encoding="utf-8")
        first = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", text.splitlines()[0])
        assert first is not None, file
        named = (file.parent / first[1]).resolve()
        assert named == repository / "schemas" / SHIPPED[file.parent.name]
        problems = [
            f"{list(e.absolute_path)}: {e.message}" for e in SCHEMAS[named.name].iter_errors(read_yaml(text).data)
        ]
        assert problems == [], file


def blocks(tree, place=()):
    """Every block of keys, with its place."""
    if isinstance(tree, dict):
        yield place, tree
        for key, value in tree.items():
            yield from blocks(value, (*place, key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from blocks(value, (*place, index))


def at(tree, place):
    for key in place:
        tree = tree[key]
    return tree


def refused(load, tree, folder) -> bool:
    file = folder / "file.yaml"
    file.write_text(yaml.safe_dump(tree, sort_keys=False))
    try:
        load(file)
    except ConfigError:
        return True
    return False


SPACE = [load_search_space, "search_space.json"]
FILE = {
    "search_spaces/quickstart": SPACE,
    "search_spaces/cub_dinov2": SPACE,
    "ablations/losses": [load_ablation, "ablation.json"],
}


@pytest.mark.parametrize("name", FILE)
def test_a_key_that_nobody_reads_is_refused_by_both(name, tmp_path):
    load, schema = FILE[name]
    tree = read_yaml(text_of_copy(find_file(name))).data
    assert not refused(load, tree, tmp_path) and SCHEMAS[schema].is_valid(tree)
    places = [place for place, _ in blocks(tree)]
    assert len(places) > 15
    for place in places:
        if place in (("variants",), ("tune_each", "spaces")):
            continue  # any name is one
        changed = copy.deepcopy(tree)
        at(changed, place)["colour"] = {}
        assert not SCHEMAS[schema].is_valid(changed), place
        assert refused(load, changed, tmp_path), place


WRONG = [
    ("name", "-x"),
    ("name", 3),
    ("trial.dataset.name", "birds"),
    ("trial.dataset", None),
    ("trial.model.embedding_dim", 0),
    ("trial.model.embedding_dim", "wide"),
    ("trial.model.pooling", "mean"),
    ("trial.model.layer_norm", 3),
    ("trial.loss.name", "contextul"),
    ("trial.loss.k", 0),
    ("trial.loss.positive_margin", [1]),
    ("trial.loss.miner", "hardest"),
    ("trial.optimizer.lr", -1.0),
    ("trial.optimizer.lr", True),
    ("trial.schedule.name", "cosin"),
    ("trial.schedule.epochs", 1.5),
    ("trial.sampler.batch_size", "many"),
    ("trial.image.ratio", [1]),
    ("trial.evaluation.recall_at", 1),
    ("trial.precision", "half"),
    ("trial.recipe", "contextual_cars"),
    ("validation.scheme", "folds"),
    ("validation.folds", 1),
    ("search.space.optimizer/lr", {"uniform": [1]}),
    ("search.space.optimizer/lr", {"uniform": ["a", 2]}),
    ("search.space.optimizer/lr", {"log": [1, 2]}),
    ("search.space.optimizer/lr", [1, 2]),
    ("search.space.optimiser/lr", {"uniform": [1, 2]}),
    ("search.objective", []),
    ("search.objective.mode", "most"),
    ("search.sampler.name", "bayes"),
    ("search.trials", 0),
    ("search.budget", {"hours": 0}),
    ("select.folds", "some"),
    ("confirm.seeds", 1),
    ("resources.gpus", "all"),
]
RIGHT = [
    ("trial.dataset", {"name": "table", "file": {"train": "a.csv", "test": "b.csv"}, "columns": {"label": "species"}}),
    ("trial.loss", {"name": "multi_similarity", "miner": None}),
    ("trial.loss", {"name": "triplet", "margin": 0.1, "memory": {"size": 512}}),
    ("trial.recipe", "contextual_cub200_224"),
    ("trial.schedule.epochs", "${EPOCHS:-9}"),
    ("trial.model.train", {"last_blocks": 1}),
    ("search.objective", [{"metric": "validation/map_at_r"}, {"metric": "time/seconds", "mode": "min"}]),
    ("search.space.loss/k", {"choice": [2, 4]}),
    ("search.start_from", ["trial", {"best_of": "other", "count": 2}, {"loss.k": 2}]),
    ("search.budget", {"hours": 100}),
    ("select", None),
    ("resources", {"gpus": 0.5, "cpus": "auto", "price_per_gpu_hour": 2}),
]


def set_in(tree, path, value):
    *before, last = (key.replace("/", ".") for key in path.split("."))
    at(tree, before)[last] = value


@pytest.mark.parametrize(("path", "value"), WRONG)
def test_a_wrong_value_is_refused_by_both(path, value, tmp_path):
    tree = read_yaml(find_file("search_spaces/quickstart").read_text()).data
    set_in(tree, path, value)
    assert not SCHEMAS["search_space.json"].is_valid(tree)
    assert refused(load_search_space, tree, tmp_path)


@pytest.mark.parametrize(("path", "value"), RIGHT)
def test_what_the_loader_may_take_the_schema_takes(path, value):
    tree = read_yaml(find_file("search_spaces/quickstart").read_text()).data
    set_in(tree, path, value)
    assert list(SCHEMAS["search_space.json"].iter_errors(tree)) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("base", {"sweep": "x"}),
        ("variants.full", {"los.k": 1}),
        ("variants", []),
        ("factors", {"loss.k": [1]}),
        ("design", "gird"),
        ("seeds", 0),
        ("compare", {"correction": "bonferroni"}),
        ("tune_each", {"trials": 1}),
    ],
)
def test_wrong_ablations_are_refused_by_both(path, value, tmp_path):
    tree = read_yaml(text_of_copy(find_file("ablations/quickstart"))).data
    set_in(tree, path, value)
    assert not SCHEMAS["ablation.json"].is_valid(tree) and refused(load_ablation, tree, tmp_path)


def test_paths_of_the_trial_are_offered():
    offered = set(trial_paths())
    assert {
        "loss.k",
        "optimizer.lr",
        "optimizer.lr_multipliers.loss",
        "schedule.epochs",
        "image.views",
        "precision",
    } <= offered
    space = file_schema("search_space.json")["$defs"]["SearchSettings"]["properties"]["space"]
    assert set(space["properties"]) == offered
