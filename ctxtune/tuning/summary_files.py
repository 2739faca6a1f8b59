"""What a sweep found, from its journal: plain data for the terminal, `summary.json`, `best.yaml` and MLflow."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ctxtune.config import SweepConfig
from ctxtune.config.paths import get_path
from ctxtune.statistics import Interval, t_interval
from ctxtune.tuning.costs import GPU_HOURS, MONEY, spent
from ctxtune.tuning.record.journal import Journal, RunRecord
from ctxtune.tuning.results import Comparison, LostRuns, comparisons, lost_runs, lost_sentences, seeds_words
from ctxtune.tuning.search.multi_objective import objective_values, pareto_front
from ctxtune.tuning.stages import START, configuration, selection_scores, start_configuration
from ctxtune.yaml_text import write_yaml


@dataclass(frozen=True)
class FrontPoint:
    """A trial that no other one beats in all objectives, with the values of all of them."""

    trial: str
    values: dict[str, float]
    point: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What a sweep found.

    Attributes:
        chosen: the arm that was confirmed; None where no trial finished.
        point: its searched values; ``start_point``: those of the start configuration.
        same: chosen and start are one configuration.
        states: number of trials by state; ``lost``: the runs of selection and confirmation that failed.
        epochs: trained in the search, and what all trials at full length would have taken.
        search_scores: the objective in the search for chosen and start (a pruned start: its last score).
        selection: the objective's mean in selection, by arm.
        confirmed: one comparison for each test score.
        front: the Pareto front of a search for several objectives, the best by the first one first; else empty.
        hours: of work of all runs together.
        gpu_hours: of all runs; 0 where they had no GPU; ``money``: their price, where one is known.
    """

    chosen: str | None
    point: dict[str, Any]
    start_point: dict[str, Any]
    states: dict[str, int]
    epochs: tuple[int, int]
    search_scores: dict[str, tuple[float, int]]
    selection: dict[str, Interval]
    confirmed: tuple[Comparison, ...]
    steps: dict[str, int]
    hours: float
    front: tuple[FrontPoint, ...] = ()
    same: bool = False
    lost: tuple[LostRuns, ...] = ()
    gpu_hours: float = 0.0
    money: float | None = None


def outcome(space: SweepConfig, journal: Journal) -> Outcome:
    """Sum up a sweep; stages that have not run are empty."""
    chosen = journal.decisions.get("chosen")
    trials = journal.stage("search")
    point, trial = configuration(space, journal, chosen) if chosen else ({}, None)
    start_point, start_trial = start_configuration(space)
    epochs = space.search_epochs
    same = trial is not None and trial.hash() == start_trial.hash()
    cost = spent(journal.runs.values())
    return Outcome(
        chosen=chosen,
        point=dict(point),
        start_point=dict(start_point),
        states=dict(Counter(run.state for run in trials)),
        epochs=(sum(run.epoch for run in trials), epochs * len(trials)),
        search_scores=_search_scores(space, trials, chosen),
        selection=_selection(space, journal, start_trial.hash()),
        confirmed=comparisons(space, journal, chosen, same=same) if chosen else (),
        steps={run.spec.arm: int(run.last("train/steps") or 0) for run in journal.completed("confirmation")},
        hours=sum(run.seconds for run in journal.runs.values()) / 3600,
        front=_front(space, journal),
        same=same,
        lost=lost_runs(journal),
        gpu_hours=cost.gpu_hours,
        money=cost.money,
    )


def _front(space: SweepConfig, journal: Journal) -> tuple[FrontPoint, ...]:
    objectives = space.search.objective.all
    if len(objectives) == 1:
        return ()
    points = [
        FrontPoint(
            run.key, {each.metric: value for each, value in zip(objectives, values, strict=True)}, run.spec.point
        )
        for run in pareto_front(space, journal)
        if (values := objective_values(space, run))
    ]
    sign = 1 if objectives[0].mode == "max" else -1
    return tuple(sorted(points, key=lambda point: -sign * point.values[objectives[0].metric]))


def best_file(space: SweepConfig, journal: Journal, result: Outcome) -> str:
    """The text of `best.yaml`: the chosen configuration, as `train` and `ablate` take it."""
    if result.chosen is None:
        raise ValueError("no trial finished, so there is no best configuration")
    _, trial = configuration(space, journal, result.chosen)
    tree = {
        "name": f"{space.name}-best",
        "trial": trial.tree(),
        "validation": space.validation.model_dump(mode="json"),
        "tracking": space.tracking.model_dump(mode="json"),
    }
    header = (
        f"# The configuration that the sweep {space.name} chose ({result.chosen}, config {trial.hash()}).\n"
        f"# Searched values: {', '.join(f'{path} = {show(value)}' for path, value in result.point.items())}\n"
    )
    return header + write_yaml(tree)


def tracked_metrics(result: Outcome) -> dict[str, float]:
    """The outcome as metrics of the sweep's own run in MLflow."""
    metrics: dict[str, float] = {"time/hours": result.hours}
    if result.gpu_hours:
        metrics[GPU_HOURS] = result.gpu_hours
    if result.money is not None:
        metrics[MONEY] = result.money
    for comparison in result.confirmed:
        metrics[comparison.metric] = comparison.chosen.mean
        metrics[f"floor/{comparison.metric.partition('/')[2]}"] = comparison.floor
        if comparison.difference:
            metrics[f"difference/{comparison.metric.partition('/')[2]}"] = comparison.difference.mean
    return metrics


def show(value: Any) -> str:
    """A searched value, short enough for a table."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def changed_values(space: SweepConfig, result: Outcome) -> dict[str, tuple[Any, Any]]:
    """Each searched path with its start value and its chosen value."""
    tree = space.trial.tree()
    return {
        path: (result.start_point.get(path, _value(tree, path)), result.point.get(path, _value(tree, path)))
        for path in space.search.space
    }


def _value(tree: Mapping[str, Any], path: str) -> Any:
    try:
        return get_path(tree, path)
    except KeyError:
        return None


def _search_scores(
    space: SweepConfig, trials: list[RunRecord], chosen: str | None
) -> dict[str, tuple[float, int]]:  # fmt: skip
    metric = space.search.objective.metric
    start_point, _ = start_configuration(space)
    scores: dict[str, tuple[float, int]] = {}
    for run in trials:
        score = run.last(metric)
        if score is None:
            continue
        if run.key == chosen:
            scores["chosen"] = (score, run.epoch)
        if START not in scores and run.spec.point == start_point:
            scores[START] = (score, run.epoch)
    return scores


def _selection(space: SweepConfig, journal: Journal, start_hash: str) -> dict[str, Interval]:
    """Each arm's mean in selection; a start point that is itself among the best trials stands there as start, too."""
    means = {arm: t_interval(scores) for arm, scores in selection_scores(space, journal).items()}
    for arm in list(means):
        if START not in means and configuration(space, journal, arm)[1].hash() == start_hash:
            means[START] = means[arm]
    return means


def markdown(space: SweepConfig, result: Outcome) -> str:
    """The outcome as Markdown, for the page of the sweep's run in MLflow."""
    lines = [f"**Best configuration: {result.chosen}**", "", "| | start | best |", "|---|---|---|"]
    lines += [
        f"| {path} | {show(start)} | {show(best)} |" for path, (start, best) in changed_values(space, result).items()
    ]
    if result.front:
        names = list(result.front[0].values)
        lines += ["", "Pareto front (the best by the first objective is chosen):", ""]
        lines += [f"| trial | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        lines += [f"| {point.trial} | {' | '.join(map(show, point.values.values()))} |" for point in result.front]
    if result.confirmed:
        over = seeds_words(result.confirmed[0])
        lines += ["", f"Test classes, percent, mean and 95 % t-interval over {over}:", ""]
        lines += ["| | untrained | start | best | best - start |", "|---|---|---|---|---|"]
    for comparison in result.confirmed:
        cells = [comparison.start, comparison.chosen, comparison.difference]
        missing = "same" if result.same else "-"
        texts = [f"{100 * cell.mean:.2f} ± {100 * cell.half_width:.2f}" if cell else missing for cell in cells]
        name = comparison.metric.removeprefix("test/")
        lines.append(f"| {name} | {100 * comparison.floor:.2f} | {' | '.join(texts)} |")
    lines += ["", *(f"- {sentence}" for sentence in lost_sentences(result.lost))] if result.lost else []
    return "\n".join(lines)
