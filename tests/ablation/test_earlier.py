"""`tuned_with`: what earlier studies have spent on an arm is counted and told."""

import pytest
from rich.console import Console

from ctxtune.ablate import main
from ctxtune.ablation.display import print_results
from ctxtune.ablation.earlier import earlier_tuning
from ctxtune.ablation.results import results_of
from ctxtune.config import load_ablation
from ctxtune.errors import ConfigError
from ctxtune.tuning.record.journal import Journal
from tests.helpers.ablations import SMALL, ablation_command
from tests.helpers.processes import run_here
from tests.helpers.reports import FakeAblation

PLAN = ("--dry-run", "--assume", "images_per_second=400,gpus=0")


@pytest.fixture
def store(tmp_path):
    return FakeAblation(lambda variant, levels: 0.5, ["full", "contrastive_only"], name="earlier", seeds=3).write(
        tmp_path
    )


def test_runs_and_hours_of_the_arm_are_counted_and_told(repository, store, tmp_path):
    sets = ["tuned_with={full: [earlier], no_query_expansion: [earlier]}", f"tracking.uri={store}"]
    ablation = load_ablation(repository / "ablations/quickstart.yaml", sets)
    found = earlier_tuning(ablation)
    assert [(each.variant, each.name, each.runs) for each in found] == [
        ("full", "earlier", 3),  # its own runs
        ("no_query_expansion", "earlier", 6),  # no variant of that name: all of them
    ]
    journal = Journal(tmp_path / "journal.jsonl")
    journal.decided("tuned_with", [each.model_dump() for each in found])
    journal.close()
    results = results_of(ablation, Journal(tmp_path / "journal.jsonl"), ended=True)
    assert tuple(results.design.tuned_with) == found and results.design.earlier("full")[0] == 3
    console = Console(width=200, record=True)
    print_results(console, results, {})
    assert "Tuned before, beside what was tuned here: full: earlier, 3 runs" in console.export_text()


def test_the_plan_tells_it_and_a_wrong_name_is_refused_before_anything_is_loaded(repository, store, tmp_path):
    sets = [*SMALL, f"tracking.uri={store}"]
    told = [*sets, "tuned_with={full: [earlier]}"]
    done = run_here(main, tmp_path, *ablation_command(repository, *PLAN, overrides=told)[3:])
    assert done.returncode == 0 and "full: earlier, 3 runs" in done.stdout, done.stderr
    wrong = [*sets, "tuned_with={full: [earlyer]}", "trial.dataset={name: omniglot, root: nowhere, image_size: 16}"]
    for arguments in (PLAN, ()):
        done = run_here(main, tmp_path, *ablation_command(repository, *arguments, overrides=wrong)[3:])
        assert (done.returncode, done.stdout) == (2, "")
        assert "tuned_with.full: No sweep or ablation is named 'earlyer'" in done.stderr
    assert not list((tmp_path / "results").glob("*/journal.jsonl"))


def test_an_arm_that_is_none_is_refused(repository):
    with pytest.raises(ConfigError, match=r"tuned_with\.ful: there is no such variant; did you mean"):
        load_ablation(repository / "ablations/quickstart.yaml", ["tuned_with={ful: [earlier]}"])
