"""What a sweep found: ranking, selection, and the chosen configuration against the start on the test classes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ctxtune.metric_names import SEPARATED
from ctxtune.results.designs import SweepDesign
from ctxtune.results.ranking import ranked, value_of, values_of
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
from ctxtune.results.selection import standing, whole_scores
from ctxtune.results.verdicts import verdict_words
from ctxtune.statistics import Interval, PairedDifference, Verdict, compare_pairs, judge_family, t_interval


@dataclass(frozen=True)
class ConfirmedScore:
    """One test score of the chosen configuration and of the start.

    Attributes:
        chosen, start: by seed, of those that came to their end, which may be fewer in one arm than in the other.
        untrained: of the untrained model (`floor/...` in the runs); not a number where it was not scored.
        difference: over the seeds that both arms have; None where there is none.
        judged: whether it is the objective's counterpart, the one score that is tested.
        verdict: None also while seeds are still to come: to judge at each look would be optional stopping.
        planned: so many seeds.
    """

    metric: str
    chosen: Mapping[int, float]
    start: Mapping[int, float]
    untrained: float
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
        planned_seeds: of confirmation, where they are not those of the design.
    """

    design: SweepDesign
    runs: tuple[Run, ...]
    ended: bool
    decided: str | None = None
    planned_seeds: int | None = None

    @cached_property
    def trials(self) -> tuple[Run, ...]:
        """The trials of the search."""
        return in_stage(self.runs, "search")

    @cached_property
    def ranking(self) -> list[Run]:
        """The completed trials, the best first; with several objectives those of the Pareto front, by the first one."""
        return ranked(self.trials, self.design.objectives)

    @cached_property
    def best(self) -> Run | None:
        """The best completed trial."""
        return next(iter(self.ranking), None)

    @cached_property
    def front(self) -> tuple[Run, ...]:
        """The Pareto front of a search for several objectives, the best by the first one first; empty of a search for one."""
        return tuple(self.ranking) if len(self.design.objectives) > 1 else ()

    def point(self, run: Run) -> dict[str, object]:
        """The searched values of a run, by path."""
        return {path: run.setting(path) for path in self.design.search.space if path in run.settings}

    @cached_property
    def start_point(self) -> dict[str, object]:
        """The searched values of the start: of its runs, else of the first trial where the search began at a start point."""
        beside = next((run for run in self.runs if run.arm == START), None)
        if beside is None and self.design.search.start_from and self.trials:
            beside = self.trials[0]
        return self.point(beside) if beside else self.design.own_values

    @cached_property
    def start_trial(self) -> Run | None:
        """The trial that began at the unaltered start point; None where there is none."""
        return next((run for run in self.trials if self.point(run) == self.start_point), None)

    @cached_property
    def chosen_point(self) -> dict[str, object]:
        """The searched values of the chosen configuration."""
        if self.chosen == START:
            return self.start_point
        run = next((run for run in self.runs if run.arm == self.chosen), None)
        return self.point(run) if run else {}

    @cached_property
    def chosen_trial(self) -> Run | None:
        """The trial of the chosen configuration."""
        return next((run for run in self.trials if run.arm == self.chosen), self.start_trial if self.same else None)

    @cached_property
    def chosen(self) -> str | None:
        """The arm that was decided on; where that is not recorded, the confirmed one."""
        if self.decided is not None:
            return self.decided
        arms = list(by_arm(in_stage(self.runs, "confirmation")))
        return next((arm for arm in arms if arm != START), arms[0] if arms else None)

    @cached_property
    def same(self) -> bool:
        """Whether the chosen configuration is the start itself."""
        beside = any(run.arm == START for run in in_stage(self.runs, "confirmation"))
        if self.chosen in (None, START) or beside:  # the start is confirmed beside others only
            return self.chosen == START
        return self.chosen_point == self.start_point

    @cached_property
    def selection(self) -> dict[str, list[float]]:
        """The objective in selection of each arm that came to the end of all its runs."""
        return whole_scores(in_stage(self.runs, "selection"), self.design.objective, lambda run: run.arm)

    @cached_property
    def selection_with_start(self) -> dict[str, list[float]]:
        """The selection, with the start as such where it is one of the best trials itself."""
        found = dict(self.selection)
        if START not in found and self.start_trial is not None and self.start_trial.arm in found:
            found[START] = found[self.start_trial.arm]
        return found

    @cached_property
    def search_scores(self) -> dict[str, tuple[float, int]]:
        """The objective in the search, and after which epoch, of chosen and start (of a pruned one its last score)."""
        found = {}
        for name, run in (("chosen", self.chosen_trial), (START, self.start_trial)):
            score = value_of(run, self.design.objective) if run else None
            if run is not None and score is not None:
                found[name] = (score, run.epoch)
        return found

    @cached_property
    def changes(self) -> list[tuple[str, object, object]]:
        """Each searched path with the start's value and the chosen one."""
        paths = self.design.search.space
        return [(path, self.start_point.get(path), self.chosen_point.get(path)) for path in paths]

    def objective_values(self, run: Run) -> dict[str, float]:
        """What a run reaches in all objectives, by metric; empty where a value is missing."""
        found = values_of(run, self.design.objectives)
        metrics = (objective.metric for objective in self.design.objectives)
        return dict(zip(metrics, found, strict=True)) if found else {}

    @cached_property
    def confirmations(self) -> dict[str, list[Run]]:
        """The completed confirmations by arm; the start last."""
        arms = by_arm(completed(in_stage(self.runs, "confirmation")))
        return dict(sorted(arms.items(), key=lambda item: item[0] == START))

    @cached_property
    def confirmed(self) -> tuple[ConfirmedScore, ...]:
        """Every test score that was taken; empty before the first confirmation of the chosen arm is completed."""
        return self._confirmed_scores("test")

    @cached_property
    def separated(self) -> tuple[ConfirmedScore, ...]:
        """The means of the single models' test scores, where the confirmation has a model for each fold."""
        return self._confirmed_scores(f"test{SEPARATED}")

    def _confirmed_scores(self, split: str) -> tuple[ConfirmedScore, ...]:
        chosen = self.confirmations.get(self.chosen or "", [])
        start = [] if self.same else self.confirmations.get(START, [])
        names = score_names([*chosen, *start], split)
        return tuple(score for name in names if (score := self._confirmed(name, chosen, start)).chosen)

    def _confirmed(self, metric: str, chosen: list[Run], start: list[Run]) -> ConfirmedScore:
        ours, theirs = by_seed(chosen, metric), by_seed(start, metric)
        pairs = shared_scores(ours, theirs)
        difference = compare_pairs(*pairs) if pairs[0] else None
        split, _, name = metric.partition("/")
        untrained_by_seed = by_seed(chosen, f"floor/{name}") if split == "test" else {}
        planned = self.planned_seeds or (self.design.confirm.seeds if self.design.confirm else 0)
        judged = metric == self.design.objective.test_metric
        verdict = None
        if judged and difference is not None and (self.ended or 0 < planned <= difference.count):
            verdict = judge_family([difference], mode=self.design.objective.mode)[0]
        untrained = sum(untrained_by_seed.values()) / len(untrained_by_seed) if untrained_by_seed else math.nan
        return ConfirmedScore(metric, ours, theirs, untrained, difference, judged, verdict, planned)

    @cached_property
    def judged(self) -> ConfirmedScore | None:
        """The one score that is tested: chosen against start on the objective's counterpart of the test classes."""
        return next((score for score in self.confirmed if score.judged), None)

    @cached_property
    def lost(self) -> tuple[LostRuns, ...]:
        """What was lost in selection and confirmation."""
        return lost_runs(self.runs, ("selection", "confirmation"))

    @property
    def ended_by_budget(self) -> bool:
        """Whether hours or GPU-hours ended the search before all its trials were done."""
        return any(run.state == "killed" and run.reason in ("hours", "gpu_hours") for run in self.trials)

    @property
    def nothing_searched(self) -> bool:
        """Whether the budget ended the search before anything but the start could show what it is worth."""
        start = self.start_trial
        shown = (run for run in self.trials if run.state in ("completed", "pruned"))
        return self.ended_by_budget and all(start is not None and run.key == start.key for run in shown)

    @property
    def epochs(self) -> tuple[int, int]:
        """Epochs that the search trained, and those of all its trials at full length."""
        return sum(run.epoch for run in self.trials), self.design.search_epochs * len(self.trials)


def standings(results: SweepResults) -> list[str]:
    """The arms that are still in the selection's race, the best first: of those with the most runs, by their mean."""
    return standing(results.selection, results.design.objective)


def select(results: SweepResults) -> str | None:
    """The arm to confirm: the first of the selection's standings; without selection the best trial.

    None where nothing came to its end.
    """
    leading = standings(results)
    return leading[0] if leading else results.best.key if results.best else None
