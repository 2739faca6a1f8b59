"""What is said of settings that are allowed and seldom meant."""

import pytest

from ctxtune.config import load_ablation, load_search_space
from ctxtune.config.advice import ablation_advice, search_advice, sweep_advice, trial_advice
from ctxtune.config.resolve import resolve_trial
from ctxtune.errors import ConfigError

QUICKSTART = "search_spaces/quickstart.yaml"


def _space(repository, *overrides):
    return load_search_space(repository / QUICKSTART, overrides)


def test_nothing_is_said_of_the_shipped_spaces(repository):
    for file in sorted((repository / "search_spaces").glob("*.yaml")):
        config = load_search_space(file)
        assert sweep_advice(config) is None and not search_advice(config), file


def test_every_point_of_a_shipped_space_draws_k_images_of_a_class(repository):
    config = _space(repository)
    for k in config.search.space["loss.k"].values():
        assert resolve_trial(config, {"loss.k": k}).sampler.images_per_class == k


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["search.ties={}"], "(2 at 4, 8 at 4)"),
        (["search.ties={}", "search.space.loss.k=null", "trial.loss.k=6"], "loss.k is 6 and sampler.images_per_class 4"),
        (["search.ties={}", "search.space.loss.k={choice: [4, 16]}"], "--set 'search.ties={sampler.images_per_class: loss.k}'"),
        (["search.ties={}", "search.space.loss.k={int: [2, 4]}"], "(2 at 4, 3 at 4)"),
        (["search.ties={}", "search.space.loss.k=null", "search.space.sampler.images_per_class={choice: [2, 4]}"], "(4 at 2)"),
        (["search.ties={}", "search.space.loss.k=null"], None),
        (["search.ties={}", "search.space.loss.k={choice: [4]}"], None),
        (["search.ties={}", "trial.sampler.name=random"], None),
        (["search.ties={}", "trial.loss={name: multi_similarity}", "search.space={optimizer.lr: {loguniform: [1e-4, 1e-2]}}",
          "search.constraints=[]"], None),
        (["search.ties={}", "search.space={optimizer.lr: {loguniform: [1e-4, 1e-2]}}", "search.constraints=[]",
          "trial.loss={name: multi_similarity, contextual: {weight: 0.5, k: 8}}"], "loss.contextual.k is 8"),
        (["search.ties={}", "search.space={loss.name: {choice: [triplet, contextual]}}", "search.constraints=[]",
          "trial.loss={name: triplet}", "trial.sampler.images_per_class=8"], None),
    ],
)  # fmt: skip
def test_a_space_is_told_where_some_of_its_points_differ(repository, overrides, told):
    advice = sweep_advice(_space(repository, *overrides))
    assert advice is None if told is None else told in (advice or "")


def test_one_configuration(repository):
    config = _space(repository, "trial.loss.k=8")
    assert "loss.k is 8 and sampler.images_per_class 4" in (trial_advice(config.trial) or "")
    assert trial_advice(_space(repository).trial) is None


def test_an_ablation_names_its_cells(repository):
    told = ablation_advice(load_ablation(repository / "ablations/k.yaml"))
    assert told is not None and "k=2: loss.k 2 at 4; k=6: loss.k 6 at 4; k=8: loss.k 8 at 4" in told
    assert ablation_advice(load_ablation(repository / "ablations/losses.yaml")) is None
    searched = {"spaces.contextual": "{loss.k: {choice: [4, 8]}}"}
    overrides = [f"tune_each.{key}={value}" for key, value in searched.items()]
    told = ablation_advice(load_ablation(repository / "ablations/confirmation.yaml", overrides))
    assert told is not None and "loss.k 8 at 4" in told
    overrides.append("tune_each.ties={sampler.images_per_class: loss.k}")
    assert ablation_advice(load_ablation(repository / "ablations/confirmation.yaml", overrides)) is None


def test_a_tie_of_an_option_that_the_loss_does_not_have_says_nothing(repository):
    overrides = [
        "trial.loss={name: contrastive}",
        "search.constraints=[]",
        "search.space={optimizer.lr: {loguniform: [1e-4, 1e-2]}}",
    ]
    config = _space(repository, *overrides)
    assert resolve_trial(config, {"optimizer.lr": 1e-3}).sampler.images_per_class == 4
    searched = "search.space={loss.name: {choice: [contrastive, contextual]}, loss.k: {choice: [2, 8]}}"
    config = _space(repository, *overrides[:2], searched, "search.conditions={loss.k: \"loss.name == 'contextual'\"}")
    assert resolve_trial(config, {"loss.name": "contrastive"}).sampler.images_per_class == 4
    assert resolve_trial(config, {"loss.name": "contextual", "loss.k": 8}).sampler.images_per_class == 8
    with pytest.raises(ConfigError, match=r'search.ties.loss.kk: the trial has no loss.kk .*did you mean "loss.k"'):
        _space(repository, "search.ties={sampler.images_per_class: loss.kk}")


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["search.space.loss.k={int: [2, 8]}"], "batch_size 128 is no multiple of images_per_class"),
        (["search.space.loss.k={uniform: [2, 8]}"], "of 100 random points 100 cannot be run"),
        (["search.space.loss.name={choice: [contextual, nonsense]}"], "unknown loss: 'nonsense'"),
        (["search.conditions.loss.k=loss.contextual_weight > 0.2", "search.space.loss.k={choice: [-5, 4]}",
          "search.start_from=[]"], "loss.k: expected a number of at least 2; found -5"),
        (["search.conditions.loss.k=loss.name == 'contxtual'", "search.start_from=[]"], "holds at none of"),
        (["search.conditions.loss.k=loss.epsilon / 0 > 1", "search.start_from=[]"], "holds at none of"),
        (["search.constraints=[\"loss.k < 'x'\"]"], "compares what cannot be compared"),
        (["search.constraints=[loss.k in 5]"], "it excludes nothing"),
    ],
)  # fmt: skip
def test_points_that_cannot_be_run_and_expressions_without_effect_are_told(repository, overrides, told):
    found = search_advice(_space(repository, *overrides))
    assert any(told in each for each in found), found


@pytest.mark.parametrize("expression", ["3", "'false'", "1 < 2"])
def test_an_expression_that_names_no_setting_is_refused(repository, expression):
    for override in (f'search.constraints=["{expression}"]', f'search.conditions.loss.k="{expression}"'):
        with pytest.raises(ConfigError, match="names no setting"):
            _space(repository, override)


def test_a_comment_in_an_expression_is_refused(repository):
    with pytest.raises(ConfigError, match="what follows the # would be left out"):
        _space(repository, 'search.constraints=["loss.k < 8 # and loss.k > 2"]')
    assert _space(repository, "search.constraints=[\"loss.name != 'a#b'\"]").search.constraints
