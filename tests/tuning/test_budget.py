"""How a budget is split: simulated sweeps through the real sampler, rungs, selection and recorder."""

import re

import pytest

from ctxtune.config import load_search_space
from ctxtune.errors import ConfigError, CtxtuneError
from ctxtune.results.note import sweep_note
from ctxtune.results.summary import sweep_summary
from ctxtune.results.wording import confirmation_sentence
from ctxtune.tuning.backend.cluster import RunResources
from ctxtune.tuning.budget import Budget
from ctxtune.tuning.callbacks import SweepStopped
from ctxtune.tuning.estimates import Estimate
from ctxtune.tuning.record.journal import Journal
from ctxtune.tuning.record.trial_report import TrialReport
from ctxtune.tuning.search.sampler import Sampler
from ctxtune.tuning.stages import START
from ctxtune.tuning.sweep_results import results_of
from tests.helpers.runs import silent_recorder, trials
from tests.helpers.search_spaces import METRIC
from tests.helpers.simulated import Killed, drive


def cars(repository, *overrides: str):
    return load_search_space(repository / "search_spaces/cars.yaml", ["search.sampler.name=random", *overrides])


OTHERS = [(1.8, 4), (0.67, 1), (0.3, 1), (0.3, 4)]


def spent(journal: Journal) -> float:
    return sum(run.last("cost/gpu_hours") or 0.0 for run in journal.runs.values())


@pytest.mark.parametrize(
    ("full_run", "places"),
    [(1.8, 1), (0.67, 4), *(pytest.param(*each, marks=pytest.mark.slow) for each in OTHERS)],
)
def test_the_search_has_its_share_and_the_whole_keeps_within_its_hours(repository, tmp_path, full_run, places):
    space = cars(repository, "search.budget.hours=24")
    journal, executor = drive(space, tmp_path / "j", hours=full_run, concurrent=places)
    evaluation = full_run * 10 / 160
    assert executor.clock / 3600 <= 24 + evaluation
    searched = [run.state for run in journal.stage("search")]
    everything = len(searched) == space.search.trials and "killed" not in searched
    assert everything or executor.spans["search"] >= 0.6 * 24 - evaluation
    assert len(journal.completed("confirmation")) in range(4, 11)


@pytest.mark.parametrize("places", [1, 4])
def test_gpu_hours_are_kept_whatever_runs_at_a_time(repository, tmp_path, places):
    space = cars(repository, "search.budget={gpu_hours: 16}")
    journal, _ = drive(space, tmp_path / "j", hours=0.67, concurrent=places)
    assert spent(journal) <= 16 + 0.67 * 10 / 160 * places
    search = sum(run.last("cost/gpu_hours") or 0.0 for run in journal.stage("search"))
    assert search >= 0.6 * 16 - places * 0.67 * 10 / 160


def test_no_budget_is_as_the_file_says(repository, tmp_path):
    space = cars(repository, "search.budget={}", "search.trials=12")
    journal, _ = drive(space, tmp_path / "j", hours=2)
    arms = {run.spec.arm for run in journal.stage("selection")}
    assert len(journal.stage("selection")) == 8 * len(arms)
    assert len(journal.stage("confirmation")) == 10


def test_a_budget_that_holds_everything_leaves_nothing_out_and_the_search_takes_what_the_rest_does_not_need(
    repository, tmp_path
):
    small = ["select={top: 2, folds: [1], seeds: 1}", "confirm.seeds=2"]  # 3 runs, and 4 of 4/3
    space = cars(repository, "search.budget.hours=12", *small, "search.trials=500")
    journal, executor = drive(space, tmp_path / "j", hours=0.25)
    assert executor.spans["search"] == pytest.approx(12 - 0.25 * (3 + 4 * 4 / 3), abs=0.05)
    assert (len(journal.completed("selection")), len(journal.completed("confirmation"))) in ((3, 4), (2, 4))


def test_selection_is_a_race_whose_later_rounds_hold_the_better_half(repository, tmp_path):
    notes: list[str] = []
    space = cars(repository, "search.budget.hours=24")
    journal, _ = drive(space, tmp_path / "j", hours=0.55, notes=notes)
    settled = journal.decisions.selection
    assert (len(settled.rounds) >= 2 and settled.arms[-1:] == (START,)) or "trial-0000" in settled.arms
    scores: dict[str, list[float]] = {}
    for run in journal.stage("selection"):
        scores.setdefault(run.spec.arm, []).append(run.last(METRIC))
    for racing, (count, blocks), following in zip(settled.racing, settled.rounds, settled.racing[1:], strict=False):
        assert len(racing) == count
        means = {arm: sum(scores[arm][:blocks]) / blocks for arm in racing}
        assert list(following) == sorted(racing, key=lambda arm: -means[arm])[: len(following)]
    last = settled.racing[-1]
    assert journal.decisions.chosen == max(last, key=lambda arm: sum(scores[arm]) / len(scores[arm]))
    assert any("fit in the budget" in note for note in notes)


def test_confirmation_names_how_many_seeds_it_could_afford_before_a_test_score_is_known(repository, tmp_path):
    notes: list[str] = []
    space = cars(repository, "search.budget.hours=24")
    drive(space, tmp_path / "j", hours=1.0, notes=notes)
    lines = (tmp_path / "j").read_text().splitlines()
    settled = next(number for number, line in enumerate(lines) if '"name":"confirmation"' in line)
    first = next(number for number, line in enumerate(lines) if '"stage":"confirmation"' in line)
    assert settled < first
    assert any(note.startswith("confirmation: ") and "of 5 seeds" in note for note in notes)


@pytest.mark.parametrize("die_after", [40, 150, 172])
def test_killed_and_resumed_it_decides_the_same(repository, tmp_path, die_after):
    space = cars(repository, "search.budget.hours=24")
    whole, _ = drive(space, tmp_path / "whole", hours=0.6)
    deaths = 0
    for _ in range(10):
        try:
            broken, _ = drive(space, tmp_path / "broken", hours=0.6, die_after=die_after)
            break
        except Killed:
            deaths += 1
    else:
        broken, _ = drive(space, tmp_path / "broken", hours=0.6)
    assert deaths
    asked = [line for line in (tmp_path / "broken").read_text().splitlines() if '"event":"asked"' in line]
    assert len(asked) == len(broken.runs)
    for settled in ("selection", "confirmation"):
        lines = (tmp_path / "broken").read_text().splitlines()
        first = next(number for number, line in enumerate(lines) if f'"stage":"{settled}"' in line)
        later = [line for line in lines[first:] if f'"name":"{settled}"' in line]
        assert all('"racing"' in line for line in later)  # only who goes on is added, the plan stands
    assert broken.decisions.confirmation.seeds >= 2
    assert len(broken.completed("confirmation")) == 2 * broken.decisions.confirmation.seeds
    total = sum(run.seconds for run in broken.runs.values()) / 3600
    assert total <= 24 + 0.1
    assert abs(len(broken.stage("search")) - len(whole.stage("search"))) <= 8  # what a death costs: an interval each


def test_a_larger_budget_goes_on_with_the_search_and_with_the_trials_that_the_smaller_one_killed(repository, tmp_path):
    small = cars(repository, "search.budget.hours=12")
    with pytest.raises(Killed):
        drive(small, tmp_path / "j", hours=0.6, die_at="selection")
    before = Journal(tmp_path / "j")
    killed = [run.key for run in before.stage("search") if run.state == "killed"]
    assert killed and not before.stage("confirmation")
    journal, executor = drive(cars(repository, "search.budget.hours=48"), tmp_path / "j", hours=0.6)
    assert len(journal.stage("search")) == 64
    assert all(journal.runs[key].state != "killed" for key in killed)
    assert all(journal.runs[key].epoch >= before.runs[key].epoch for key in killed)
    assert {run.key for run in before.stage("selection")} <= {run.key for run in journal.stage("selection")}
    assert executor.clock / 3600 <= 48
    assert len(journal.completed("confirmation")) == 10


def test_once_confirmation_has_begun_a_larger_budget_changes_nothing(repository, tmp_path):
    journal, _ = drive(cars(repository, "search.budget.hours=12"), tmp_path / "j", hours=0.6)
    events = journal.events
    again, _ = drive(cars(repository, "search.budget.hours=48"), tmp_path / "j", hours=0.6)
    assert again.events == events


def test_journals_of_earlier_versions_go_on_as_they_began(repository, tmp_path):
    space = cars(repository, "search.budget.hours=24")
    drive(space, tmp_path / "new", hours=0.6)
    old, selections = [], 0
    for line in (tmp_path / "new").read_text().splitlines():
        line = re.sub(r',"crc32":"\w+"', "", line)  # that version wrote no checksums
        if '"event":"format"' in line or ('"event":"decided"' in line and '"search_ended"' not in line):
            continue
        if '"search_ended"' in line:
            line = '{"event":"decided","name":"search_ended","value":true}'
        selections += '"stage":"selection"' in line
        if selections == 2:
            break
        old.append(line)
    (tmp_path / "old").write_text("\n".join(old) + "\n")
    journal, _ = drive(space, tmp_path / "old", hours=0.6)
    assert len(journal.decisions.selection.rounds) == 1
    arms = len(journal.decisions.selection.arms)
    assert len(journal.completed("selection")) == 8 * arms


def test_a_selection_planned_before_a_setting_was_known_goes_on_as_planned(repository, tmp_path):
    """As by a version whose `select` had no `folds`."""
    space = cars(repository, "search.budget.hours=24")
    with pytest.raises(Killed):
        drive(space, tmp_path / "new", hours=0.6, die_at="selection")
    planned = Journal(tmp_path / "new").decisions.selection
    text = re.sub(r',"crc32":"\w+"', "", (tmp_path / "new").read_text())
    assert text.count('"folds":"all",') > 1
    lines = [line.replace('"folds":"all",', "") if '"name":"selection"' in line else line for line in text.splitlines()]
    (tmp_path / "old").write_text("\n".join(line for line in lines if '"event":"format"' not in line) + "\n")
    again, _ = drive(space, tmp_path / "old", hours=0.3)  # faster: more would fit now
    assert again.decisions.selection.rounds == planned.rounds
    assert again.decisions.selection.racing[0] == planned.racing[0]


def test_nothing_but_the_start_is_not_confirmed_with_seeds_of_its_own(repository, tmp_path):
    notes: list[str] = []
    space = cars(repository, "search.budget.hours=24")
    journal, _ = drive(space, tmp_path / "j", hours=1.1, notes=notes, slow_after_start=400)
    assert [run.state for run in journal.stage("search")] == ["completed", "killed"]
    assert not journal.stage("selection") and not journal.stage("confirmation")
    assert journal.decisions.chosen == "trial-0000"
    assert any("before anything but the start had run" in note for note in notes)
    results = results_of(space, journal, ended=True)
    words = "1 of 64 trials: the budget ended the search; nothing can be concluded."
    assert confirmation_sentence(results) == sweep_summary(results)["search"] == words
    assert words in sweep_note(results) and not sweep_summary(results)["conclusive"]
    # Nothing was confirmed: a larger budget still goes on with the search.
    more = cars(repository, "search.budget.hours=4000")
    journal, _ = drive(more, tmp_path / "j", hours=1.1)
    assert len(journal.stage("search")) == 64 and len(journal.completed("confirmation")) == 10


@pytest.mark.parametrize("limit", ["hours", "gpu_hours"])
def test_a_budget_that_cannot_hold_a_search_is_refused_as_soon_as_a_run_is_measured_and_the_number_does(
    repository, tmp_path, limit
):
    with pytest.raises(
        SweepStopped, match=rf"search.budget.{limit}: 3 cannot hold the start, 4 more trials"
    ) as refused:
        drive(cars(repository, f"search.budget={{{limit}: 3}}"), tmp_path / "j", hours=1)
    assert refused.value.reason == "budget"
    assert sum(len(run.reports) for run in Journal(tmp_path / "j").runs.values()) == 2
    enough = re.search(r"(\d[\d.]*) would do", str(refused.value))[1]
    journal, executor = drive(cars(repository, f"search.budget={{{limit}: {enough}}}"), tmp_path / "j", hours=1)
    assert len(journal.stage("search")) >= 5 and len(journal.completed("confirmation")) >= 4
    assert (executor.clock / 3600 if limit == "hours" else spent(journal)) <= float(enough) + 0.1


def test_a_search_that_slows_down_before_its_first_trial_has_ended_says_what_would_do(repository, tmp_path):
    space = cars(repository, "search.budget.hours=24")
    with pytest.raises(CtxtuneError, match=r"the budget ended the search.*--resume --set search.budget.hours=\d"):
        drive(space, tmp_path / "j", hours=1, stall=15)


def test_what_is_measured_is_told_once(repository, tmp_path):
    told: list[float] = []
    drive(cars(repository, "search.budget.hours=12"), tmp_path / "j", hours=0.3, on_measured=told.append)
    assert told == [pytest.approx(0.3 * 3600)]


def test_estimates_know_stopped_runs_and_what_a_cheap_trial_is(repository, tmp_path):
    space = cars(repository, "search.schedule={epochs: 40}", "search.crop=112", "search.scheduler.grace_epochs=2")
    journal = Journal(tmp_path / "j")
    spec = next(trials(space, journal, Sampler(space)))
    journal.asked(spec)
    journal.reported(spec.key, TrialReport(10, {"time/seconds": 100.0, METRIC: 0.1}))
    journal.ended(spec.key, "pruned")
    recorder = silent_recorder(journal, METRIC)
    estimate = Budget(space, recorder, RunResources(1, 1, 1), lambda: 0.0).estimate
    # 10 epochs of 40 took 100 s: a trial takes 400 s, and a full-length run four times as long at four times the pixels.
    assert estimate.run(space, "search") == pytest.approx(400)
    assert estimate.run(space, "selection") == pytest.approx(6400)
    assert estimate.run(space, "confirmation") == pytest.approx(6400 * 4 / 3)


def test_a_confirmation_with_a_model_for_each_fold_takes_so_many_runs_and_is_not_changed_once_it_has_begun(
    repository, tmp_path
):
    by_fold = ["confirm={seeds: 2, train_on: folds}", "search.trials=4", "search.budget={}"]
    space = cars(repository, *by_fold)
    journal, _ = drive(space, tmp_path / "j", hours=0.6)
    confirmed = journal.stage("confirmation")
    assert len(confirmed) in (2, 4)  # the start may be what is chosen
    assert all(run.spec.folds == (0, 1, 2, 3) and run.spec.scores_test for run in confirmed)
    seconds = Estimate(seconds=100.0, setup=5.0)
    assert seconds.run(space, "confirmation") == pytest.approx(405)
    with pytest.raises(
        ConfigError, match=r"the confirmation began with .*'train_on': 'folds'.*now the file says .*'all'"
    ):
        drive(cars(repository, "confirm={seeds: 2}", *by_fold[1:]), tmp_path / "j", hours=0.6)


def test_patience_counts_trials_since_the_best(repository, tmp_path):
    space = cars(repository, "search.trials=6", "search.scheduler.name=none", "search.budget={no_improvement_for: 2}")
    scores = [0.3, 0.6, 0.4, 0.5, 0.9, 0.95]

    def score(spec, share):
        return scores[int(spec.key[-4:])] if spec.stage == "search" else 0.5

    journal, _ = drive(space, tmp_path / "j", hours=1, score=score)
    assert [run.state for run in journal.stage("search")] == ["completed"] * 4
    assert journal.decisions.search_ended.reason == "no_improvement"


@pytest.mark.parametrize("hours", [6, 12])
def test_where_some_configurations_take_much_longer_each_is_estimated_by_its_own_runs(repository, tmp_path, hours):
    """A head takes a minute, low-rank adapters an hour, and the adapters are better."""
    file = repository / "search_spaces/cars_dinov2.yaml"
    config = load_search_space(file, ["search.sampler.name=random", f"search.budget.hours={hours}"])

    def adapted(spec) -> bool:
        return spec.trial.model.train != "head"

    def score(spec, share):
        return (0.6 if adapted(spec) else 0.4) * share + 0.001 * sum(spec.key.encode()) / 1000

    journal, executor = drive(
        config, tmp_path / "j", hours=1, score=score, slower=lambda spec: 1.0 if adapted(spec) else 1 / 60
    )
    assert adapted(journal.runs[journal.decisions.chosen].spec)
    assert executor.clock / 3600 <= hours + 1 / 8
    assert len(journal.completed("confirmation")) >= 4


def test_without_a_selection_the_budget_goes_to_search_and_confirmation(repository, tmp_path):
    space = cars(repository, "search.budget={hours: 12}", "select=null", "search.trials=8")
    journal, executor = drive(space, tmp_path / "j", hours=0.5)
    assert executor.clock / 3600 <= 12 + 0.5
    assert not journal.stage("selection") and len(journal.completed("confirmation")) >= 4
