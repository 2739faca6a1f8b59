"""Final scores of stopped trials: from the trials that went on; a GP sampler that learns from them."""

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from ctxtune.tuning.search.learning_curves import (
    BEST,
    LATEST,
    CurveHistory,
    CurveSampler,
    completed,
    final_scores,
)

SPACE = {"x": optuna.distributions.FloatDistribution(0.0, 1.0)}


def trial(curve, state=TrialState.PRUNED, x=0.5):
    value = curve[max(curve)] if state == TrialState.COMPLETE else None
    return create_trial(state=state, value=value, params={"x": x}, distributions=SPACE, intermediate_values=curve)


def test_stopped_trials_follow_the_line_of_those_that_went_on():
    random = np.random.default_rng(0)
    early = random.uniform(0.2, 0.5, 200)
    curves = [{1: s, 3: 0.1 + 1.5 * s} for s in early[:100]] + [{1: s} for s in early[100:]]
    assert final_scores(curves, {1, 3}) == pytest.approx(0.1 + 1.5 * early, abs=0.01)


def test_the_lines_of_several_rungs_are_followed_one_after_the_other():
    curves = [{1: 0.1, 3: 0.2, 9: 0.4}, {1: 0.2, 3: 0.3, 9: 0.5}, {1: 0.05}, {1: 0.15, 2: 0.18, 3: 0.25}]
    assert final_scores(curves, {1, 3, 9}) == pytest.approx([0.4, 0.5, 0.35, 0.45])


def test_a_few_pairs_do_not_turn_the_order_of_the_early_scores_around():
    low, high, early_low, early_high = final_scores([{1: 0.5, 3: 0.7}, {1: 0.6, 3: 0.6}, {1: 0.3}, {1: 0.4}], {1, 3})
    assert (low, high) == (0.7, 0.6)
    assert early_low <= early_high


def test_steps_that_nobody_has_passed_leave_the_score_as_it_is():
    assert final_scores([{1: 0.5}, {2: 0.6}], {1}) == [0.5, 0.6]


def test_one_score_alone_and_equal_scores():
    assert final_scores([{4: 0.5}], set()) == [0.5]
    assert final_scores([{1: 0.5, 2: 0.7}, {1: 0.5, 2: 0.9}, {1: 0.5}], {1, 2}) == pytest.approx([0.7, 0.9, 0.8])


def test_trials_are_shown_as_complete_and_failed_ones_not_at_all():
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        [
            trial({1: 0.5, 3: 0.7}, TrialState.COMPLETE),
            trial({1: 0.4}),
            trial({1: 0.1}, TrialState.FAIL),
            trial({1: 0.6}, TrialState.RUNNING),
            trial({}, TrialState.RUNNING),
        ]
    )
    shown = completed(study.get_trials())
    assert [each.number for each in shown] == [0, 1, 3, 4]
    assert {each.state for each in shown} == {TrialState.COMPLETE}
    assert [each.value for each in shown[:3]] == pytest.approx([0.7, 0.6, 0.8])
    assert shown[3].value == pytest.approx(0.7)
    assert CurveHistory(study)._get_trials(states=(TrialState.RUNNING,)) == []
    assert CurveHistory(study).direction == study.direction


def test_a_study_without_reports_is_shown_as_it_is():
    study = optuna.create_study(direction="maximize")
    study.add_trials([create_trial(value=1.0, params={"x": 0.2}, distributions=SPACE), trial({}, TrialState.RUNNING)])
    assert [each.value for each in completed(study.get_trials())] == [1.0]


def test_of_many_trials_the_best_and_the_latest_are_learned_from():
    scores = np.random.default_rng(1).permutation(1000) / 1000
    for direction, best in (("maximize", 999), ("minimize", 0)):
        study = optuna.create_study(direction=direction)
        study.add_trials([trial({1: float(score)}) for score in scores])
        shown = CurveHistory(study)._get_trials()
        numbers = [each.number for each in shown]
        assert BEST + LATEST > len(shown) > LATEST
        assert numbers == sorted(numbers) and numbers[-LATEST:] == list(range(1000 - LATEST, 1000))
        assert best / 1000 in {each.value for each in shown}


def test_a_gp_learns_where_the_good_points_are_from_stopped_trials_alone():
    study = optuna.create_study(direction="maximize")
    study.add_trials([trial({1: 1.0 - (x - 0.8) ** 2}, x=float(x)) for x in np.linspace(0, 1, 12)])
    told = optuna.samplers.GPSampler(seed=0, n_startup_trials=10)
    study.sampler = CurveSampler(told)
    assert study.ask(SPACE).params["x"] == pytest.approx(0.8, abs=0.05)
    study.sampler = optuna.samplers.GPSampler(seed=0, n_startup_trials=10)
    assert study.sampler.sample_relative(study, study.ask(), SPACE) == {}  # it has no complete trial
