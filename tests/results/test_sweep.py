"""Ranking, selection, confirmation and losses of sweeps, from runs made by hand."""

from itertools import product
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy import stats

from ctxtune.results.designs import SweepDesign
from ctxtune.results.ranking import Objective, best, pareto_front, ranked
from ctxtune.results.runs import START, Run, lost_runs
from ctxtune.results.sweep import SweepResults, select
from ctxtune.results.wording import confirmation_sentence, lost_sentences, seeds_words

METRIC, TEST = "validation/map_at_r", "test/map_at_r"
START_SCORES = [0.40, 0.42, 0.41, 0.43]


def trial(number: int, score: float | None, state: Any = "completed", **metrics: float) -> Run:
    key = f"trial-{number:04d}"
    scores = {} if score is None else {METRIC: score}
    return Run(key, "search", key, state, metrics={**scores, **metrics}, settings={"loss.k": str(number)})


def confirmation(arm: str, seed: int, score: float | None, **metrics: float) -> Run:
    settings = {"loss.k": 0 if arm == START else int(arm[-4:])}
    key, state = f"confirmation-{arm}-seed{seed}", "failed" if score is None else "completed"
    scores = {} if score is None else {TEST: score, "floor/map_at_r": 0.02}
    reason = "not_finite: the loss is not finite\nmore of it" if score is None else ""
    return Run(key, "confirmation", arm, state, reason, seed, metrics={**scores, **metrics}, settings=settings)


def design_of(**search: Any) -> SweepDesign:
    tree = {
        "name": "sweep",
        "trial": {"schedule": {"epochs": 9}},
        "search": {"space": {"loss.k": {"choice": [0, 1]}}, **search},
        "confirm": {"seeds": 4},
    }
    return SweepDesign.model_validate(tree)


def results_of(*runs: Run, ended: bool = True, design: SweepDesign | None = None, **options: Any) -> SweepResults:
    return SweepResults(design or design_of(), runs, ended, **options)


class TestRanking:
    def test_only_completed_trials_with_a_score_are_ranked_and_the_earlier_of_equals_is_first(self) -> None:
        runs = [
            trial(0, 0.5),
            trial(1, 0.9, "pruned"),
            trial(2, 0.7),
            trial(3, None),
            trial(4, 0.7),
            trial(5, float("nan")),
        ]
        assert [run.key[-1] for run in ranked(runs, [Objective()])] == ["2", "4", "0"]
        assert best(runs, [Objective(mode="min")]) == runs[0]
        assert best(runs[1:2], [Objective()]) is None

    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
    def test_the_front_is_what_nobody_beats(self, points: list[tuple[int, int]]) -> None:
        objectives = (Objective(), Objective(metric="model.embedding_dim", mode="min"))
        runs = [
            Run(
                str(n),
                "search",
                str(n),
                "completed",
                metrics={METRIC: float(a)},
                settings={"model.embedding_dim": str(b)},
            )
            for n, (a, b) in enumerate(points)
        ]
        front = {int(run.key) for run in pareto_front(runs, objectives)}
        wanted = {
            n for n, (a, b) in enumerate(points) if not any(c >= a and d <= b and (c, d) != (a, b) for c, d in points)
        }
        assert front == wanted


class TestSelection:
    def test_an_arm_that_lost_a_run_is_left_out(self) -> None:
        runs = [trial(0, 0.5), trial(1, 0.6)]
        for arm, fold in product(["trial-0000", "trial-0001"], "01"):
            lost = (arm, fold) == ("trial-0001", "1")
            metrics = {} if lost else {METRIC: 0.9 if arm == "trial-0001" else 0.4}
            key = f"selection-{arm}-fold{fold}"
            runs.append(
                Run(
                    key,
                    "selection",
                    arm,
                    "failed" if lost else "completed",
                    "out_of_memory",
                    folds=(fold,),
                    metrics=metrics,
                )
            )
        results = results_of(*runs)
        assert select(results) == "trial-0000" and results.selection == {"trial-0000": [0.4, 0.4]}
        assert select(results_of(*runs[:2])) == "trial-0001" and select(results_of()) is None
        said = list(lost_sentences(results.lost))
        assert said[0] == "selection of trial-0001: 1 of 2 runs lost: fold 1, seed 0 failed (out_of_memory)"


class TestConfirmation:
    def runs(self, scores: list[float | None], seeds: int = 4) -> list[Run]:
        found = [trial(0, 0.5), trial(1, 0.6)]
        for seed in range(seeds):
            found += [confirmation("trial-0001", seed, scores[seed]), confirmation(START, seed, START_SCORES[seed])]
        return found

    def test_against_scipy(self) -> None:
        ours = [0.45, 0.48, 0.46, 0.47]
        score = results_of(*self.runs(list(ours))).judged
        assert score is not None and score.difference is not None and score.verdict is not None
        expected = stats.ttest_rel(ours, START_SCORES)
        assert score.difference.p_value == pytest.approx(expected.pvalue)
        assert score.difference.interval.low == pytest.approx(expected.confidence_interval().low)
        assert score.chosen_interval.mean == pytest.approx(np.mean(ours)) and score.untrained == 0.02
        assert score.verdict.judgment == "better" and seeds_words(score) == "the same 4 fresh seeds"

    def test_nothing_is_judged_before_all_planned_seeds_are_there(self) -> None:
        runs = self.runs([0.6, 0.63, 0.61, 0.6], seeds=3)
        running = results_of(*runs, ended=False)
        assert running.judged is not None and running.judged.difference is not None
        assert running.judged.verdict is None and running.judged.words == "interim: 3 of 4"
        assert "nothing is judged" in confirmation_sentence(running)
        ended = results_of(*runs).judged  # nothing is to come: what there is counts
        assert ended is not None and ended.verdict is not None
        whole = results_of(*self.runs([0.6, 0.63, 0.61, 0.6]), ended=False).judged
        assert whole is not None and whole.verdict is not None

    def test_lost_seeds_take_their_pair_with_them(self) -> None:
        results = results_of(*self.runs([0.45, None, 0.46, 0.5]))
        (score,) = results.confirmed
        assert (len(score.chosen), len(score.start), score.pairs) == (3, 4, 3)
        assert "n = 4 of the start, 3 of the chosen, 3 pairs" in seeds_words(score)
        assert any("flattered" in sentence for sentence in lost_sentences(results.lost))
        assert [(each.arm, each.runs, len(each.which)) for each in lost_runs(results.runs, ["confirmation"])] == [
            ("trial-0001", 4, 1)
        ]

    def test_a_chosen_start_has_nothing_to_be_compared_with(self) -> None:
        runs = [trial(0, 0.5), *(confirmation("trial-0000", seed, 0.4) for seed in range(4))]
        results = results_of(*runs)
        assert results.same and "itself was chosen" in confirmation_sentence(results)
        other = results_of(trial(0, 0.5), trial(1, 0.6), confirmation("trial-0001", 0, 0.4))
        assert not other.same and "The start has no test scores" in confirmation_sentence(other)

    @pytest.mark.parametrize(
        ("scores", "words"),
        [
            ([0.35, 0.36, 0.36, 0.37], "is WORSE than the start"),
            (START_SCORES, "no difference to the start"),
            ([0.45, 0.38, 0.44, 0.43], "is inconclusive: between"),
        ],
    )
    def test_every_verdict_has_its_sentence(self, scores: list[float], words: str) -> None:
        assert words in confirmation_sentence(results_of(*self.runs(list(scores))))


def test_the_start_is_found_by_its_values_not_by_its_place() -> None:
    trials = [trial(1, 0.6), trial(0, 0.5)]
    assert results_of(*trials, confirmation("trial-0001", 0, 0.4), confirmation(START, 0, 0.4)).start_trial == trials[1]
    assert results_of(*trials).start_trial == trials[0]  # a search begins at its start points
    nowhere = design_of(start_from=[])  # but not this one: the start is the file's own trial
    assert results_of(*trials, design=nowhere).start_trial is None
    own = nowhere.model_copy(update={"trial": {**nowhere.trial, "loss": {"k": 0}}})
    assert results_of(*trials, design=own).start_trial == trials[1]


def test_a_search_of_shorter_trials_is_counted_by_their_own_length() -> None:
    run = Run("trial-0000", "search", "trial-0000", "completed", epoch=3, metrics={METRIC: 0.5})
    assert results_of(run, design=design_of(schedule={"epochs": 3})).epochs == (3, 3)
    assert results_of(run).epochs == (3, 9)
