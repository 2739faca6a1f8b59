"""Where the luck of an ablation lies: designs, and what is estimated of them."""

from itertools import product

import numpy as np
import pytest

from ctxtune.results.ablation import AblationResults
from ctxtune.results.designs import AblationDesign, CellDesign
from ctxtune.results.luck import luck
from ctxtune.results.runs import Run

METRIC = "validation/map_at_r"


def ablation_of(score, *, arms=4, **design):
    """An ablation whose runs score what a function of arm, repeat, seed and fold gives."""
    cells = [f"arm {number}" for number in range(arms)]
    asked = AblationDesign(
        name="a", metric=METRIC, reference=cells[0], dataset="d", variants=cells, contrasts=[],
        cells=[CellDesign(cell=cell, variant=cell) for cell in cells], **{"folds": ["0"], **design},
    )  # fmt: skip
    runs = tuple(
        Run(
            key=f"{cell}-{repeat}-{seed}-{fold}", stage="cell", arm=cell, state="completed", seed_index=seed,
            folds=(fold,), repeat=repeat, metrics={METRIC: score(number, repeat, seed, int(fold))},
        )
        for (number, cell), repeat, seed, fold in product(
            enumerate(cells), range(asked.repeats), range(asked.seeds), asked.folds
        )
    )  # fmt: skip
    return AblationResults(asked, runs, ended=True)


@pytest.mark.parametrize(
    ("design", "names"),
    [
        ({"seeds": 3, "folds": ["0", "1"]}, ["seed", "fold", "seed within fold"]),
        ({"seeds": 3}, []),
        ({"seeds": 2, "repeats": 4}, ["tuning", "seed"]),
        ({"seeds": 2, "repeats": 4, "splits": 2}, ["split", "tuning", "seed"]),
        ({"seeds": 2, "repeats": 4, "splits": 4}, ["tuning and split", "seed"]),
        ({"seeds": 2, "repeats": 6, "rotated": ["1", "2", "3"]}, ["tuning fold", "tuning", "seed"]),
        ({"seeds": 2, "repeats": 3, "rotated": ["1", "2", "3"]}, ["tuning and tuning fold", "seed"]),
        ({"seeds": 2, "repeats": 8, "rotated": ["1", "2"], "splits": 4}, ["split and tuning fold", "tuning", "seed"]),
    ],
)
def test_a_source_is_told_where_the_design_can_tell_it(design, names):
    generator = np.random.default_rng(0)
    assert [each.source for each in luck(ablation_of(lambda *place: generator.normal(), **design))] == names


def test_split_tuning_and_seed_are_told_apart():
    found = []
    for experiment in range(150):
        generator = np.random.default_rng(experiment)
        split, tuning = generator.normal(0, 0.03, (4, 3)), generator.normal(0, 0.02, (4, 6))
        score = lambda arm, repeat, seed, fold, own=(split, tuning, generator): (  # noqa: E731
            own[0][arm, repeat % 3] + own[1][arm, repeat] + own[2].normal(0, 0.01)
        )
        results = ablation_of(score, seeds=2, repeats=6, splits=3)
        found.append([each.scores**2 for each in luck(results)])
    assert np.sqrt(np.mean(found, axis=0)) == pytest.approx([0.03, 0.02, 0.01], rel=0.1)


def test_arms_are_averaged_before_what_is_negative_is_taken_for_none():
    """Without any luck of seeds and folds, ten arms leave half as much of it by chance as one arm would."""
    left = {}
    for arms in (1, 10):
        found = []
        for experiment in range(200):
            generator = np.random.default_rng(experiment)
            results = ablation_of(lambda *place, own=generator: own.normal(), arms=arms, seeds=5, folds=["0", "1", "2"])
            found.append(luck(results)[0].scores ** 2)
        left[arms] = np.mean(found)
    assert left[10] < 0.5 * left[1]
