"""What the test classes say of a sweep's chosen configuration, and which runs of the later stages did not come to their end."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ctxtune.config import SweepConfig
from ctxtune.statistics import Interval, Verdict, compare_pairs, judge_family, t_interval
from ctxtune.tuning.record.journal import Journal, RunRecord
from ctxtune.tuning.stages import START

LATER_STAGES = ("selection", "confirmation")


@dataclass(frozen=True)
class Comparison:
    """A test score of the chosen configuration and of the start point, and their difference.

    Attributes:
        chosen, start: over the seeds that came to their end, which may be fewer in one arm than in the other; None where
            an arm has none.
        difference: over the seeds that both arms have.
        verdict: of the difference, by the paired t-test; for the objective's counterpart on the test classes only.
    """

    metric: str
    chosen: Interval
    start: Interval | None
    difference: Interval | None
    floor: float
    verdict: Verdict | None = None


@dataclass(frozen=True)
class LostRuns:
    """The runs of one arm in selection or confirmation that failed or were killed.

    Attributes:
        runs: how many there were, the others included.
        which: of each lost one its fold and seed, and why it ended.
    """

    stage: str
    arm: str
    runs: int
    which: tuple[str, ...]

    def __str__(self) -> str:
        of = "start" if self.arm == START else self.arm
        return f"{self.stage} of {of}: {len(self.which)} of {self.runs} runs lost: {'; '.join(self.which)}"


def judged_metric(space: SweepConfig) -> str:
    """The objective's counterpart on the test classes, the one score that is judged."""
    return space.search.objective.metric.replace("validation/", "test/")


def comparisons(space: SweepConfig, journal: Journal, chosen: str, *, same: bool) -> tuple[Comparison, ...]:
    """One comparison for each test score of the confirmed arms.

    Args:
        same: chosen and start are one configuration, which was confirmed once.
    """
    by_arm: dict[str, dict[int, RunRecord]] = {}
    for run in journal.completed("confirmation"):
        by_arm.setdefault(run.spec.arm, {})[run.spec.seed_index] = run
    ours, start = by_arm.get(chosen, {}), {} if same else by_arm.get(START, {})
    objective = judged_metric(space)
    metrics = [*(f"test/recall_at_{k}" for k in space.trial.evaluation.recall_at), "test/map_at_r", objective]
    found = []
    for metric in dict.fromkeys(metrics):
        scores, theirs = _values(ours, metric), _values(start, metric)
        if not scores:
            continue
        shared = sorted(scores.keys() & theirs.keys())
        pairs = compare_pairs([scores[seed] for seed in shared], [theirs[seed] for seed in shared]) if shared else None
        floors = list(_values(ours, metric.replace("test/", "floor/")).values())
        found.append(
            Comparison(
                metric,
                t_interval(list(scores.values())),
                t_interval(list(theirs.values())) if theirs else None,
                pairs.interval if pairs else None,
                sum(floors) / len(floors) if floors else math.nan,
                judge_family([pairs], mode=space.search.objective.mode)[0] if pairs and metric == objective else None,
            )
        )
    return tuple(found)


def lost_runs(journal: Journal) -> tuple[LostRuns, ...]:
    """The runs of selection and confirmation that ended without a score, by stage and arm."""
    found = []
    for stage in LATER_STAGES:
        arms: dict[str, list[RunRecord]] = {}
        for run in journal.stage(stage):
            arms.setdefault(run.spec.arm, []).append(run)
        for arm, runs in arms.items():
            lost = tuple(_which(run) for run in runs if run.state in ("failed", "killed"))
            found += [LostRuns(stage, arm, len(runs), lost)] if lost else []
    return tuple(found)


def lost_sentences(lost: tuple[LostRuns, ...]) -> Iterator[str]:
    """What was lost, in words, and what that means for the numbers."""
    yield from map(str, lost)
    if any(each.stage == "confirmation" for each in lost):
        yield "Test scores are over the seeds that came to their end: the mean of an arm whose runs fail is flattered by that."
    if any(each.stage == "selection" for each in lost):
        yield "An arm that lost a run is left out of selection."


def seeds_words(comparison: Comparison) -> str:
    """Over which seeds the test scores are: "the same 5 fresh seeds", or how many of each arm where they differ."""
    chosen, start, pairs = comparison.chosen.count, comparison.start, comparison.difference
    if start is None:
        return f"{chosen} fresh seeds"
    paired = pairs.count if pairs else 0
    if chosen == start.count == paired:
        return f"the same {chosen} fresh seeds"
    return (
        f"the fresh seeds that came to their end (n = {start.count} of the start, {chosen} of the best, {paired} pairs)"
    )


def _values(runs: dict[int, RunRecord], metric: str) -> dict[int, float]:
    return {seed: value for seed, run in sorted(runs.items()) if (value := run.last(metric)) is not None}


def _which(run: RunRecord) -> str:
    folds = "".join(f"fold {fold}, " for fold in run.spec.folds)
    reason = run.reason.splitlines()[0] if run.reason else ""
    return f"{folds}seed {run.spec.seed_index} {run.state}" + (f" ({reason})" if reason else "")
