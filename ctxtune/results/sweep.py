"""What a sweep found: ranking, selection, and the chosen configuration against the start on the test classes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ctxtune.results.designs import SweepDesign
from ctxtune.results.ranking import pareto_front, ranked
from ctxtune.results.runs import (
    START,
    LostRuns,
    Run,
    by_arm,
    by_seed,
    completed,
    in_stage,
    lost_runs,
    score_names,
    shared_scores,
)
from ctxtune.results.verdicts import verdict_words
from ctxtune.statistics import Interval, PairedDifference, Verdict, compare_pairs, judge_family, t_interval


@dataclass(frozen=True)
class ConfirmedScore:
    """One test score of the chosen configuration and of the start.

    Attributes:
        chosen, start: by seed, of those that came to their end, which may be fewer in one arm than in the other.
        floor: of the untrained model; not a number where it was not scored.
        difference: over the seeds that both arms have; None where there is none.
        judged: whether it is the objective's counterpart, the one score that is tested.
        verdict: None also while seeds are still to come: to judge at each look would be optional stopping.
        planned: so many seeds.
    """

    metric: str
    chosen: Mapping[int, float]
    start: Mapping[int, float]
    floor: float
    difference: PairedDifference | None
    judged: bool
    verdict: Verdict | None
    planned: int

    @property
    def words(self) -> str:
        """The verdict in plain words, or why there is none yet."""
        return verdict_words(self.difference, self.verdict, self.planned, ended=True)

    @property
    def chosen_interval(self) -> Interval:
        """Mean and t-interval of the chosen configuration."""
        return t_interval(list(self.chosen.values()))

    @property
    def start_interval(self) -> Interval | None:
        """Mean and t-interval of the start; None where it has no score."""
        return t_interval(list(self.start.values())) if self.start else None

    @property
    def pairs(self) -> int:
        """Number of seeds that both arms have."""
        return self.difference.count if self.difference else 0


@dataclass(frozen=True)
class SweepResults:
    """What a sweep found, finished or still running.

    Attributes:
        runs: all of them, in the order in which they began.
        ended: no run is to come.
        decided: the arm that the sweep decided on, where that is known.
        start_configuration: the hash of the start's configuration, where that is known.
        planned_seeds: of confirmation, where they are not those of the design.
    """

    design: SweepDesign
    runs: tuple[Run, ...]
    ended: bool
    decided: str | None = None
    start_configuration: str | None = None
    planned_seeds: int | None = None

    @cached_property
    def trials(self) -> tuple[Run, ...]:
        """The trials of the search."""
        return in_stage(self.runs, "search")

    @cached_property
    def ranking(self) -> list[Run]:
        """The completed trials, the best first; with several objectives those of the Pareto front, by the first one."""
        if len(self.design.objectives) > 1:
            return pareto_front(self.trials, self.design.objectives)
        return ranked(self.trials, self.design.objective)

    @cached_property
    def best(self) -> Run | None:
        """The best completed trial."""
        return next(iter(self.ranking), None)

    @cached_property
    def front(self) -> tuple[Run, ...]:
        """The Pareto front of a search for several objectives; empty of a search for one."""
        return tuple(self.ranking) if len(self.design.objectives) > 1 else ()

    @cached_property
    def start_trial(self) -> Run | None:
        """The trial that began at the unaltered start point; None where there is none."""
        known = self.start_configuration or next(
            (run.configuration for run in self.runs if run.arm == START and run.configuration), None
        )
        if known:
            return next((run for run in self.trials if run.configuration == known), None)
        # Records without hashes: a search begins at its start points.
        return self.trials[0] if self.trials else None

    @cached_property
    def chosen(self) -> str | None:
        """The arm that was decided on; where that is not recorded, the confirmed one."""
        if self.decided is not None:
            return self.decided
        arms = list(by_arm(in_stage(self.runs, "confirmation")))
        return next((arm for arm in arms if arm != START), arms[0] if arms else None)

    @property
    def same(self) -> bool:
        """Whether the chosen configuration is the start itself."""
        beside = any(run.arm == START for run in in_stage(self.runs, "confirmation"))
        if self.chosen in (None, START) or beside:  # the start is confirmed beside others only
            return self.chosen == START
        trial = self.start_trial
        if trial is None:
            return False
        if trial.key == self.chosen:
            return True
        chosen = next((run for run in self.runs if run.arm == self.chosen and run.configuration), None)
        return chosen is not None and chosen.configuration == trial.configuration

    @cached_property
    def selection(self) -> dict[str, list[float]]:
        """The objective in selection of each arm that came to the end of all its runs."""
        objective = self.design.objective
        found = {}
        for arm, runs in by_arm(in_stage(self.runs, "selection")).items():
            values = [objective.of(run) if run.state == "completed" else None for run in runs]
            scores = [value for value in values if value is not None]
            if len(scores) == len(values):
                found[arm] = scores
        return found

    @cached_property
    def confirmations(self) -> dict[str, list[Run]]:
        """The completed confirmations by arm; the start last."""
        arms = by_arm(completed(in_stage(self.runs, "confirmation")))
        return dict(sorted(arms.items(), key=lambda item: item[0] == START))

    @cached_property
    def confirmed(self) -> tuple[ConfirmedScore, ...]:
        """Every test score that was taken; empty before the first confirmation of the chosen arm is completed."""
        chosen = self.confirmations.get(self.chosen or "", [])
        start = [] if self.same else self.confirmations.get(START, [])
        names = score_names([*chosen, *start], "test")
        return tuple(score for name in names if (score := self._confirmed(name, chosen, start)).chosen)

    def _confirmed(self, metric: str, chosen: list[Run], start: list[Run]) -> ConfirmedScore:
        ours, theirs = by_seed(chosen, metric), by_seed(start, metric)
        pairs = shared_scores(ours, theirs)
        difference = compare_pairs(*pairs) if pairs[0] else None
        floors = by_seed(chosen, metric.replace("test/", "floor/"))
        planned = self.planned_seeds or (self.design.confirm.seeds if self.design.confirm else 0)
        judged = metric == self.design.objective.test_metric
        verdict = None
        if judged and difference is not None and (self.ended or 0 < planned <= difference.count):
            verdict = judge_family([difference], mode=self.design.objective.mode)[0]
        floor = sum(floors.values()) / len(floors) if floors else math.nan
        return ConfirmedScore(metric, ours, theirs, floor, difference, judged, verdict, planned)

    @cached_property
    def judged(self) -> ConfirmedScore | None:
        """The one score that is tested: chosen against start on the objective's counterpart of the test classes."""
        return next((score for score in self.confirmed if score.judged), None)

    @cached_property
    def lost(self) -> tuple[LostRuns, ...]:
        """What was lost in selection and confirmation."""
        return lost_runs(self.runs, ("selection", "confirmation"))

    @property
    def epochs(self) -> tuple[int, int]:
        """Epochs that the search trained, and those of all its trials at full length."""
        return sum(run.epoch for run in self.trials), self.design.epochs * len(self.trials)


def select(results: SweepResults) -> str | None:
    """The arm to confirm: the best mean in selection, of those with the most runs (others fell behind in its race).

    Without selection the best trial; None where nothing came to its end.
    """
    if results.selection:
        most = max(map(len, results.selection.values()))
        means = {arm: sum(scores) / most for arm, scores in results.selection.items() if len(scores) == most}
        return max(means, key=lambda arm: results.design.objective.sign * means[arm])
    return results.best.key if results.best else None
