"""What a dry run says before anything is started."""

import io
import re

import pytest
from rich.console import Console

from ctxtune.config import load_search_space
from ctxtune.errors import ConfigError, DataError
from ctxtune.tuning import plan
from ctxtune.tuning.plan import print_plan
from ctxtune.tuning.timing import Assumed, read_assumed


def planned(repository, file: str, *overrides: str, assumed: Assumed | None = None) -> str:
    space = load_search_space(repository / "search_spaces" / file, ["tracking.uri=sqlite:///none.db", *overrides])
    console = Console(record=True, width=200, file=io.StringIO())
    print_plan(console, space, assumed=assumed)
    return console.export_text()


THIN = ["search.budget={hours: 12, search_share: 0.3}", "confirm={seeds: 2, also: []}"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def shares(text: str) -> dict[str, int]:
    return {
        found[1]: int(found[2]) for found in re.finditer(r"^  (search|selection|confirmation) .* (\d+)%$", text, re.M)
    }


def test_a_machine_that_is_not_at_hand_is_planned_for_by_stage(repository):
    text = planned(repository, "cars.yaml", assumed=Assumed(400, 1))
    assert "official size of a data set that is not here" in text and "400 images/s a run and 1 GPU" in text
    assert sum(shares(text).values()) in (99, 100, 101) and shares(text)["search"] >= 40
    assert re.search(r"about \d+ trials, \d+ of them to their end", text)
    assert re.search(r"confirmation +\d+ runs, [34] of 5 seeds", text)
    assert "GPU-hours" in text and "of a budget of 24 hours" in text


def test_more_gpus_of_the_assumed_machine_run_more_at_a_time(repository):
    assert "8 at a time on the assumed machine" in planned(repository, "cars.yaml", assumed=Assumed(400, 8))


def test_of_a_sweep_that_is_too_large_to_be_simulated_the_whole_search_is_told(repository, monkeypatch):
    monkeypatch.setattr(plan, "MOST_REPORTS", 50)
    large = ["search.trials=1000000", "search.budget={}", "search.schedule=null", "validation.use=[0]"]
    text = planned(repository, "cars.yaml", *large, assumed=Assumed(400, 8))
    hours = float(re.search(r"a full-length run takes ([\d.]+) min", text)[1]) / 60
    whole = re.search(r"too many reports .* \(over 50\): without early stopping the search takes ([\d,]+) h", text)[1]
    assert float(whole.replace(",", "")) == pytest.approx(hours * 1_000_000 / 8, rel=0.02)


def test_a_thin_search_is_warned_of_with_lines_that_give_it_more(repository):
    text = planned(repository, "cars.yaml", *THIN, assumed=Assumed(150, 1))
    assert "warning: the search gets" in text
    found = dict(re.findall(r"^  (search\..*?)    # about (\d+) trials", text, re.M))
    before = int(re.search(r"about (\d+) of 64 trials", text)[1])
    assert found and all(int(trials) > before for trials in found.values())
    line = next(line for line in found if line.startswith("search.schedule"))
    schedule, grace = re.fullmatch(r"(search.schedule): (.*), search.scheduler.grace_epochs: (\d+)", line).group(2, 3)
    better = planned(
        repository, "cars.yaml", *THIN, f"search.schedule={schedule}",
        f"search.scheduler.grace_epochs={grace}", assumed=Assumed(150, 1),
    )  # fmt: skip
    assert int(re.search(r"about (\d+)", better)[1]) == int(found[line])


def test_a_budget_that_cannot_hold_a_search_is_refused_with_a_number_that_is_taken(repository):
    with pytest.raises(ConfigError, match=r"hours: 2 cannot hold the start, 4 more trials and 2 seeds") as refused:
        planned(repository, "cars.yaml", "search.budget.hours=2", assumed=Assumed(400, 1))
    enough = re.search(r"(\d[\d.]*) would do", str(refused.value))[1]
    text = planned(repository, "cars.yaml", f"search.budget.hours={enough}", assumed=Assumed(400, 1))
    assert re.search(r"confirmation +\d+ runs, \d of 5 seeds", text)


def test_a_budget_that_holds_more_says_how_many_trials(repository):
    text = planned(repository, "cub.yaml", assumed=Assumed(2000, 4))
    assert re.search(r"the budget holds more: search.trials: \d+ would use", text)


def test_the_price_is_told(repository):
    text = planned(repository, "cars.yaml", "resources.price_per_gpu_hour=2.5", assumed=Assumed(400, 1))
    assert "of money" in text


def test_without_an_assumption_the_data_must_be_there(repository):
    with pytest.raises(DataError, match="car_ims"):
        planned(repository, "cars.yaml")


def test_here_a_step_is_trained_and_nothing_is_left_behind(repository, tmp_path):
    text = planned(repository, "quickstart.yaml", "trial.model.width=8", "search.trials=6")
    assert re.search(r"images/s, from a step on ", text)
    assert "search       about 6 trials" in text and "budget" not in text
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "text", ["400", "images_per_second=many", "images_per_second=0", "gpus=1", "images_per_second=4,gpu=1"]
)
def test_wrong_assumptions_are_refused(text):
    with pytest.raises(ConfigError, match=r"--assume .*images_per_second"):
        read_assumed(text)
