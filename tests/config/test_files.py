"""The YAML tree: what is read, what is refused, and how clearly."""

from pathlib import Path

import pytest

from ctxtune.config import load_search_space, load_trial_file, resolve_trial, start_points
from ctxtune.errors import ConfigError

QUICK = """\
name: quick
trial:
  dataset: {name: glyphs, image_size: 32}
  model: {backbone: small_conv, width: 16, embedding_dim: 64}
  loss:
    name: contextual
    k: 4
  schedule: {name: cosine, epochs: 9}
  evaluation: {every: 3}
search:
  space:
    loss.k: {choice: [2, 4, 8]}
    loss.positive_margin: {uniform: [0.5, 0.95]}
    loss.negative_margin: {uniform: [0.1, 0.7]}
    optimizer.lr: {loguniform: [1e-5, 1e-2]}
  constraints: ["loss.negative_margin < loss.positive_margin"]
  scheduler: {name: asha, grace_epochs: 3}
"""


TWO = ["search.objective=[{metric: validation/map_at_r}, {metric: time/seconds}]", "search.scheduler.name=none"]


@pytest.fixture
def write(tmp_path: Path):
    def write_text(text: str) -> Path:
        path = tmp_path / "space.yaml"
        path.write_text(text)
        return path

    return write_text


def message(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_search_space(path, overrides)
    return str(caught.value)


def test_defaults_are_filled_in_and_numbers_like_1e_minus_5_are_numbers(write):
    space = load_search_space(write(QUICK))
    assert space.trial.loss.model_dump()["epsilon"] == 0.05
    assert space.search.space["optimizer.lr"].low == 1e-5
    assert space.search.scheduler.reduction_factor == 3


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("    k: 4", "    kk: 4", ["space.yaml:7", "trial.loss", "kk"]),
        ("epochs: 9", "epoch: 9", ["space.yaml:8", "trial.schedule.epoch", 'did you mean "epochs"']),
        ("epochs: 9", "epochs: nine", ["space.yaml:8", "trial.schedule.epochs", "'nine'"]),
        ("epochs: 9", "epochs: -1", ["space.yaml:8", "trial.schedule.epochs", "-1"]),
        ("    k: 4", "    k: 4\n    k: 5", ["space.yaml:8", "k", "twice"]),
        ("{choice: [2, 4, 8]}", "{uniform: [4, 2]}", ["space.yaml:12", "search.space.loss.k", "below"]),
        ("{choice: [2, 4, 8]}", "{pick: [4, 2]}", ["space.yaml:12", "search.space.loss.k", "uniform"]),
        ("    loss.k:", "    loss.kay:", ["space.yaml:12", "loss.kay", "loss.k"]),
        ("{choice: [2, 4, 8]}", "{choice: [1, 4]}", ["space.yaml:12", "search.space.loss.k", "1"]),
        ("grace_epochs: 3", "grace_epochs: 4", ["multiple", "evaluation.every"]),
        ("[1e-5, 1e-2]", "[0, 1e-2]", ["space.yaml:15", "above 0"]),
        ("< loss.positive_margin", "< __import__('os')", ["constraints", "allowed"]),
        ("name: quick", "name: a/b", ["space.yaml:1", "name"]),
        ("backbone: small_conv", "backbone: small_cov", ["space.yaml:4", "small_conv"]),
    ],
)
def test_what_is_wrong_is_said_with_file_line_and_key(write, old, new, expected):
    text = message(write(QUICK.replace(old, new, 1)))
    for part in expected:
        assert part in text
    assert "Traceback" not in text


def test_an_override_beats_the_file_and_is_named_in_errors(write):
    path = write(QUICK)
    space = load_search_space(path, ["trial.loss.k=8", "search.trials=3", "search.space.loss.k=null"])
    assert space.trial.loss.model_dump()["k"] == 8
    assert space.search.trials == 3
    assert "loss.k" not in space.search.space
    assert "--set trial.schedule.epochs=many" in message(path, "trial.schedule.epochs=many")
    assert "KEY=VALUE" in message(path, "trial.loss.k")


def test_a_new_dimension_can_be_added_from_the_command_line(write):
    space = load_search_space(write(QUICK), ["search.space.regularizer.weight={uniform: [0, 1]}"])
    assert space.search.space["regularizer.weight"].high == 1


def test_the_environment_is_read_and_a_missing_variable_is_named(write, monkeypatch):
    text = QUICK + 'tracking: {uri: "${CTXTUNE_TEST_URI:-sqlite:///x.db}"}\n'
    assert load_search_space(write(text)).tracking.uri == "sqlite:///x.db"
    monkeypatch.setenv("CTXTUNE_TEST_URI", "http://127.0.0.1:1")
    assert load_search_space(write(text)).tracking.uri == "http://127.0.0.1:1"
    assert "CTXTUNE_UNSET" in message(write(QUICK.replace("name: quick", "name: ${CTXTUNE_UNSET}")))


def test_a_missing_file_names_its_neighbors(write):
    path = write(QUICK)
    assert "space.yaml" in message(path.with_name("spaec.yaml"))


def test_a_point_becomes_a_configuration_and_a_start_point_outside_the_space_is_refused(write):
    space = load_search_space(write(QUICK))
    trial = resolve_trial(space, {"loss.k": 8, "optimizer.lr": 0.001})
    assert (trial.loss.model_dump()["k"], trial.optimizer.lr) == (8, 0.001)
    assert start_points(space)["trial"]["loss.k"] == 4
    outside = QUICK.replace("  scheduler:", "  start_from: [{loss.k: 3}]\n  scheduler:")
    assert "outside" in message(write(outside))


def test_another_loss_drops_the_options_of_the_first(write):
    text = QUICK.replace("    loss.k:", "    loss.name: {choice: [contextual, contrastive]}\n    loss.k:").replace(
        "  constraints:", "  conditions: {loss.k: \"loss.name == 'contextual'\"}\n  constraints:"
    )
    space = load_search_space(write(text))
    trial = resolve_trial(space, {"loss.name": "contrastive", "loss.positive_margin": 0.9, "loss.negative_margin": 0.2})
    assert trial.loss.name == "contrastive"
    assert "k" not in trial.loss.model_dump()


def test_the_hash_follows_the_configuration_and_not_where_the_data_lies(write):
    first = load_search_space(write(QUICK)).trial
    moved = load_search_space(write(QUICK), ["trial.dataset.root=/elsewhere"]).trial
    other = load_search_space(write(QUICK), ["trial.loss.k=8"]).trial
    assert first.hash() == moved.hash() != other.hash()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["search.sampler.name=grid"], "grid needs finite dimensions"),
        (["search.sampler.name=cma-es"], "cma-es cannot search the choices"),
        (["search.space.schedule.epochs={int: [3, 9]}"], "different length"),
        (["search.objective.metric=test/map_at_r"], "test scores are for confirmation only"),
        (
            ["search.objective.metric=validation/recall_at_3"],
            "search.objective.metric: recall_at_3 is not among trial.evaluation.recall_at [1, 2, 4, 8]",
        ),
        ([*TWO, "search.objective.1.metric=validation/recall_at_3"], "search.objective.1.metric: recall_at_3 is not"),
        (["search.space.loss.kk=null"], 'search.space has no loss.kk; did you mean "loss.k"?'),
        ([*TWO, "search.objective.1.metric=cost/money"], "search.objective.1.metric: cost/money needs resources.price"),
        ([*TWO, "search.objective.1.metric=cost/gpu_hours", "resources.gpus=0"], "metric: cost/gpu_hours: no run gets"),
        ([*TWO, "search.objective.1.metric=model.embeding_dim"], 'did you mean "model.embedding_dim"?'),
        (["confirm.seeds=1"], "confirm.seeds"),
        (
            ["confirm.train_on=folds", "validation.scheme=class_holdout"],
            "confirm.train_on: folds needs several folds, and validation.scheme class_holdout has one",
        ),
    ],
)
def test_unsound_combinations_are_refused_by_name(write, overrides, words):
    assert words in message(write(QUICK), *overrides)


def test_every_shipped_search_space_is_valid(repository):
    files = sorted((repository / "search_spaces").glob("*.yaml"))
    assert {"quickstart.yaml", "cars.yaml"} <= {file.name for file in files}
    for file in files:
        space = load_search_space(file)
        assert start_points(space)
        assert load_trial_file(file).trial == space.trial


def test_relative_paths_count_from_the_directory_of_the_command(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(QUICK)
    assert load_search_space(path, ["trial.dataset.root=data/here"]).trial.dataset.root == str(tmp_path / "data/here")


def test_a_table_is_named_from_the_commands_folder_and_hashed_wherever_it_lies(repository, tmp_path, monkeypatch):
    space = repository / "search_spaces/quickstart.yaml"
    hashes = set()
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        config = load_search_space(space, ["trial.dataset={name: table, file: sub/items.csv}"])
        assert config.trial.dataset.file == str(tmp_path / folder / "sub/items.csv")
        hashes.add(config.trial.hash())
    assert len(hashes) == 1
    rooted = load_search_space(space, ["trial.dataset={name: table, root: /data, file: {train: a.csv, test: b.csv}}"])
    assert rooted.trial.dataset.file == {"train": "a.csv", "test": "b.csv"}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "validation.scheme=image_holdout",
            "validation.scheme: image_holdout validates on classes that training knows",
        ),
        ("trial.dataset.closed_set=true", "validation.scheme: the data set is closed_set"),
    ],
)
def test_validation_asks_the_question_of_the_test(repository, override, said):
    space = repository / "search_spaces/quickstart.yaml"
    with pytest.raises(ConfigError, match=said):
        load_search_space(space, [override])
    load_search_space(
        space, ["validation={scheme: image_holdout}", "trial.dataset.closed_set=true", "select.folds=all"]
    )
