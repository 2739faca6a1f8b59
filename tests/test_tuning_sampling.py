"""The sampler: within the space, constraints and conditions kept, start points first, rebuilt as it was."""

import math

import pytest
import yaml

from ctxtune.config import SearchSpace
from ctxtune.config.resolve import is_active, is_feasible
from ctxtune.tuning.journal import RunRecord
from ctxtune.tuning.sampling import Sampler

METRIC = "validation/map_at_r"
TEXT = """
name: quick
trial:
  dataset: {name: glyphs}
  model: {backbone: small_conv}
  loss: {name: contextual, k: 4}
  schedule: {name: constant, epochs: 9}
  evaluation: {every: 1}
search:
  space:
    loss.k: {choice: [2, 4, 8]}
    loss.positive_margin: {uniform: [0.5, 0.95]}
    loss.negative_margin: {uniform: [0.1, 0.9]}
    optimizer.lr: {loguniform: [1.0e-5, 1.0e-2]}
  constraints: ["loss.negative_margin < loss.positive_margin"]
  scheduler: {name: asha, grace_epochs: 1}
"""


def space_of(**search) -> SearchSpace:
    tree = yaml.safe_load(TEXT)
    tree["search"].update(search)
    return SearchSpace.model_validate(tree)


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
        run = RunRecord(f"trial-{number}", "search", {"point": sampler.ask(f"trial-{number}")})
        score = score_of(run.spec["point"])
        epochs = 9 if number % 3 == 0 else 1
        for epoch in range(1, epochs + 1):
            run.reports.append({"epoch": float(epoch), METRIC: score * epoch / 9})
            sampler.report(run.key, epoch, score * epoch / 9)
        run.state = "completed" if epochs == 9 else "pruned"
        sampler.tell(run.key, run.state, run.last(METRIC))
        runs.append(run)
    return runs


@pytest.mark.parametrize("name", ["tpe", "random", "gp"])
def test_suggestions_stay_in_the_space_and_keep_the_constraint(name):
    space = space_of(sampler={"name": name, "startup_trials": 5})
    for run in play(Sampler(space), 0, 12):
        point = run.spec["point"]
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
    following = [run.spec["point"] for run in play(first, 15, 5)]
    assert [run.spec["point"] for run in play(second, 15, 5)] == following


def test_tpe_learns():
    runs = play(Sampler(space_of(sampler={"name": "tpe", "startup_trials": 8})), 0, 40)
    early = [score_of(run.spec["point"]) for run in runs[1:9]]
    late = [score_of(run.spec["point"]) for run in runs[-8:]]
    assert sum(late) / 8 > sum(early) / 8


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
    # The start point, then 3 x 2: a negative margin of 0.8 breaks the constraint (0.75).
    assert len(points) == 1 + 6
    assert len({tuple(sorted(point.items())) for point in points[1:]}) == 6
