"""The sampler: within the space, constraints and conditions kept, start points first, rebuilt as it was."""

import math
import random

import pytest

from ctxtune.config import SweepConfig
from ctxtune.config.points import point_key
from ctxtune.config.resolve import is_active, is_feasible
from ctxtune.errors import ConfigError
from ctxtune.tuning.record.journal import RunRecord
from ctxtune.tuning.record.trial_report import TrialReport
from ctxtune.tuning.search.sampler import Sampler
from tests.helpers.search_spaces import METRIC, space_of
from tests.helpers.specs import run_record


def score_of(point) -> float:
    """A smooth task with its best at lr 1e-3, k 8, a wide margin."""
    return (
        1
        - abs(math.log10(point["optimizer.lr"]) + 3) / 4
        + 0.1 * (point["loss.k"] == 8)
        + 0.2 * (point["loss.positive_margin"] - point["loss.negative_margin"])
    )


def play(sampler: Sampler, first: int, count: int) -> list[RunRecord]:
    runs = []
    for number in range(first, first + count):
        run = run_record(f"trial-{number}", point=sampler.ask(f"trial-{number}"))
        score = score_of(run.spec.point)
        epochs = 9 if number % 3 == 0 else 1
        for epoch in range(1, epochs + 1):
            run.reports.append(TrialReport(epoch, {METRIC: score * epoch / 9}))
            sampler.report(run.key, epoch, score * epoch / 9)
        run.state = "completed" if epochs == 9 else "pruned"
        sampler.tell(run.key, run.state, run.last(METRIC))
        runs.append(run)
    return runs


@pytest.mark.parametrize("name", ["tpe", "random", "gp"])
def test_suggestions_stay_in_the_space_and_keep_the_constraint(name):
    space = space_of(sampler={"name": name, "startup_trials": 5})
    for run in play(Sampler(space), 0, 12):
        point = run.spec.point
        assert all(space.search.space[path].contains(value) for path, value in point.items())
        assert point["loss.negative_margin"] < point["loss.positive_margin"]


def test_the_start_point_comes_first_and_unaltered():
    point = Sampler(space_of()).ask("trial-0")
    assert point == {
        "loss.k": 4, "loss.positive_margin": 0.75, "loss.negative_margin": 0.6, "optimizer.lr": 8e-5,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["tpe", "random"])
def test_a_sampler_rebuilt_from_the_journal_suggests_what_the_first_would_have(name):
    space = space_of(sampler={"name": name, "startup_trials": 5})
    first = Sampler(space)
    runs = play(first, 0, 15)
    second = Sampler(space)
    second.replay(runs, METRIC)
    following = [run.spec.point for run in play(first, 15, 5)]
    assert [run.spec.point for run in play(second, 15, 5)] == following


def test_tpe_learns():
    runs = play(Sampler(space_of(sampler={"name": "tpe", "startup_trials": 8})), 0, 40)
    early = [score_of(run.spec.point) for run in runs[1:9]]
    late = [score_of(run.spec.point) for run in runs[-8:]]
    assert sum(late) / 8 > sum(early) / 8


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_tpe_goes_on_trying_every_choice_where_scores_are_noise(seed):
    """Optuna's joint model of all dimensions stays with the choice of its first good trials."""
    space = space_of(sampler={"name": "tpe", "startup_trials": 5, "seed": seed})
    sampler, noise = Sampler(space), random.Random(seed)
    tried = []
    for number in range(40):
        tried.append(sampler.ask(str(number))["loss.k"])
        sampler.tell(str(number), "completed", noise.random())
    assert min(tried[5:].count(choice) for choice in space.search.space["loss.k"].choices) >= 2


def test_pruned_and_failed_trials_are_told_as_such_and_nan_never():
    sampler = Sampler(space_of())
    for number, (state, score) in enumerate(
        [("completed", 0.5), ("pruned", 0.2), ("failed", None), ("completed", math.nan)]
    ):
        sampler.ask(str(number))
        if score is not None and not math.isnan(score):
            sampler.report(str(number), 1, score)
        sampler.tell(str(number), state, score)
    states = [trial.state.name for trial in sampler._study.trials]
    assert states == ["COMPLETE", "PRUNED", "FAIL", "FAIL"]
    assert all(trial.value is None or math.isfinite(trial.value) for trial in sampler._study.trials)


def test_a_dimension_exists_only_where_its_condition_holds():
    space = space_of(
        space={
            "loss.name": {"choice": ["contextual", "contrastive"]},
            "loss.k": {"choice": [2, 4, 8]},
            "optimizer.lr": {"loguniform": [1e-5, 1e-2]},
        },
        conditions={"loss.k": "loss.name == 'contextual'"},
        constraints=[],
    )
    seen = set()
    sampler = Sampler(space)
    for number in range(20):
        point = sampler.ask(str(number))
        seen.add(point["loss.name"])
        assert ("loss.k" in point) == (point["loss.name"] == "contextual")
        assert all(is_active(space, path, point) for path in point)
        sampler.tell(str(number), "completed", 0.1 * number)
    assert seen == {"contextual", "contrastive"}


def test_a_grid_is_walked_once_and_ends():
    space = space_of(
        space={"loss.k": {"choice": [2, 4, 8]}, "loss.negative_margin": {"quniform": [0.6, 0.8, 0.1]}},
        sampler={"name": "grid"},
        constraints=["loss.negative_margin < loss.positive_margin"],
    )
    sampler, points = Sampler(space), []
    while not sampler.exhausted:
        points.append(sampler.ask(str(len(points))))
        assert is_feasible(space, points[-1])
        sampler.tell(str(len(points) - 1), "completed", 0.0)
    # 3 x 2, the start among them: a negative margin of 0.8 breaks the constraint (0.75).
    assert len(points) == len({point_key(point) for point in points}) == 6


@pytest.mark.parametrize("name", ["grid", "tpe", "random"])
def test_points_that_no_run_can_take_are_counted_after_a_restart(name):
    choices = {"loss.k": {"choice": [2, 4, 6, 8]}, "sampler.images_per_class": {"choice": [2, 3, 4, 8]}}
    space = space_of(space=choices, sampler={"name": name, "startup_trials": 3}, constraints=[], start_from=[])

    def ask(sampler: Sampler, first: int, count: int) -> list[RunRecord]:
        runs: list[RunRecord] = []
        while len(runs) < count and not sampler.exhausted:
            key = f"trial-{first + len(runs)}"
            point = sampler.ask(key)
            if point["loss.k"] == 6:  # as where `resolve_trial` refuses it
                sampler.tell(key, "failed", None)
                continue
            runs.append(run_record(key, "completed", point=point, memory=sampler.memory(key)))
            runs[-1].reports.append(TrialReport(1, {METRIC: 0.1 * point["loss.k"]}))
            sampler.tell(key, "completed", 0.1 * point["loss.k"])
        return runs

    first = Sampler(space)
    runs = ask(first, 0, 7)
    second = Sampler(space)
    second.replay(runs, METRIC)
    following = [run.spec.point for run in ask(first, 7, 5)]
    assert [run.spec.point for run in ask(second, 7, 5)] == following
    if name == "grid":
        points = [tuple(run.spec.point.values()) for run in runs] + [tuple(point.values()) for point in following]
        assert len(set(points)) == len(points) == 12


@pytest.mark.parametrize("name", ["tpe", "random", pytest.param("gp", marks=pytest.mark.slow), "cma-es"])
def test_suggested_numbers_have_five_significant_digits(name):
    space = space_of(
        sampler={"name": name, "startup_trials": 3},
        space={"loss.epsilon": {"uniform": [0.1000004, 0.1000006]}, "optimizer.lr": {"loguniform": [1e-5, 1e-2]}},
        constraints=[],
        start_from=[],
    )
    sampler = Sampler(space)
    seen = set()
    for number in range(9):
        point = sampler.ask(str(number))
        assert point["optimizer.lr"] == float(f"{point['optimizer.lr']:.4e}")
        assert 0.1000004 <= point["loss.epsilon"] <= 0.1000006  # rounded it would lie outside
        seen.add(point["optimizer.lr"])
        # What the sampler learns from is what was run.
        assert sampler._study.trials[-1].params["optimizer.lr"] == point["optimizer.lr"]
        sampler.tell(str(number), "completed", point["optimizer.lr"])
    assert len(seen) >= 5


TWO = [{"metric": METRIC}, {"metric": "time/seconds", "mode": "min"}]


def play_two(sampler: Sampler, first: int, count: int) -> list[RunRecord]:
    """A task with a trade-off: a high learning rate scores well and costs time."""
    runs = []
    for number in range(first, first + count):
        key = f"trial-{number:04d}"
        run = run_record(key, point=sampler.ask(key), memory=sampler.memory(key))
        rate = -math.log10(run.spec.point["optimizer.lr"])  # 2 ... 5
        off = abs(run.spec.point["loss.positive_margin"] - 0.7)
        run.reports.append(TrialReport(9, {METRIC: (5 - rate) / 3 - off, "time/seconds": 10 - 2 * rate + 5 * off}))
        run.state = "completed"
        sampler.tell(key, run.state, [run.reports[0].metrics[METRIC], run.reports[0].metrics["time/seconds"]])
        runs.append(run)
    return runs


@pytest.mark.parametrize("name", ["nsga-ii", "tpe"])
def test_several_objectives_are_searched_for_and_rebuilt_from_the_journal(name):
    space = space_of(objective=TWO, sampler={"name": name, "startup_trials": 6}, scheduler={"name": "none"})
    first = Sampler(space)
    runs = play_two(first, 0, 40)
    off = [abs(run.spec.point["loss.positive_margin"] - 0.7) for run in runs]
    assert sum(off[-12:]) < sum(off[1:13])  # what is poor in both objectives dies out
    second = Sampler(space)
    second.replay(runs, METRIC)
    following = [run.spec.point for run in play_two(first, 40, 10)]
    assert [run.spec.point for run in play_two(second, 40, 10)] == following


def test_cma_es_goes_on_after_a_restart_with_what_it_had_learned():
    space = space_of(
        sampler={"name": "cma-es"},
        space={"loss.epsilon": {"uniform": [0.0, 1.0]}, "optimizer.lr": {"loguniform": [1e-5, 1e-2]}},
        constraints=[],
    )

    def play_on(sampler: Sampler, first: int, count: int) -> list[RunRecord]:
        runs = []
        for number in range(first, first + count):
            key = f"trial-{number}"
            run = run_record(key, "completed", point=sampler.ask(key), memory=sampler.memory(key))
            score = -abs(run.spec.point["loss.epsilon"] - 0.3) - abs(math.log10(run.spec.point["optimizer.lr"]) + 3)
            run.reports.append(TrialReport(9, {METRIC: score}))
            sampler.tell(key, "completed", score)
            runs.append(run)
        return runs

    first = Sampler(space)
    runs = play_on(first, 0, 30)
    assert sum(run.last(METRIC) for run in runs[-8:]) > sum(run.last(METRIC) for run in runs[1:9])
    second = Sampler(space)
    second.replay(runs, METRIC)
    following = [run.spec.point for run in play_on(first, 30, 8)]
    assert [run.spec.point for run in play_on(second, 30, 8)] == following


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({"sampler": {"name": "nsga-ii"}}, "nsga-ii is for several objectives"),
        ({"objective": TWO}, "scheduler asha stops trials by one score"),
        ({"objective": TWO, "scheduler": {"name": "hyperband", "grace_epochs": 1}}, "scheduler hyperband"),
        ({"objective": TWO, "scheduler": {"name": "median", "grace_epochs": 1}}, "scheduler median"),
        ({"objective": TWO, "sampler": {"name": "gp"}, "scheduler": {"name": "none"}}, "gp searches for one objective"),
        ({"objective": [TWO[1], TWO[0]], "scheduler": {"name": "none"}}, "time/seconds.*cannot be searched for"),
        ({"objective": [TWO[0], TWO[0]], "scheduler": {"name": "none"}}, "stands twice"),
        ({"objective": [TWO[0], {"metric": "model.embeding_dim"}], "scheduler": {"name": "none"}}, "no number at"),
        ({"objective": [TWO[0], {"metric": "test/map_at_r"}], "scheduler": {"name": "none"}}, "cannot be searched for"),
        ({"objective": []}, "a list of objectives"),
    ],
)
def test_objectives_that_cannot_be_searched_for_are_refused_by_name(search, words):
    with pytest.raises(ValueError, match=words):
        space_of(**search)


def test_a_list_of_objectives_is_written_back_as_a_list():
    objectives = [{"metric": METRIC, "mode": "max"}, {"metric": "model.embedding_dim", "mode": "min"}]
    space = space_of(objective=objectives, scheduler={"name": "none"})
    assert space.model_dump(mode="json")["search"]["objective"] == objectives
    assert SweepConfig.model_validate(space.model_dump(mode="json")) == space
    assert space_of().model_dump(mode="json")["search"]["objective"] == {"metric": METRIC, "mode": "max"}


SMALL = {"loss.k": {"choice": [2, 4, 8]}, "loss.negative_margin": {"quniform": [0.4, 0.6, 0.1]}}


@pytest.mark.parametrize("name", ["tpe", "random", "gp", "grid"])
def test_no_point_of_a_small_space_is_suggested_twice_and_it_ends(name):
    space = space_of(space=SMALL, sampler={"name": name, "startup_trials": 2}, constraints=[])
    sampler, keys = Sampler(space), []
    while not sampler.exhausted:
        point = sampler.ask(str(len(keys)))
        keys.append(point_key(point))
        sampler.tell(str(len(keys) - 1), "completed", float(point["loss.k"]))
    assert keys[0] == point_key({"loss.k": 4, "loss.negative_margin": 0.6})  # the start is among them, once
    assert len(keys) == len(set(keys)) == 9


@pytest.mark.parametrize("name", ["tpe", "random", "grid"])
def test_a_small_space_goes_on_after_a_restart_without_repeats(name):
    space = space_of(space=SMALL, sampler={"name": name, "startup_trials": 2}, constraints=[])

    def ask(sampler: Sampler, first: int, count: int) -> list[RunRecord]:
        runs = []
        for number in range(first, first + count):
            key = f"trial-{number}"
            point = sampler.ask(key)
            runs.append(run_record(key, state="completed", point=point, memory=sampler.memory(key)))
            runs[-1].reports.append(TrialReport(1, {METRIC: 0.1 * point["loss.k"]}))
            sampler.tell(key, "completed", 0.1 * point["loss.k"])
        return runs

    first = Sampler(space)
    runs = ask(first, 0, 5)
    second = Sampler(space)
    second.replay(runs, METRIC)
    following = [run.spec.point for run in ask(first, 5, 4)]
    assert [run.spec.point for run in ask(second, 5, 4)] == following and first.exhausted and second.exhausted
    assert len({point_key(run.spec.point) for run in runs} | {point_key(point) for point in following}) == 9


def test_start_points_that_are_the_same_run_once():
    space = space_of(space=SMALL, constraints=[], start_from=["trial", {"loss.k": 4}, {"loss.k": 8}])
    sampler = Sampler(space)
    assert [sampler.ask(str(number))["loss.k"] for number in range(2)] == [4, 8]


def test_points_under_conditions_are_counted_once():
    space = space_of(
        space={"loss.name": {"choice": ["contextual", "contrastive"]}, "loss.k": {"choice": [2, 4, 8]}},
        conditions={"loss.k": "loss.name == 'contextual'"},
        constraints=[],
    )
    sampler, points = Sampler(space), []
    while not sampler.exhausted:
        points.append(sampler.ask(str(len(points))))
        sampler.tell(str(len(points) - 1), "completed", 0.0)
    assert len(points) == 3 + 1


def test_of_a_narrow_space_points_are_found_at_random_or_it_is_said_that_there_are_none():
    narrow = space_of(
        constraints=["loss.negative_margin > 0.899", "loss.negative_margin < loss.positive_margin"], start_from=[]
    )
    for number in range(2):
        assert is_feasible(narrow, Sampler(narrow).ask(str(number)))
    empty = space_of(constraints=["loss.negative_margin > 5"], start_from=[])
    with pytest.raises(ConfigError, match="none of 20,000 random points"):
        Sampler(empty).ask("trial-0")


def test_where_most_suggestions_break_a_constraint_few_are_tried_and_the_rest_of_the_last_is_kept(monkeypatch):
    """Many runs at work drive TPE to where no run can be."""
    narrow = space_of(constraints=["loss.negative_margin > loss.positive_margin + 0.05"], start_from=[])
    sampler = Sampler(narrow)
    tried: list[dict[str, object]] = []
    suggest = sampler._suggest
    monkeypatch.setattr(sampler, "_suggest", lambda trial: tried.append(suggest(trial)) or tried[-1])
    found = 0
    for number in range(30):
        before = len(tried)
        point = sampler.ask(str(number))
        assert is_feasible(narrow, point) and len(tried) - before <= 10
        if point != tried[-1]:
            found += 1
            assert (point["loss.k"], point["optimizer.lr"]) == (tried[-1]["loss.k"], tried[-1]["optimizer.lr"])
    assert found


def test_a_grid_that_nobody_could_walk_is_refused():
    space = space_of(space={"loss.k": {"int": [2, 90_000]}}, sampler={"name": "grid"}, constraints=[])
    with pytest.raises(ConfigError, match="a grid has 20,000 points at most"):
        Sampler(space)
