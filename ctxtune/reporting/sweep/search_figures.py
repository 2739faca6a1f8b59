"""The figures of a search over time: optimization history, learning curves, rungs."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ctxtune.metric_names import metric_title
from ctxtune.palette import BLACK, BLUE, GRAY, ORANGE, VERMILION
from ctxtune.reporting.style import WIDTH, new_figure
from ctxtune.reporting.sweep.data import SweepData, Trial

MANY = 150
"""From so many trials on, points and lines are drawn as pixels within SVG and PDF: the files stay small."""


def history(data: SweepData, device: str) -> Figure:
    """Each trial's last score and the best completed one so far: by trial begun, and by hours spent until it ended."""
    figure, (by_trial, by_hour) = new_figure(2.9, WIDTH, ncols=2, sharey=True)
    ended = sorted(data.trials, key=lambda trial: trial.end_time)
    orders = (
        (by_trial, data.trials, [float(number) for number in range(1, len(data.trials) + 1)]),
        (by_hour, ended, [float(hours) for hours in np.cumsum([trial.run.hours for trial in ended])]),
    )
    for axes, trials, places in orders:
        scatter_trials(axes, trials, places)
        _best_so_far(axes, data, trials, places)
        axes.set_xlim(left=0)
    by_trial.xaxis.set_major_locator(MaxNLocator(integer=True))
    by_trial.set_xlabel("trials begun")
    by_hour.set_xlabel(f"{device}-hours spent on trials")
    by_trial.set_ylabel(f"{metric_title(data.objective)}, percent")
    handles, labels = by_trial.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def scatter_trials(axes: Axes, trials: Sequence[Trial], places: Sequence[float], *, best: Trial | None = None) -> None:
    """Completed trials as filled points, stopped ones as light crosses at their last score, the best as a star."""
    many = len(trials) > MANY
    kinds = {
        "stopped early (last score)": ([trial.run.state == "pruned" for trial in trials], "x", GRAY, 16, 0.7),
        "completed": ([trial.completed for trial in trials], "o", BLUE, 18, 0.9),
    }
    for label, (shown, marker, color, size, alpha) in kinds.items():
        points = [(place, 100 * trial.score) for trial, place, keep in zip(trials, places, shown, strict=True)
                  if keep and math.isfinite(trial.score)]  # fmt: skip
        if points:
            x, y = zip(*points, strict=True)
            style = {"color": color} if marker == "x" else {"color": color, "edgecolors": "white", "linewidths": 0.5}
            axes.scatter(x, y, s=size, marker=marker, alpha=alpha, label=label, rasterized=many, **style)
    if best is not None and best in trials:
        place = places[list(trials).index(best)]
        axes.scatter([place], [100 * best.score], s=110, marker="*", color=ORANGE, edgecolors=BLACK, linewidths=0.7,
                     zorder=5, label="best", clip_on=False)  # fmt: skip


def _best_so_far(axes: Axes, data: SweepData, trials: Sequence[Trial], places: Sequence[float]) -> None:
    best, x, y = math.nan, [], []
    for trial, place in zip(trials, places, strict=True):
        if trial.completed and not data.sign * best >= data.sign * trial.score:
            best = trial.score
        if math.isfinite(best):
            x.append(place)
            y.append(100 * best)
    if x:
        axes.step(x, y, where="post", color=VERMILION, label="best completed so far")


def learning_curves(data: SweepData) -> Figure:
    """The objective over the epochs of every trial; the best and the start stand out."""
    figure, axes = new_figure(3.2, WIDTH)
    groups = {
        "stopped early": ([t for t in data.trials if t.run.state != "completed"], GRAY, 0.45, 0.8),
        "completed": ([t for t in data.trials if t.completed], BLUE, 0.35, 0.9),
    }
    for label, (trials, color, alpha, width) in groups.items():
        lines = [[(point.step, 100 * point.value) for point in trial.curve] for trial in trials if trial.curve]
        if lines:
            axes.add_collection(
                LineCollection(lines, colors=color, alpha=alpha, linewidths=width, label=f"{label} ({len(lines)})",
                               rasterized=len(lines) > MANY)
            )  # fmt: skip
    stopped = [trial.curve[-1] for trial in groups["stopped early"][0] if trial.curve]
    axes.scatter([point.step for point in stopped], [100 * point.value for point in stopped], s=12, marker="x", color=GRAY,
                 alpha=0.8, linewidths=0.9, rasterized=len(stopped) > MANY)  # fmt: skip
    special = [("start", data.start, BLACK, "--", "s")]
    special += [("best", data.completed[0], VERMILION, "-", "o")] if data.completed else []
    for label, trial, color, line, marker in special:
        if trial is not None and trial.curve:
            x, y = [p.step for p in trial.curve], [100 * p.value for p in trial.curve]
            axes.plot(x, y, line, color=color, marker=marker, markersize=4, label=f"{label} ({trial.run.key})")
    for rung in data.rungs:
        axes.axvline(rung, color=ORANGE, linewidth=1, linestyle=":", zorder=0)
    if data.rungs:
        axes.plot([], [], ":", color=ORANGE, linewidth=1, label="rungs")
    axes.autoscale_view()
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{metric_title(data.objective)}, percent")
    figure.legend(loc="outside lower center", ncols=5)
    return figure


def rungs(data: SweepData) -> Figure:
    """At each rung the scores of the trials that reached it: who went on, who was stopped there."""
    figure, axes = new_figure(3.0, WIDTH)
    places = [*data.rungs, data.design.epochs]
    generator = np.random.default_rng(0)
    labels = []
    for index, rung in enumerate(places):
        reached = [(trial, data.score_at(trial, rung)) for trial in data.trials]
        reached = [(trial, score) for trial, score in reached if math.isfinite(score)]
        groups: tuple[list[float], list[float]] = ([], [])
        for trial, score in reached:
            groups[trial.run.state == "pruned" and trial.run.epoch == rung].append(100 * score)
        passed, stopped = groups
        for offset, group, marker, color in ((-0.17, stopped, "x", GRAY), (0.17, passed, "o", BLUE)):
            x = index + offset + generator.uniform(-0.1, 0.1, len(group))
            name = ("stopped there" if marker == "x" else "went on, or at the end") if index == 0 else None
            axes.scatter(x, group, s=18, marker=marker, color=color, alpha=0.75, label=name,
                         rasterized=len(group) > MANY)  # fmt: skip
        end = "end" if rung == data.design.epochs else f"{len(stopped)} stopped"
        labels.append(f"epoch {rung}\n{len(reached)} reached, {end}")
    axes.set_xticks(range(len(places)), labels)
    axes.set_xlim(-0.5, len(places) - 0.5)
    axes.grid(False, axis="x")
    axes.set_ylabel(f"{metric_title(data.objective)}, percent")
    figure.legend(loc="outside lower center", ncols=2)
    return figure
