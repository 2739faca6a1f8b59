"""What terminal, summary and page say of the test classes, from journals written by hand."""

import io

import pytest
from rich.console import Console
from scipy import stats

from ctxtune.results.note import sweep_note
from ctxtune.results.summary import sweep_summary
from ctxtune.tuning.display import print_results
from ctxtune.tuning.record.journal import Journal
from ctxtune.tuning.record.trial_report import TrialReport
from ctxtune.tuning.search.sampler import Sampler
from ctxtune.tuning.stages import START, confirmation_specs
from ctxtune.tuning.sweep_results import results_of
from tests.helpers.runs import trials, whole_selection
from tests.helpers.search_spaces import METRIC, space_of

CHOSEN = "trial-0003"
NAMES = ["recall_at_1", "recall_at_2", "recall_at_4", "recall_at_8", "map_at_r", "r_precision"]
STARTS = [0.40, 0.42, 0.41, 0.43]


REASON = "not_finite: the loss is not finite at epoch 2\nmore of it"


def confirmed(tmp_path, *, failed=(), objective=METRIC, scores=None, reason=REASON):
    """Space and journal of a sweep whose start has the test scores STARTS; `scores(name, seed)` are the chosen one's.

    Args:
        failed: keys of runs that fail, all for one reason.
    """
    tree = space_of(trials=4, objective={"metric": objective}).model_dump(mode="json")
    tree |= {"select": {"top": 2, "folds": [1], "seeds": 1}, "confirm": {"seeds": 4}}
    space = type(space_of()).model_validate(tree)
    journal = Journal(tmp_path / "journal.jsonl")

    def run(spec, metrics):
        journal.asked(spec)
        if spec.key in failed:
            journal.ended(spec.key, "failed", reason)
            return
        journal.reported(spec.key, TrialReport(9, metrics))
        journal.ended(spec.key, "completed")

    for number, spec in enumerate(trials(space, journal, Sampler(space))):
        run(spec, {objective: 0.1 * number})
    for spec in whole_selection(space, journal):
        run(spec, {objective: 0.5 if spec.arm == CHOSEN else 0.3})
    journal.decided("chosen", CHOSEN)
    scores = scores or (lambda name, seed: STARTS[seed] + 0.05 + 0.003 * seed)
    for spec in confirmation_specs(space, journal, CHOSEN, 4):
        own = spec.arm == CHOSEN
        values = {name: scores(name, spec.seed_index) if own else STARTS[spec.seed_index] for name in NAMES}
        run(spec, {f"test/{name}": value for name, value in values.items()})
    return space, journal


def printed(space, journal) -> str:
    console = Console(record=True, width=160, file=io.StringIO())
    print_results(console, results_of(space, journal, ended=True), {})
    return console.export_text()


def test_seeds_that_failed_are_named_and_each_arm_has_its_own_number_of_seeds(tmp_path):
    failed = [f"confirmation-{START}-seed1", f"confirmation-{CHOSEN}-seed3", "selection-trial-0002-fold1-seed0"]
    space, journal = confirmed(tmp_path, failed=failed)
    result = results_of(space, journal, ended=True)
    last = result.confirmed[-1]
    assert (len(last.chosen), len(last.start), last.pairs) == (3, 3, 2)
    ours = [STARTS[seed] + 0.05 + 0.003 * seed for seed in (0, 2)]
    low, high = stats.ttest_rel(ours, [STARTS[0], STARTS[2]]).confidence_interval()
    assert (last.difference.interval.low, last.difference.interval.high) == pytest.approx((low, high))
    assert sweep_summary(result)["states"] == {"completed": 4}  # of the search; what was lost later stands by itself
    assert [(each.stage, each.arm, each.runs, len(each.which)) for each in result.lost] == [
        ("selection", "trial-0002", 1, 1),
        ("confirmation", CHOSEN, 4, 1),
        ("confirmation", START, 4, 1),
    ]
    for text in (printed(space, journal), sweep_note(result)):
        assert "the same" not in text
        assert "n = 3 of the start, 3 of the chosen, 2 pairs" in text
        assert (
            "confirmation of start: 1 of 4 runs lost: seed 1 failed (not_finite: the loss is not finite at epoch 2)"
            in text
        )
        assert f"confirmation of {CHOSEN}: 1 of 4 runs lost: seed 3 failed" in text
        assert "selection of trial-0002: 1 of 1 runs lost: fold 1, seed 0 failed" in text


def test_the_page_in_mlflow_obeys_nothing_that_an_error_of_the_users_says(tmp_path):
    reason = "error: <img src=x onerror=alert(1)> ![seen](http://x/?q) </td> &lt;b&gt; a < 5"
    space, journal = confirmed(tmp_path, failed=[f"confirmation-{CHOSEN}-seed3"], reason=reason)
    text = sweep_note(results_of(space, journal, ended=True))
    assert "&lt;img src=x onerror=alert(1)> ![seen\\](http://x/?q) &lt;/td> &amp;lt;b&amp;gt; a < 5" in text
    assert "<" not in text.replace("a < 5", "")


def test_whole_confirmations_say_nothing_of_losses(tmp_path):
    space, journal = confirmed(tmp_path)
    text = printed(space, journal)
    assert "over the same 4 fresh seeds" in text and "lost" not in text
    assert "MAP@R: the chosen configuration is better than the start on the test classes (+" in text


def test_a_start_that_failed_is_not_said_to_be_the_chosen_one(tmp_path):
    failed = [f"confirmation-{START}-seed{seed}" for seed in range(4)]
    space, journal = confirmed(tmp_path, failed=failed)
    text = printed(space, journal)
    assert "The start has no test scores: nothing can be said about the difference." in text
    assert "itself was chosen" not in text and "same" not in text
    assert "confirmation of start: 4 of 4 runs lost" in text


@pytest.mark.parametrize(
    ("objective", "title"), [("validation/recall_at_1", "Recall@1"), ("validation/r_precision", "R-precision")]
)
def test_the_objective_s_counterpart_is_judged_not_the_last_score_of_the_table(tmp_path, objective, title):
    judged = objective.removeprefix("validation/")

    def scores(name, seed):
        return STARTS[seed] + (0.02 + 0.002 * seed if name == judged else -0.02 - 0.002 * seed)

    space, journal = confirmed(tmp_path, objective=objective, scores=scores)
    text = printed(space, journal)
    assert f"{title}: the chosen configuration is better than the start on the test classes" in text
    assert "WORSE" not in text and judged in text
    verdicts = {each.metric: each.verdict for each in results_of(space, journal, ended=True).confirmed}
    assert [metric for metric, verdict in verdicts.items() if verdict] == [f"test/{judged}"]


def test_few_seeds_are_said_to_be_few(tmp_path):
    gains = [0.03, 0.00, 0.04, 0.01]
    space, journal = confirmed(tmp_path, scores=lambda name, seed: STARTS[seed] + gains[seed])
    assert "is inconclusive: between " in printed(space, journal)


def test_the_names_in_the_summary_are_the_promised_ones(tmp_path):
    """Python names may change; a script that reads `summary.json` of this format may not have to."""
    summary = sweep_summary(results_of(*confirmed(tmp_path), ended=True))
    assert {"chosen", "point", "start_point", "states", "search_scores", "selection", "confirmed", "hours"} <= set(
        summary
    )
    (judged,) = (score for score in summary["confirmed"] if score["verdict"])
    assert set(judged) == {"metric", "chosen", "start", "difference", "floor", "verdict"}
    assert set(judged["chosen"]) == {"mean", "low", "high", "count"}
    assert set(judged["verdict"]) == {"judgement", "corrected_p", "wilcoxon_p", "equivalence_p", "interval"}
    assert judged["verdict"]["judgement"] == "better"
