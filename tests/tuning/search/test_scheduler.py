"""Early stopping: the rule of successive halving, against a brute-force reading of it, and rebuilt rungs."""

import numpy as np
import pytest

from ctxtune.tuning.record.journal import RunRecord
from ctxtune.tuning.record.trial_report import TrialReport
from ctxtune.tuning.search.scheduler import Scheduler
from tests.helpers.search_spaces import METRIC, space_of
from tests.helpers.specs import run_record


def curves(count: int) -> np.ndarray:
    return np.random.default_rng(0).random((count, 9)).cumsum(axis=1)


def play(scheduler: Scheduler, scores: np.ndarray, first: int = 0, loss: str = "contextual") -> list[RunRecord]:
    runs = []
    for number, curve in enumerate(scores, start=first):
        run = run_record(f"trial-{number}")
        for epoch, score in enumerate(curve, start=1):
            run.reports.append(TrialReport(epoch, {METRIC: float(score)}))
            run.order.append(1000 * number + epoch)
            if scheduler.stops(run.key, loss, run.reports[-1].plain()):
                break
        runs.append(run)
    return runs


def test_a_trial_stops_at_a_rung_where_it_is_below_the_best_third_so_far():
    scores = curves(40)
    runs = play(Scheduler(space_of()), scores)
    rungs: dict[int, list[float]] = {1: [], 3: [], 9: []}
    for run, curve in zip(runs, scores, strict=True):
        expected = 9
        for rung in (1, 3):
            value = curve[rung - 1]
            cutoff = np.percentile(rungs[rung], 100 * (1 - 1 / 3)) if rungs[rung] else -np.inf
            rungs[rung].append(value)
            if value < cutoff:
                expected = rung
                break
        assert run.epoch == expected
    assert 5 < sum(run.epoch < 9 for run in runs) < 40


def test_rungs_rebuilt_from_the_journal_decide_as_before():
    scores = curves(40)
    undisturbed = play(Scheduler(space_of()), scores)
    first = play(Scheduler(space_of()), scores[:20])
    resumed = Scheduler(space_of())
    resumed.replay(first)
    assert [run.epoch for run in play(resumed, scores[20:], 20)] == [run.epoch for run in undisturbed[20:]]


def test_a_trial_that_was_to_be_stopped_when_the_driver_died_is_stopped_by_the_replay():
    scores = curves(40)
    undisturbed = play(Scheduler(space_of()), scores)
    stopped = next(run for run in undisturbed[10:] if run.epoch < 9)
    until = undisturbed.index(stopped) + 1
    for run in undisturbed[:until]:
        run.state = "completed" if run.epoch == 9 else "pruned"
    stopped.state = "running"  # its last report was written down, its end was not
    assert Scheduler(space_of()).replay(undisturbed[:until]) == [stopped.key]
    going_on = undisturbed[until]
    going_on.state, going_on.reports, going_on.order = "running", going_on.reports[:0], []
    stopped.state = "pruned"
    assert Scheduler(space_of()).replay([*undisturbed[:until], going_on]) == []


def test_a_repeated_report_of_a_resumed_trial_counts_once():
    scheduler = Scheduler(space_of())
    play(scheduler, np.array([[0.5], [0.4], [0.3]]))
    report = {"epoch": 1.0, METRIC: 0.45}
    first = scheduler.stops("trial-9", "contextual", report)
    assert not scheduler.stops("trial-9", "contextual", report) or first
    # Were the repetition counted, 0.45 would stand there twice and the cutoff rise above 0.42.
    expected = np.percentile([0.5, 0.4, 0.3, 0.45], 100 * (1 - 1 / 3))
    assert scheduler.stops("trial-10", "contextual", {"epoch": 1.0, METRIC: 0.435}) == (expected > 0.435)


def test_each_loss_has_its_own_rungs():
    scheduler = Scheduler(space_of())
    play(scheduler, np.full((9, 1), 0.9), loss="contextual")
    assert not scheduler.stops("trial-50", "triplet", {"epoch": 1.0, METRIC: 0.1})
    assert scheduler.stops("trial-51", "contextual", {"epoch": 1.0, METRIC: 0.1})


@pytest.mark.parametrize("name", ["median", "hyperband"])
def test_the_other_rules_stop_poor_trials_and_let_the_best_go_on(name):
    scheduler = Scheduler(space_of(scheduler={"name": name, "grace_epochs": 1, "reduction_factor": 2}))
    good = play(scheduler, np.tile(np.linspace(0.5, 0.9, 9), (12, 1)) + np.linspace(0, 0.01, 12)[:, None])
    poor = play(scheduler, np.tile(np.linspace(0.1, 0.2, 9), (6, 1)), first=100)
    assert good[-1].epoch == 9
    assert all(run.epoch < 9 for run in poor)
