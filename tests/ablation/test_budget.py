"""What a budget leaves of the tuning of an ablation's cells: simulated ablations through the real samplers and recorder."""

import io
import re

import pytest
from rich.console import Console

from ctxtune.ablation.display import print_results
from ctxtune.ablation.plan import print_plan
from ctxtune.ablation.results import results_of
from ctxtune.config import cells_of, load_ablation
from ctxtune.errors import ConfigError
from ctxtune.results.note import ablation_note
from ctxtune.results.summary import ablation_summary
from ctxtune.tuning.callbacks import SweepStopped
from ctxtune.tuning.record.journal import Journal
from ctxtune.tuning.timing import Assumed
from tests.helpers.simulated import Killed, drive_ablation

CELLS = 3
EVALUATION = 0.25
"""Hours between two reports of a run of one hour."""


@pytest.fixture
def ablation(repository):
    def load(*overrides: str, **budget: float):
        limits = ", ".join(f"{name}: {value}" for name, value in budget.items())
        tune = f"{{trials: 12, sampler: random, budget: {{{limits}}}, space: {{optimizer.lr: {{loguniform: [1e-4, 1e-2]}}}}}}"
        sets = [f"tune_each={tune}", "seeds=4", "trial.schedule.epochs=8", "trial.evaluation.every=2", *overrides]
        return load_ablation(repository / "ablations/quickstart.yaml", sets)

    return load


def an_hour(spec) -> float:
    return 1.0


def trials_of(journal: Journal) -> dict[str, list[int]]:
    """The numbers of each cell's trials that came to their end."""
    found: dict[str, list[int]] = {}
    for run in journal.completed("cell_search"):
        found.setdefault(run.spec.arm, []).append(int(run.spec.tags["trial"]))
    return found


@pytest.mark.parametrize("places", [1, 4])
@pytest.mark.parametrize("limit", ["hours", "gpu_hours"])
def test_every_cell_has_the_same_trials_all_its_seeds_and_the_whole_keeps_within_its_budget(
    ablation, tmp_path, limit, places
):
    total = 30.0 if places == 1 or limit == "gpu_hours" else 8.0
    notes: list[str] = []
    file = ablation(**{limit: total})
    journal, executor = drive_ablation(file, tmp_path / "j", hours=an_hour, concurrent=places, notes=notes)
    held = journal.decisions.tuning_ended.trials
    assert 2 <= held < 12
    assert {tuple(numbers) for numbers in trials_of(journal).values()} == {tuple(range(held))}
    assert len(journal.completed("cell")) == CELLS * 4
    work = sum(run.seconds for run in journal.runs.values()) / 3600
    spent = executor.clock / 3600 if limit == "hours" else work
    assert spent <= total + EVALUATION
    assert spent + 1.05 * CELLS * (1 if limit == "gpu_hours" else 1 / min(places, CELLS)) > total - 1  # no more fitted
    assert any(f"{held} of 12 trials of every cell fit in the budget" in note for note in notes)
    events = (tmp_path / "j").read_text().splitlines()
    settled = next(number for number, line in enumerate(events) if '"name":"tuning_ended"' in line)
    assert settled < next(number for number, line in enumerate(events) if '"stage":"cell"' in line)
    results = results_of(file, journal, ended=True)
    assert results.design.trials_held == held
    sentence = f"{held} of 12 trials of every cell: the budget ended the tuning."
    summary = ablation_summary(results)
    assert summary["tuning"] == {"asked": 12, "held": held, "ended": sentence, "selected": 0} and summary["conclusive"]
    assert sentence in ablation_note(results)
    assert all(each.verdict is not None for each in results.contrasts)


def test_cells_that_take_longer_have_no_fewer_trials(ablation, tmp_path):
    def hours(spec):
        return 2.0 if spec.arm == "contrastive_only" else 0.5

    journal, executor = drive_ablation(ablation(hours=32), tmp_path / "j", hours=hours)
    assert len({len(numbers) for numbers in trials_of(journal).values()}) == 1
    assert executor.clock / 3600 <= 32 + 0.5


def test_a_budget_that_holds_everything_cuts_nothing(ablation, tmp_path):
    notes: list[str] = []
    file = ablation(hours=60)
    journal, executor = drive_ablation(file, tmp_path / "j", hours=an_hour, notes=notes)
    assert len(journal.completed("cell_search")) == 12 * CELLS and executor.clock / 3600 == pytest.approx(48)
    assert not any("fit in the budget" in note for note in notes)
    design = results_of(file, journal, ended=True).design
    assert (design.trials, design.trials_held) == (12, None)


def test_what_a_cell_has_of_a_round_that_others_do_not_have_does_not_count(ablation, tmp_path):
    """The fourth round takes ten times as long as those before: time runs out in it."""

    def hours(spec):
        return 10.0 if spec.stage == "cell_search" and spec.tags["trial"] == "3" else 1.0

    file = ablation(hours=32)
    journal, executor = drive_ablation(file, tmp_path / "j", hours=hours)
    assert executor.clock / 3600 <= 32 + 2.5
    assert journal.decisions.tuning_ended.trials == 3
    begun = [run for run in journal.stage("cell_search") if run.spec.tags["trial"] == "3"]
    assert 1 <= len(begun) <= CELLS and any(run.state == "killed" for run in begun)
    results = results_of(file, journal, ended=True)
    for cell in cells_of(file):
        chosen = {run.spec.point["optimizer.lr"] for run in journal.stage("cell") if run.spec.arm == cell.name}
        counted = [run for run in journal.stage("cell_search") if run.spec.arm == cell.name][:3]
        best = max(counted, key=lambda run: run.last("validation/map_at_r"))
        assert chosen == {best.spec.point["optimizer.lr"]}
        assert results.tuned(cell.name, 0).key == best.key


def test_a_tuning_that_had_no_time_says_that_nothing_can_be_concluded(ablation, tmp_path):
    def hours(spec):
        return 1.0 if spec.key.endswith("trial000") or spec.stage == "cell" else 50.0

    file = ablation(hours=24)
    journal, _ = drive_ablation(file, tmp_path / "j", hours=hours)
    assert journal.decisions.tuning_ended.trials == 1
    results = results_of(file, journal, ended=True)
    words = "1 of 12 trials of every cell: the budget ended the tuning; all cells run as they are in the file"
    console = Console(record=True, width=160, file=io.StringIO())
    print_results(console, results, {})
    for text in (console.export_text(), ablation_note(results), str(ablation_summary(results)["tuning"])):
        assert words in text and "nothing can be concluded" in text
    assert not ablation_summary(results)["conclusive"]
    assert {each.verdict for each in results.contrasts} == {None}
    assert {run.spec.trial.hash() for run in journal.stage("cell")} == {cell.trial.hash() for cell in cells_of(file)}


@pytest.mark.parametrize("limit", ["hours", "gpu_hours"])
def test_a_budget_that_cannot_hold_the_seeds_is_refused_as_soon_as_a_run_is_measured_and_the_number_does(
    ablation, tmp_path, limit
):
    with pytest.raises(
        SweepStopped, match=rf"tune_each.budget.{limit}: 14 cannot hold 12 runs of the seeds"
    ) as refused:
        drive_ablation(ablation(**{limit: 14}), tmp_path / "j", hours=an_hour)
    assert refused.value.reason == "budget"
    assert sum(len(run.reports) for run in Journal(tmp_path / "j").runs.values()) == 2
    enough = float(re.search(r"(\d[\d.]*) would do", str(refused.value))[1])
    journal, executor = drive_ablation(ablation(**{limit: enough}), tmp_path / "j", hours=an_hour)
    assert {len(numbers) for numbers in trials_of(journal).values()} == {2}
    assert executor.clock / 3600 <= enough + EVALUATION


@pytest.mark.parametrize("places", [1, 3])
def test_what_runs_take_beside_their_epochs_ends_too_small_a_budget_before_it_is_passed(ablation, tmp_path, places):
    """A run of an hour takes two more to begin: 14 of the 24 hours would do without them."""
    with pytest.raises(SweepStopped, match=r"cannot hold 12 runs of the seeds.* 1.0 h and 2.0 h to begin") as refused:
        drive_ablation(ablation(hours=24 / places), tmp_path / "j", hours=an_hour, setup=2, concurrent=places)
    stopped = Journal(tmp_path / "j")
    assert refused.value.reason == "budget" and not stopped.stage("cell") and len(stopped.runs) <= 2 * places
    enough = float(re.search(r"(\d[\d.]*) would do", str(refused.value))[1])
    goes_on = ablation(hours=enough)
    journal, _ = drive_ablation(goes_on, tmp_path / "j", hours=an_hour, setup=2, concurrent=places)
    assert {len(numbers) for numbers in trials_of(journal).values()} == {2}
    assert len(journal.completed("cell")) == CELLS * 4
    _, executor = drive_ablation(goes_on, tmp_path / "new", hours=an_hour, setup=2, concurrent=places)
    assert executor.clock / 3600 <= enough + EVALUATION


def test_a_larger_budget_goes_on_with_the_tuning_until_a_run_of_the_seeds_has_begun(ablation, tmp_path):
    with pytest.raises(Killed):
        drive_ablation(ablation(hours=24), tmp_path / "j", hours=an_hour, die_at="cell")
    before = Journal(tmp_path / "j")
    held = before.decisions.tuning_ended.trials
    assert held < 12 and before.stage("cell")  # asked for, nothing more: its first report killed the process
    again, _ = drive_ablation(ablation(hours=60), tmp_path / "j", hours=an_hour)
    assert again.decisions.tuning_ended.trials == held  # seeds have begun: nothing is tuned any more

    lines = (tmp_path / "j").read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if '"stage":"cell"' in line)
    (tmp_path / "early").write_text("\n".join(lines[:first]) + "\n")
    journal, _ = drive_ablation(ablation(hours=60), tmp_path / "early", hours=an_hour)
    assert journal.decisions.tuning_ended.trials == 12
    assert {len(numbers) for numbers in trials_of(journal).values()} == {12}
    assert len(journal.completed("cell")) == CELLS * 4


def test_trials_that_the_budget_killed_go_on_where_they_were(ablation, tmp_path):
    def hours(spec):
        return 10.0 if spec.stage == "cell_search" and spec.tags["trial"] == "3" else 1.0

    with pytest.raises(Killed):
        drive_ablation(ablation(hours=32), tmp_path / "whole", hours=hours, die_at="cell")
    lines = (tmp_path / "whole").read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if '"stage":"cell"' in line)
    (tmp_path / "j").write_text("\n".join(lines[:first]) + "\n")
    killed = {run.key: run.epoch for run in Journal(tmp_path / "j").runs.values() if run.state == "killed"}
    assert killed
    journal, _ = drive_ablation(ablation(hours=300), tmp_path / "j", hours=hours)
    for key, epoch in killed.items():
        run = journal.runs[key]
        assert run.state == "completed" and [report.epoch for report in run.reports] == [2, 4, 6, 8]
        assert epoch in (0, 2, 4, 6)


def planned(file, *, assumed: Assumed | None = None) -> str:
    console = Console(record=True, width=200, file=io.StringIO())
    print_plan(console, file, assumed=assumed)
    return console.export_text()


def test_the_plan_says_by_stage_what_the_budget_holds_and_warns_with_lines_that_do(ablation, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["trial.dataset.image_size=16", "trial.image.train_crop=16", "trial.model.width=8"]
    rate = Assumed(200, 1)
    with pytest.raises(ConfigError, match=r"tune_each.budget.hours: 0.01 cannot hold 12 runs of the seeds") as refused:
        planned(ablation(*small, hours=0.01), assumed=rate)
    enough = float(re.search(r"(\d[\d.]*) would do", str(refused.value))[1])
    text = planned(ablation(*small, hours=enough), assumed=rate)
    assert re.search(r"tuning +\d+ runs, \d of 12 trials of every cell", text)
    assert re.search(r"seeds +12 runs, 4 seeds of every cell", text)
    shares = [int(share) for share in re.findall(r"^  (?:tuning|seeds) .* (\d+)%$", text, re.M)]
    assert len(shares) == 2 and sum(shares) in (99, 100, 101)
    assert f"of a budget of {enough:g} hours" in text and "warning: every cell gets" in text
    all_of_it = float(re.search(r"tune_each.budget.hours: ([\d.]+) +# all 12 trials", text)[1])
    better = planned(ablation(*small, hours=all_of_it), assumed=rate)
    assert "36 runs, 12 trials of every cell" in better and "warning" not in better
