"""TPE suggests what Optuna's suggests, from the history that it keeps; of a long search it learns from a part."""

import warnings

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from ctxtune.tuning.search import tree_parzen
from ctxtune.tuning.search.parzen_window import density_of
from ctxtune.tuning.search.tree_parzen import TreeParzenSampler, TrialHistory

SPACE = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}
MIXED = {
    "rate": FloatDistribution(1e-5, 1e-1, log=True),
    "weight": FloatDistribution(0, 1, step=0.05),
    "neighbors": IntDistribution(1, 20),
    "loss": CategoricalDistribution(["contextual", "triplet"]),
    "margin": FloatDistribution(0, 1),  # of the one loss only
}
STARTUP = 5


def ours(history: TrialHistory | None = None, seed: int = 3) -> TreeParzenSampler:
    return TreeParzenSampler(TrialHistory() if history is None else history, seed=seed, startup_trials=STARTUP)


def optunas(seed: int = 3) -> optuna.samplers.TPESampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, multivariate=False, group=False, constant_liar=True, n_startup_trials=STARTUP
        )


def suggest(trial: optuna.Trial) -> dict[str, object]:
    """A point of ``MIXED``."""
    point: dict[str, object] = {
        "rate": trial.suggest_float("rate", 1e-5, 1e-1, log=True),
        "weight": trial.suggest_float("weight", 0, 1, step=0.05),
        "neighbors": trial.suggest_int("neighbors", 1, 20),
        "loss": trial.suggest_categorical("loss", ["contextual", "triplet"]),
    }
    if point["loss"] == "triplet":
        point["margin"] = trial.suggest_float("margin", 0, 1)
    return point


def suggested(study: optuna.Study, sampler: optuna.samplers.BaseSampler) -> dict[str, float]:
    study.sampler = sampler
    trial = study.ask()
    point = {name: trial.suggest_float(name, 0, 1) for name in SPACE}
    study.tell(trial, state=TrialState.FAIL)
    return point


def study_of(count: int, direction: str = "maximize") -> optuna.Study:
    """Every third trial whole, the others stopped after one epoch; the best whole one is the first."""
    study = optuna.create_study(direction=direction)
    study.add_trials([trial_of(number, count, direction) for number in range(count)])
    return study


def trial_of(number: int, count: int, direction: str = "maximize") -> FrozenTrial:
    value = 1 - number / count if direction == "maximize" else number / count
    pruned = number % 3 > 0
    return create_trial(
        state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
        params={"x": (0.37 * number) % 1, "y": (0.61 * number) % 1},
        distributions=SPACE,
        value=value,
        intermediate_values={1: value} if pruned else {1: value, 3: value},
    )


@pytest.fixture
def bounds(monkeypatch):
    monkeypatch.setattr(tree_parzen, "MOST_ENDED", 20)
    monkeypatch.setattr(tree_parzen, "BEST", 6)
    monkeypatch.setattr(tree_parzen, "MOST_RUNNING", 4)


OUTCOMES = st.lists(
    st.tuples(
        st.sampled_from(["complete", "complete", "pruned", "pruned", "unreported", "failed", "waiting"]),
        st.one_of(st.floats(-1, 1), st.sampled_from([0.25, 0.5, float("nan")])),
        st.integers(1, 4),
    ),
    min_size=12,
    max_size=60,
)


def run(study: optuna.Study, waiting: list[optuna.Trial], outcome: tuple[str, float, int]) -> None:
    """A trial at the suggestion of the study's sampler, which ends so; one that has waited may end first."""
    state, score, epochs = outcome
    trial = study.ask()
    suggest(trial)
    if state == "waiting":
        waiting.append(trial)
        return
    if len(waiting) > epochs:  # trials end in another order than they began
        trial, waiting[0] = waiting[0], trial
    for epoch in range(epochs if state in ("complete", "pruned") else 0):
        trial.report(score, epoch)
    if state == "complete" and not np.isnan(score):
        study.tell(trial, score)
    else:
        study.tell(trial, state=TrialState.FAIL if state in ("failed", "complete") else TrialState.PRUNED)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@given(outcomes=OUTCOMES, seed=st.integers(0, 2**31))
def test_it_suggests_what_optuna_would(direction, outcomes, seed):
    if not optuna.__version__.startswith("5."):
        pytest.skip("compares with the suggestions of Optuna 5")
    study, history, waiting = optuna.create_study(direction=direction), TrialHistory(), []
    for number, outcome in enumerate(outcomes):
        study.sampler = ours(history, seed + number)
        run(study, waiting, outcome)
    theirs, point = suggested_mixed(study, optunas(seed)), suggested_mixed(study, ours(history, seed))
    for name in theirs.keys() & point.keys():  # of two candidates that promise the same, rounding may take the other
        assert promise(history, name, point[name]) == pytest.approx(promise(history, name, theirs[name]), abs=1e-6)


def suggested_mixed(study: optuna.Study, sampler: optuna.samplers.BaseSampler) -> dict[str, object]:
    study.sampler = sampler
    trial = study.ask()
    point = suggest(trial)
    study.tell(trial, state=TrialState.FAIL)
    return point


def promise(history: TrialHistory, name: str, value: object) -> float:
    """How much likelier a value is among the good trials than among the others: what the suggestion maximizes."""
    if len(history) < STARTUP:
        return float(value) if not isinstance(value, str) else 0.0
    place = np.array([float(MIXED[name].to_internal_repr(value))])
    good, other = (density_of(places, MIXED[name]).log_density(place) for places in history.good_and_other(name))
    return float((good - other)[0])


@pytest.mark.parametrize("count", [249, 251, 400])
def test_of_more_trials_as_well(count):
    study = study_of(count)
    theirs = suggested(study, optunas())
    assert suggested(study, ours()) == pytest.approx(theirs, rel=1e-9)


@given(outcomes=OUTCOMES)
def test_a_history_that_was_kept_up_is_one_that_is_made_anew(outcomes):
    study, kept_up, waiting = optuna.create_study(direction="maximize"), TrialHistory(), []
    for number, outcome in enumerate(outcomes):
        study.sampler = ours(kept_up, number)
        run(study, waiting, outcome)
    assert suggested_mixed(study, ours(kept_up)) == suggested_mixed(study, ours())


def test_a_trial_under_way_is_learned_from_as_soon_as_its_dimensions_are_known():
    study, history = study_of(60), TrialHistory()
    running = study.ask()
    suggested(study, ours(history))
    running.suggest_float("x", 0, 1)
    assert suggested(study, ours(history)) == suggested(study, ours())
    assert len(history) == 60


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_of_a_long_search_the_best_whole_trials_and_the_latest_are_learned_from(bounds, direction):
    rest = optuna.create_study(direction=direction)
    rest.add_trials([trial_of(number, 100, direction) for number in (0, 3, 6, 9, 12, 15, *range(86, 100))])
    assert suggested(study_of(100, direction), ours()) == suggested(rest, ours())


def test_of_those_under_way_the_latest_are_learned_from(bounds):
    def study_with_running(count: int) -> optuna.Study:
        study = study_of(10)
        for _ in range(count):
            study.ask().suggest_float("x", 0, 1)
        return study

    points = {}
    for count in (0, 4, 9):
        study = study_with_running(count)
        history = TrialHistory()
        suggested(study, ours(history))
        points[count] = sum(map(len, history.good_and_other("x")))
    assert points == {0: 10, 4: 14, 9: 14}


@pytest.mark.parametrize("failed", [63, 64, 65, 200])
def test_a_dimension_that_no_trial_had_for_long_is_learned_from_as_well(failed):
    study, history = optuna.create_study(direction="maximize"), TrialHistory()
    study.add_trials([create_trial(state=TrialState.FAIL) for _ in range(failed)])
    study.add_trials([trial_of(number, 30) for number in range(30)])
    assert suggested(study, ours(history)) == suggested(study_of(30), ours())
    assert sum(map(len, history.good_and_other("x"))) == 30


def test_trials_that_failed_are_not_learned_from():
    study, without = study_of(30), study_of(30)
    trial = study.ask()
    suggest_both = {name: trial.suggest_float(name, 0, 1) for name in SPACE}
    study.tell(trial, state=TrialState.FAIL)
    assert suggest_both and suggested(study, ours()) == suggested(without, ours())


def test_the_best_is_found_and_the_rest_is_still_tried():
    study, history = optuna.create_study(direction="maximize"), TrialHistory()
    for number in range(60):
        study.sampler = ours(history, number)
        trial = study.ask()
        point = {name: trial.suggest_float(name, 0, 1) for name in SPACE}
        study.tell(trial, -((point["x"] - 0.3) ** 2) - (point["y"] - 0.8) ** 2)
    assert study.best_value > -0.005
    late = [trial.params["x"] for trial in study.trials[30:]]
    assert max(late) - min(late) > 0.2
