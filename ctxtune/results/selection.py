"""The most promising configurations scored again: who is a candidate, what each reached, and who leads."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from ctxtune.results.ranking import Aim, AnyRun, ranked, sign, value_of

Arm = TypeVar("Arm", bound=Hashable)


def most_promising(
    runs: Iterable[AnyRun], objectives: Sequence[Aim], top: int, configuration: Callable[[AnyRun], Hashable]
) -> list[AnyRun]:
    """The best completed runs, the best first, of runs with the same configuration the first."""
    found: dict[Hashable, AnyRun] = {}
    for run in ranked(runs, objectives):
        if len(found) < top:
            found.setdefault(configuration(run), run)
    return list(found.values())


def whole_scores(runs: Iterable[AnyRun], objective: Aim, arm_of: Callable[[AnyRun], Arm]) -> dict[Arm, list[float]]:
    """The scores of each arm that came to the end of all its runs; one that lost a run is left out."""
    grouped: dict[Arm, list[AnyRun]] = {}
    for run in runs:
        grouped.setdefault(arm_of(run), []).append(run)
    found = {}
    for arm, its_runs in grouped.items():
        values = [value_of(run, objective) if run.state == "completed" else None for run in its_runs]
        scores = [value for value in values if value is not None]
        if len(scores) == len(values):
            found[arm] = scores
    return found


def standing(scores: Mapping[Arm, Sequence[float]], objective: Aim) -> list[Arm]:
    """The best arm first: of those with the most scores, by their mean."""
    most = max(map(len, scores.values()), default=0)
    means = {arm: sum(values) / most for arm, values in scores.items() if len(values) == most}
    return sorted(means, key=lambda arm: -sign(objective) * means[arm])


def chosen(
    trials: Iterable[AnyRun], again: Iterable[AnyRun], objective: Aim, number: Callable[[AnyRun], Hashable]
) -> AnyRun | None:
    """The trial of a search that is chosen: of those that were run again the one with the best mean, else the best trial.

    Of equals the earlier one; None where no trial came to its end.

    Args:
        trials: of the search.
        again: the runs of its selection; none where nothing was selected.
        number: of the trial that a run is, or is a run of.
    """
    by_number = {number(run): run for run in ranked(trials, [objective])}
    leading = standing(whole_scores(again, objective, number), objective)
    return next((by_number[each] for each in [*leading, *by_number] if each in by_number), None)
