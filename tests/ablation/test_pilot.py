"""`--pilot`: what an ablation will find, by the command: an earlier ablation in MLflow, or seeds that are run for it."""

import json

import pytest

from ctxtune.ablate import main
from ctxtune.tracking import read_runs
from tests.helpers.ablations import NAME, SMALL, ablation_command, run_ablation
from tests.helpers.processes import run_here
from tests.helpers.reports import FakeAblation

UNTUNED = [text for text in SMALL if not text.startswith("tune_each")]
ASSUMED = ("--dry-run", "--assume", "images_per_second=400,gpus=0")


def effect(variant, levels):
    return {"full": 0.5, "other": 0.45}.get(variant, 0.48)


@pytest.fixture
def planned(repository, tmp_path):
    """Plan the quickstart ablation by a pilot in a store that holds an ablation."""
    variants = ["full", "contrastive_only", "other"]
    uri = FakeAblation(effect, variants, name="earlier", seeds=6).write(tmp_path)

    def plan(pilot, *overrides):
        sets = [*UNTUNED, f"tracking.uri={uri}", *overrides]
        return run_here(main, tmp_path, *ablation_command(repository, *ASSUMED, "--pilot", pilot, overrides=sets)[3:])

    return plan


def test_an_earlier_ablation_says_what_the_seeds_find(planned):
    done = planned("earlier", "variants.another_k={loss.k: 6}", "seeds=4", "confirmatory=true")
    assert done.returncode == 0, done.stderr
    assert "what 4 seeds find" in done.stdout and "by the pilot earlier" in done.stdout
    assert "contrastive_only − full" in done.stdout and "another_k − full *" in done.stdout
    assert "* not in the pilot: by the deviation of its contrasts together" in done.stdout
    assert done.stdout.index("a full-length run takes") < done.stdout.index("what 4 seeds find")

    assert "the pilot was scored on validation classes, the ablation is on the test classes" in done.stdout


@pytest.mark.parametrize(
    ("pilot", "overrides", "said"),
    [
        ("earlyer", [], "pilot: earlyer: No sweep or ablation is named 'earlyer'"),
        (
            "earlier",
            ["compare.metric=validation/recall_at_8"],
            "it has no two seeds of a contrast with validation/recall_at_8",
        ),
        ("1", [], "expected the name of an ablation, or 2 to"),
        ("3", [f"name={'n' * 98}"], "is too long a name"),
    ],
)
def test_a_pilot_that_cannot_be_is_refused_before_anything_is_loaded(planned, tmp_path, pilot, overrides, said):
    # the data set is not there, which the plan would say if it were reached
    missing = ["trial.dataset={name: omniglot, root: nowhere, image_size: 16}"]
    done = planned(pilot, *missing, *overrides)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr and "nowhere" not in done.stderr


def test_a_pilot_goes_with_a_plan_only(repository, tmp_path):
    done = run_here(main, tmp_path, *ablation_command(repository, "--pilot", "earlier", overrides=UNTUNED)[3:])
    assert done.returncode == 2 and "give it with --dry-run" in done.stderr


@pytest.mark.ray
@pytest.mark.slow
def test_a_pilot_of_a_few_seeds_is_run_once_and_its_seeds_are_none_of_the_ablation(repository, tmp_path):
    arguments = ("--dry-run", "--pilot", "2")
    first = run_ablation(repository, tmp_path, *arguments, overrides=UNTUNED)
    assert first.returncode == 0, first.stderr + first.stdout
    assert f"the pilot {NAME}-pilot is run: 2 seeds of every cell" in first.stdout
    assert f"by the pilot {NAME}-pilot" in first.stdout
    second = run_ablation(repository, tmp_path, *arguments, overrides=UNTUNED)
    assert second.returncode == 0 and "is run" not in second.stdout
    assert f"by the pilot {NAME}-pilot" in second.stdout
    runs = read_runs(f"sqlite:///{tmp_path / 'mlflow.db'}", f"{NAME}-pilot")
    assert sum(run.kind == "cell" for run in runs) == 4
    done = run_ablation(repository, tmp_path, "--json", overrides=UNTUNED)
    assert done.returncode == 0 and json.loads(done.stdout)["states"] == {"completed": 4}
    theirs = {run.tags["seed"] for run in runs if run.kind == "cell"}
    ours = {run.tags["seed"] for run in read_runs(f"sqlite:///{tmp_path / 'mlflow.db'}", NAME) if run.kind == "cell"}
    assert len(theirs) == len(ours) == 2 and not theirs & ours
