"""What TPE is shown of a long search: all of a short one; beyond a bound the best, the latest and those under way."""

import warnings

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers._tpe import sampler as tpe
from optuna.trial import TrialState, create_trial

from ctxtune.tuning.search import bounded_history
from ctxtune.tuning.search.bounded_history import BoundedTPE, shown_trials

SPACE = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}
SEPARATE = {"seed": 3, "multivariate": False, "group": False, "constant_liar": True, "n_startup_trials": 5}
OPTIONS = {"seed": 3, "multivariate": True, "group": True, "constant_liar": True, "n_startup_trials": 5}


def study_of(count: int, direction: str = "maximize") -> optuna.Study:
    """Every third trial whole, the others stopped after one epoch; the best whole one is the first."""
    study = optuna.create_study(direction=direction)
    for number in range(count):
        value = 1 - number / count if direction == "maximize" else number / count
        pruned = number % 3 > 0
        study.add_trial(
            create_trial(
                state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
                params={"x": (0.37 * number) % 1, "y": (0.61 * number) % 1},
                distributions=SPACE,
                value=value,
                intermediate_values={1: value} if pruned else {1: value, 3: value},
            )
        )
    return study


def study_of_two(count: int) -> optuna.Study:
    """Whole trials with two objectives."""
    study = optuna.create_study(directions=["maximize", "minimize"])
    for number in range(count):
        params = {"x": (0.37 * number) % 1, "y": (0.61 * number) % 1}
        study.add_trial(create_trial(params=params, distributions=SPACE, values=[params["x"], params["y"]]))
    return study


def suggested(study: optuna.Study, sampler: optuna.samplers.BaseSampler) -> dict[str, float]:
    study.sampler = sampler
    trial = study.ask()
    point = {name: trial.suggest_float(name, 0, 1) for name in SPACE}
    study.tell(trial, state=TrialState.FAIL)
    return point


@pytest.fixture
def bounds(monkeypatch):
    monkeypatch.setattr(bounded_history, "MOST_ENDED", 20)
    monkeypatch.setattr(bounded_history, "BEST", 6)
    monkeypatch.setattr(bounded_history, "MOST_RUNNING", 4)


def test_a_short_search_is_shown_whole_and_suggests_what_optuna_would():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = study_of(60)
        waiting = study.ask()
        waiting.suggest_float("x", 0, 1)
        ours = [suggested(study, BoundedTPE(**OPTIONS)) for _ in range(2)]
        theirs = [suggested(study, optuna.samplers.TPESampler(**OPTIONS)) for _ in range(2)]
    assert ours == theirs


@pytest.mark.parametrize("objectives", [1, 2])
def test_trials_are_ranked_once_for_all_dimensions_of_a_suggestion_which_is_what_optuna_would_make(
    objectives, monkeypatch
):
    ranked = []
    split = tpe._split_trials
    monkeypatch.setattr(tpe, "_split_trials", lambda *given: ranked.append(given) or split(*given))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = study_of(60) if objectives == 1 else study_of_two(60)
        study.ask().suggest_float("x", 0, 1)
        ranked.clear()
        before = tpe._split_trials
        ours = [suggested(study, BoundedTPE(**SEPARATE)) for _ in range(3)]
        assert len(ranked) == 3 and tpe._split_trials is before
        theirs = [suggested(study, optuna.samplers.TPESampler(**SEPARATE)) for _ in range(3)]
    assert ours == theirs and len(ranked) == 3 + 3 * len(SPACE)
    monkeypatch.delattr(tpe, "_split_trials")
    with pytest.raises(NameError):  # Optuna's own: it was not hidden by ours
        suggested(study, BoundedTPE(**SEPARATE))


@pytest.mark.parametrize("multivariate", [False, True])
def test_what_one_suggestion_has_looked_up_serves_the_next_and_changes_none(multivariate, monkeypatch):
    looked_up = []
    represented = FloatDistribution.to_internal_repr
    options = SEPARATE | {"multivariate": multivariate}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = study_of(60)
        study.add_trial(create_trial(params={"y": 0.9}, distributions={"y": SPACE["y"]}, value=0.4))
        running = study.ask()
        known = {}
        suggested(study, BoundedTPE(known, **options))
        running.suggest_float("x", 0, 1)  # known only now
        monkeypatch.setattr(
            FloatDistribution, "to_internal_repr", lambda *given: looked_up.append(given) or represented(*given)
        )
        ours = suggested(study, BoundedTPE(known, **options))
        assert multivariate or len(looked_up) < 60
        assert ours == suggested(study, optuna.samplers.TPESampler(**options))


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_of_a_long_search_the_best_whole_trials_and_the_latest_are_shown(bounds, direction):
    numbers = [trial.number for trial in shown_trials(study_of(100, direction))]
    assert numbers == [0, 3, 6, 9, 12, 15, *range(86, 100)]


def test_of_those_under_way_the_latest_are_shown_and_failed_ones_never(bounds):
    study = study_of(10)
    study.tell(study.ask(), state=TrialState.FAIL)
    for _ in range(9):
        study.ask()
    shown = shown_trials(study)
    assert [trial.number for trial in shown] == [*range(10), *range(16, 20)]
    assert TrialState.FAIL not in {trial.state for trial in shown}


def test_what_is_not_shown_is_not_learned_from(bounds):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        long, rest = study_of(100), optuna.create_study(direction="maximize")
        for trial in shown_trials(long):
            rest.add_trial(trial)
        assert suggested(long, BoundedTPE(**OPTIONS)) == suggested(rest, BoundedTPE(**OPTIONS))
