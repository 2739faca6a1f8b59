"""Ablation files: what they say, and what is refused before anything runs."""

from pathlib import Path

import pytest
import torch
import yaml

from ctxtune.config import (
    TrialSettings,
    cells_of,
    contrasts_of,
    load_ablation,
    load_search_space,
    load_trial_file,
    reference_cell,
    search_of,
    with_values,
)
from ctxtune.config.inert_settings import effective_tree, unused_settings
from ctxtune.errors import ConfigError
from ctxtune.losses import TrainingLoss

TRIAL = """
  dataset: {name: glyphs, image_size: 16}
  model: {backbone: small_conv, width: 8, embedding_dim: 16}
  loss: {name: contextual, contextual_weight: 0.8, k: 4}
  schedule: {name: cosine, epochs: 4}
  evaluation: {every: 2}
"""
FILE = f"""
name: small
trial:{TRIAL}
variants:
  full: {{}}
  sigmoid: {{loss.step: sigmoid}}
  contrastive: {{loss.name: contrastive}}
factors:
  dataset.label_noise: [0.0, 0.2]
seeds: 3
"""


TUNED = "tune_each={trials: 3, space: {optimizer.lr: {loguniform: [1e-5, 1e-2]}}}"


@pytest.fixture
def file(tmp_path):
    def write(text: str = FILE) -> Path:
        path = tmp_path / "ablation.yaml"
        path.write_text(text)
        return path

    return write


def names(ablation):
    return [cell.name for cell in cells_of(ablation)]


def test_a_grid_crosses_variants_with_factors_and_compares_at_the_same_level(file):
    ablation = load_ablation(file())
    assert names(ablation) == [
        f"{variant}, label_noise={level}" for variant in ("full", "sigmoid", "contrastive") for level in ("0", "0.2")
    ]
    cells = {cell.name: cell for cell in cells_of(ablation)}
    assert cells["sigmoid, label_noise=0.2"].settings == {"loss.step": "sigmoid", "dataset.label_noise": 0.2}
    assert cells["sigmoid, label_noise=0.2"].trial.loss.options()["step"] == "sigmoid"
    assert cells["contrastive, label_noise=0"].trial.loss.options() == {"positive_margin": 0.9, "negative_margin": 0.6}
    assert reference_cell(ablation, list(cells.values())).name == "full, label_noise=0"
    assert {(each.cell, each.against) for each in contrasts_of(ablation, list(cells.values()))} == {
        (f"{variant}, label_noise={level}", f"full, label_noise={level}")
        for variant in ("sigmoid", "contrastive")
        for level in ("0", "0.2")
    }


def test_one_factor_at_a_time_keeps_the_others_at_their_first_level(file):
    ablation = load_ablation(
        file(),
        ["design=one_factor_at_a_time", "factors.dataset.image_noise=[0.0, 0.1, 0.3]", "variants.sigmoid=null"],
    )
    of_full = [name for name in names(ablation) if name.startswith("full")]
    assert of_full == ["full", "full, label_noise=0.2", "full, image_noise=0.1", "full, image_noise=0.3"]
    assert len(names(ablation)) == 8


def test_leave_one_out_has_all_components_and_all_but_each(file):
    text = f"""
name: parts
design: leave_one_out
trial:{TRIAL}
variants:
  expansion: {{loss.query_expansion: false}}
  regularizer: {{regularizer.weight: 0.1}}
"""
    ablation = load_ablation(file(text))
    assert {cell.name: cell.settings for cell in cells_of(ablation)} == {
        "full": {"loss.query_expansion": False, "regularizer.weight": 0.1},
        "without expansion": {"regularizer.weight": 0.1},
        "without regularizer": {"loss.query_expansion": False},
    }
    assert {each.against for each in contrasts_of(ablation, cells_of(ablation))} == {"full"}
    with pytest.raises(ConfigError, match="component regularizer sets"):
        load_ablation(file(text), ["variants.third={regularizer.weight: 0.2}"])


def test_with_one_arm_every_level_is_compared_with_that_of_the_trial(file):
    ablation = load_ablation(
        file(f"name: k\ntrial:{TRIAL}\nfactors: {{loss.k: [2, 4, 8]}}\n"),
    )
    assert names(ablation) == ["k=2", "k=4", "k=8"]
    contrasts = [(each.cell, each.against) for each in contrasts_of(ablation, cells_of(ablation))]
    assert contrasts == [("k=2", "k=4"), ("k=8", "k=4")]
    assert reference_cell(
        load_ablation(file(f"name: k\nreference: k=8\ntrial:{TRIAL}\nfactors: {{loss.k: [2, 8]}}\n")),
        cells_of(ablation),
    ).name == "k=8"  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["variants.x.loss.temperature=0.5"], ["variants.x.loss.temperature", "arm x", "no effect", "step is heuristic"]),
        (["variants.x={loss.contextual_weight: 0.0, loss.k: 9}"], ["loss.k", "no effect", "contextual_weight is 0"]),
        (["variants.x={loss.name: contrastive, loss.k: 9}"], ["variants.x.loss.k", "unknown option of loss contrastive"]),
        (["variants.x.regularizer.similarity_target=0.2"], ["regularizer.weight is 0"]),
        (["variants.x.loss.k=4"], ["variants.x", "changes nothing"]),
        (["variants.x={loss.contrastive_weight: 0.2}"], ["variants.x", "changes nothing"]),
        (["variants.x={}"], ["arm x", "same configuration as full"]),
        (["variants.x={loss.name: contrastive, loss.positive_margin: 0.9}"], ["arm x", "same", "contrastive"]),
        (["variants.x.loss.kk=4"], ["variants.x.loss.kk", 'did you mean "k"']),
        (["variants.x.modl.width=4"], ["variants.x.modl.width", "the trial has no modl.width"]),
        (["variants.x.loss.k=0"], ["variants.x.loss.k", "arm x, label_noise=0 cannot be run"]),
        (["variants.x.dataset.label_noise=0.4"], ["dataset.label_noise is a factor, too"]),
        (["factors.dataset.label_noize=[0.0, 0.1]"], ["label_noize", "did you mean"]),
        (["factors.loss.epsilon=[0.1, 0.1]"], ["factors", "stands twice"]),
        (["factors.loss.epsilon=[0.1]"], ["two levels"]),
        (["reference=ful"], ["reference", "did you mean", "full"]),
        (["design=lattice"], ["design", "lattice"]),
        (["design=leave_one_out"], ["'full'", "name this component"]),
        (["factors=null", "design=one_factor_at_a_time"], ["there are none"]),
        (["compare.metric=test/map_at_r"], ["compare", "validation"]),
        (
            ["compare.metric=validation/recall_at_3"],
            ["compare.metric: recall_at_3 is not among trial.evaluation.recall_at [1, 2, 4, 8]"],
        ),
        (["sedes=3"], ["sedes", 'did you mean "seeds"']),
        (["seeds=0"], ["seeds", "found 0"]),
        (["seeds=1"], ["--set seeds=1: seeds: one seed compares nothing", "need 2 at least"]),
        ([TUNED, "seeds=1"], ["seeds: one seed compares nothing"]),
        (["variants.a'b={loss.k: 3}"], ["cannot name a variant"]),
        (["tune_each={trials: 4, space: {loss.k: {choice: [2, 4]}}}"], ["arm contrastive", "has no loss.k", "null"]),
        (["tune_each={trials: 4, space: {dataset.label_noise: {choice: [0.0, 0.2]}}}"], ["set by the factor"]),
        (["tune_each={trials: 4, space: {loss.step: {choice: [sigmoid, heuristic]}}}"], ["set by the variant sigmoid"]),
        (["tune_each={trials: 4, space: {optimizer.lr: {uniform: [1.0, 2.0]}}}"], ["outside", "starts its search"]),
        (["tune_each={trials: 4}"], ["has nothing to search"]),
        (["tune_each={trials: 1, space: {optimizer.lr: {loguniform: [1e-5, 1e-2]}}}"], ["tune_each.trials"]),
        (["tune_each={trials: 2, folds: [7], space: {optimizer.lr: {loguniform: [1e-5, 1e-2]}}}"], ["fold"]),
        (
            ["tune_each={trials: 2, spaces: {contrastiv: {optimizer.lr: {loguniform: [1e-5, 1e-2]}}}}"],
            ["no such variant", 'did you mean "contrastive"'],
        ),
        (["variants.nosuch=null"], ["--set variants.nosuch=null", "variants has no nosuch", "contrastive, full, sigmoid"]),
        (["variants.sigmod=null"], ["variants has no sigmod", 'did you mean "sigmoid"']),
        (["factors.x.y=null"], ["factors has no x.y", "there are: dataset.label_noise"]),
        ([TUNED, "tune_each.spaces.contrastive=null"], ["tune_each.spaces has no contrastive", "it is empty"]),
        ([TUNED, "tune_each.spaces.full.loss.kk=null"], ["tune_each.space has no loss.kk", "optimizer.lr"]),
        (["base=missing.yaml"], ["base", "missing.yaml", "no such file"]),
        (["base={best_of: x}"], ["base", "tracking"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(file, overrides, words):
    with pytest.raises(ConfigError) as error:
        load_ablation(file(), overrides)
    for word in words:
        assert word in str(error.value)


def test_an_error_of_the_file_itself_names_its_line(file):
    path = file(FILE.replace("{loss.step: sigmoid}", "{loss.temperature: 0.5}"))
    line = next(number for number, text in enumerate(path.read_text().splitlines(), 1) if "temperature" in text)
    with pytest.raises(ConfigError, match=f"ablation.yaml:{line}: variants.sigmoid.loss.temperature"):
        load_ablation(path)


@pytest.mark.parametrize(
    ("key", "added", "words"),
    [
        ("folds", "tune_each:\n  space: {optimizer.lr: {loguniform: [1e-5, 1e-2]}}\n  folds: [9]\n",
         "tune_each.folds: must name distinct folds among 0 ... 3, not [9]"),
        ("contrastiv:", "tune_each:\n  spaces:\n    contrastiv: {optimizer.lr: {loguniform: [1e-5, 1e-2]}}\n",
         "tune_each.spaces.contrastiv: there is no such variant"),
        ("design", "design: leave_one_out\n", "variants.full: under leave_one_out"),
        ("third", "design: leave_one_out\n", "variants.third.loss.step: component sigmoid sets loss.step too"),
    ],
)  # fmt: skip
def test_what_blocks_contradict_in_has_its_line_too(file, key, added, words):
    text = FILE + added
    if key == "third":
        text = text.replace("  full: {}", "  part: {loss.k: 3}")
        text = text.replace("factors:", "  third: {loss.step: sigmoid}\nfactors:")
    wanted = "full" if key == "design" else key
    line = next(number for number, each in enumerate(text.splitlines(), 1) if wanted in each)
    with pytest.raises(ConfigError) as error:
        load_ablation(file(text))
    assert f"ablation.yaml:{line}: {words}" in str(error.value)


def test_each_command_names_the_one_that_a_file_is_for(file):
    for load in (load_search_space, load_trial_file):
        with pytest.raises(ConfigError, match=r"this is an ablation file; run it with ctxtune\.ablate"):
            load(file())
    with pytest.raises(ConfigError, match=r"this is a search-space file; run it with ctxtune\.sweep"):
        load_ablation(file(f"name: s\ntrial:{TRIAL}\nsearch: {{}}\n"))


def test_a_base_file_lies_under_the_trial_and_brings_its_validation(file, tmp_path):
    (tmp_path / "base.yaml").write_text(f"name: b\ntrial:{TRIAL}\nvalidation: {{folds: 3}}\nsearch: {{}}\n")
    text = FILE.replace(f"trial:{TRIAL}", "base: base.yaml\ntrial: {loss: {k: 6}}\n")
    ablation = load_ablation(file(text))
    assert (ablation.trial.loss.options()["k"], ablation.trial.loss.options()["contextual_weight"]) == (6, 0.8)
    assert (ablation.validation.folds, ablation.based_on) == (3, "base.yaml")
    other_loss = load_ablation(
        file(FILE.replace(f"trial:{TRIAL}", "base: base.yaml\ntrial: {loss: {name: triplet}}\n")),
        ["variants.sigmoid=null"],
    )
    assert other_loss.trial.loss.name == "triplet"


def test_the_best_of_a_sweep_is_asked_for_and_what_the_file_says_lies_on_it(file):
    asked = []

    def find(request, data):
        asked.append((request.best_of, data["name"]))
        return {"trial": yaml.safe_load(f"trial:{TRIAL}")["trial"] | {"precision": "float32"}}

    text = FILE.replace(f"trial:{TRIAL}", "base: {best_of: cars}\ntrial: {loss: {k: 6}}\n")
    ablation = load_ablation(file(text), find_best=find)
    assert asked == [("cars", "small")]
    assert (ablation.trial.precision, ablation.trial.loss.options()["k"]) == ("float32", 6)
    assert ablation.based_on == "best of cars"


def test_a_resolved_ablation_reads_back_as_itself(file):
    ablation = load_ablation(
        file(),
        [
            "tune_each={trials: 3, space: {optimizer.lr: {loguniform: [1e-5, 1e-2]}}}",
            "tune_each.spaces.full.loss.k={choice: [2, 4]}",
        ],
    )
    assert type(ablation).model_validate(yaml.safe_load(yaml.safe_dump(ablation.model_dump(mode="json")))) == ablation


def test_one_seed_is_enough_where_search_and_seeds_are_repeated(file):
    assert load_ablation(file(), [TUNED, "tune_each.repeats=2", "seeds=1"]).seeds == 1


def test_each_variant_may_search_more_or_less_than_the_others(file):
    ablation = load_ablation(
        file(),
        [
            "tune_each={trials: 3, space: {optimizer.lr: {loguniform: [1e-5, 1e-2]}, loss.k: {choice: [2, 4]}}}",
            "tune_each.spaces.contrastive={loss.k: null, loss.positive_margin: {uniform: [0.7, 1.0]}}",
        ],
    )
    spaces = {cell.arm: set(search_of(ablation, cell).search.space) for cell in cells_of(ablation)}
    assert spaces["full"] == spaces["sigmoid"] == {"optimizer.lr", "loss.k"}
    assert spaces["contrastive"] == {"optimizer.lr", "loss.positive_margin"}
    alike = load_ablation(
        file(), [TUNED, "tune_each.spaces={full: {loss.k: {choice: [2, 4]}}}", "tune_each.spaces.full=null"]
    )
    assert alike.tune_each.spaces == {}
    budgets = {(search_of(ablation, cell).search.trials, search_of(ablation, cell).search.scheduler.name) for cell in
               cells_of(ablation)}  # fmt: skip
    assert budgets == {(3, "none")}


CHANGES = {
    "k": 6, "epsilon": 0.2, "slope": 3.0, "step": "sigmoid", "temperature": 0.05, "conjunction": "minimum",
    "overlap": "shared", "query_expansion": False, "detach_overlap_normalizer": False,
    "detach_expansion_normalizer": True, "positive_margin": 0.99, "negative_margin": 0.1, "contextual_weight": 0.6,
}  # fmt: skip


def loss_and_gradient(trial: TrialSettings) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(8).repeat_interleave(4)
    centers = torch.randn(8, 6, generator=generator, dtype=torch.float64)
    embeddings = (centers[labels] + 0.7 * torch.randn(32, 6, generator=generator, dtype=torch.float64)).requires_grad_()
    loss = TrainingLoss(trial.loss, trial.regularizer, num_classes=8, embedding_dim=6)
    total, _ = loss(embeddings, labels)
    (gradient,) = torch.autograd.grad(total, embeddings)
    return total.detach(), gradient


@pytest.mark.parametrize(
    "base",
    [
        {},
        {"loss.step": "sigmoid"},
        {"loss.overlap": "none"},
        {"loss.query_expansion": False},
        {"loss.overlap": "none", "loss.query_expansion": False},
        {"loss.contextual_weight": 0.0},
        {"loss.contrastive_weight": 0.0},
        {"regularizer.weight": 0.1},
    ],
)
def test_what_is_called_unused_changes_neither_loss_nor_gradient_and_everything_else_does(base):
    """The oracle is the loss itself."""
    trial = with_values(TrialSettings.model_validate(yaml.safe_load(f"trial:{TRIAL}")["trial"]), base)
    unused = unused_settings(trial)
    changes = {f"loss.{key}": value for key, value in CHANGES.items()} | {"regularizer.similarity_target": 0.5}
    before = loss_and_gradient(trial)
    for path, value in changes.items():
        if path in base or (path == "loss.contextual_weight" and base.get("loss.contrastive_weight") == 0.0):
            continue
        changed = with_values(trial, {path: value})
        same = all(
            torch.allclose(one, two, rtol=1e-12, atol=1e-14)
            for one, two in zip(before, loss_and_gradient(changed), strict=True)
        )
        assert same == (path in unused), path
        assert (effective_tree(changed) == effective_tree(trial)) == (path in unused), path
