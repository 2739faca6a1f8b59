"""Every shipped ablation and search space loads, resolves, and says something."""

from pathlib import Path

import pytest

from ctxtune.ablation.runs import run_count
from ctxtune.config import cells_of, contrasts_of, load_ablation, load_search_space, reference_cell, search_of
from ctxtune.config.design import configuration_hash

REPOSITORY = Path(__file__).resolve().parents[2]
ABLATIONS = sorted((REPOSITORY / "ablations").glob("*.yaml"))
SPACES = sorted((REPOSITORY / "search_spaces").glob("*.yaml"))
GPU_LEARNING_RATES = "tune_each.space.optimizer.lr={loguniform: [1.0e-5, 5.0e-4]}"
RUNS = {
    "quickstart": (0, 9),
    "contextual_loss": (0, 60),
    "losses": (60, 30),
    "confirmation": (288, 48),
    "label_noise": (48, 60),
    "label_noise_searched": (144, 60),
    "image_noise": (32, 40),
    "data_withheld": (32, 40),
    "lambda": (0, 30),
    "k": (0, 20),
    "epsilon": (0, 25),
    "margins": (0, 35),
    "gamma": (0, 35),
    "batch_size": (16, 20),
    "embedding_size": (0, 20),
    "grocery_parts": (48, 120),
    "grocery_losses": (96, 60),
    "grocery_label_noise": (90, 75),
    "grocery_data_withheld": (48, 40),
    "grocery_full_noise": (16, 24),
    "grocery_confirmation": (960, 160),
}
"""Tuning trials and runs, as docs/ablations.md and the files' heads say."""


def overrides_for(file: Path, data: str) -> list[str]:
    """What the head of the file says for another data set."""
    overrides = [f"base=../search_spaces/{data}.yaml"]
    if "tune_each:" in file.read_text():
        overrides.append(GPU_LEARNING_RATES)
        assert GPU_LEARNING_RATES.partition("=")[0] in file.read_text()
    if file.stem == "embedding_size":
        overrides.append("factors.model.embedding_dim=[64,128,256,512]")
    if file.stem == "epsilon" and data == "cub":
        overrides.append("factors.loss.epsilon=[0.005,0.02,0.04,0.1,0.3]")
    if file.stem == "lambda" and data == "cub":
        overrides.append("factors.loss.contextual_weight=[0.0,0.2,0.4,0.6,0.8,0.95,1.0]")
    if file.stem == "data_withheld":
        overrides.append(f"trial.sampler.batches_per_epoch={34 if data == 'cub' else 95}")
    for override in overrides:
        key, _, value = override.partition("=")
        assert (key in file.read_text() and value in file.read_text()) or key.endswith("batches_per_epoch")
    return overrides


def test_all_are_there_and_cost_what_they_say():
    assert {file.stem for file in ABLATIONS} == RUNS.keys()
    for file in ABLATIONS:
        ablation = load_ablation(file)
        assert run_count(ablation, len(cells_of(ablation))) == RUNS[file.stem]
    spaces = {"quickstart", "glyphs", "omniglot", "cub", "cars", "sop", "inshop", "inaturalist"}
    spaces |= {"grocery", "grocery_full", "cars_dinov2", "cub_dinov2", "reality_check"}
    assert {file.stem for file in SPACES} == spaces


@pytest.mark.parametrize("data", ["as shipped", "cub", "cars"])
@pytest.mark.parametrize("file", ABLATIONS, ids=lambda file: file.stem)
def test_arms_resolve_and_differ(file, data):
    if data != "as shipped" and (file.stem == "quickstart" or file.stem.startswith("grocery")):
        pytest.skip("for its own data set")
    ablation = load_ablation(file, [] if data == "as shipped" else overrides_for(file, data))
    cells = cells_of(ablation)
    assert len({configuration_hash(cell) for cell in cells}) == len(cells) >= 3
    contrasts = contrasts_of(ablation, cells)
    assert contrasts and {each.cell for each in contrasts}.isdisjoint({each.against for each in contrasts})
    if ablation.tune_each:
        sizes = {len(search_of(ablation, cell).search.space) for cell in cells}
        assert len(sizes) == 1  # as many dimensions for everyone: equal trials are then an equal budget
        assert ablation.confirmatory or not set(ablation.tune_each.folds or ()) & set(ablation.validation.use)
    if len(ablation.arms()) == 1:
        reference = reference_cell(ablation, cells)
        assert ablation.tune_each or reference.trial == ablation.trial  # "tuned for the reference" is true
    if data != "as shipped":
        assert ablation.trial.dataset.name == {"cub": "cub200", "cars": "cars196"}[data]
        assert ablation.trial.model.backbone == "resnet50"


def test_the_internal_ablations_run_on_glyphs_too():
    overrides = ["base=../search_spaces/quickstart.yaml", "seeds=3"]
    ablation = load_ablation(REPOSITORY / "ablations/contextual_loss.yaml", overrides)
    assert ablation.trial.dataset.name == "glyphs"
    assert run_count(ablation, len(cells_of(ablation))) == (0, 36)


def test_the_ten_ablations_of_the_paper_are_those_of_the_design():
    ablation = load_ablation(REPOSITORY / "ablations/contextual_loss.yaml")
    arms = {name.split()[0]: settings for name, settings in ablation.arms().items()}
    first = {"loss.overlap": "none", "loss.query_expansion": False, "loss.epsilon": 1e-5}
    assert {number: arms[str(number)] for number in range(1, 11)} == {
        1: first,
        2: first | {"loss.step": "sigmoid"},
        3: {"loss.query_expansion": False},
        4: {"loss.query_expansion": False, "loss.overlap": "shared"},
        5: {"loss.conjunction": "minimum"},
        6: {"loss.step": "sigmoid"},
        7: {"loss.overlap": "shared"},
        8: {"loss.overlap": "none"},
        9: {"loss.detach_expansion_normalizer": True},
        10: {"loss.detach_overlap_normalizer": False},
    }


@pytest.mark.parametrize("file", SPACES, ids=lambda file: file.stem)
def test_search_spaces_load(file):
    space = load_search_space(file)
    assert space.search.space and space.confirm is not None
