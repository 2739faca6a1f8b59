"""Arms over several data sets: random effects, probabilities of improvement, ranks and their critical difference, profiles."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ctxtune.palette import INK
from ctxtune.reporting.document import Table
from ctxtune.reporting.style import look, new_figure
from ctxtune.results.formatting import MISSING, decimal, percent, percent_bounds
from ctxtune.results.studies import ArmAcrossSets
from ctxtune.statistics import critical_rank_difference, performance_profile
from ctxtune.statistics.intervals import Floats

WORDS = (
    "Random effects: these data sets taken as a sample of others; the variance of the effect between data sets is part of the "
    "interval (DerSimonian and Laird; Hartung, Knapp, Sidik and Jonkman), which with two or three data sets is wide, as it "
    "should be. Probability of improvement: that a run of the arm beats one of the reference on a data set drawn at random; a "
    "profile is the share of runs above a score, each data set with the same weight (Agarwal et al., NeurIPS 2021). Intervals "
    "of mean ranks resample the seeds of each data set."
)


def across_table(arms: Sequence[ArmAcrossSets]) -> Table:
    """Each arm's mean rank, its effect over data sets and how often it beats the reference."""
    rows, records = [], []
    for arm in sorted(arms, key=lambda each: each.rank.mean):
        rank, effect, improvement = arm.rank, arm.effect, arm.improvement
        rows.append(
            [
                arm.arm,
                f"{decimal(rank.mean)} [{decimal(rank.low)}, {decimal(rank.high)}]",
                percent(effect.mean, sign=True) if effect else MISSING,
                percent_bounds(effect, sign=True),
                f"{improvement.mean:.2f} [{improvement.low:.2f}, {improvement.high:.2f}]" if improvement else MISSING,
            ]
        )
        record: dict[str, object] = {"cell": arm.arm}
        for name, interval in (("rank", rank), ("effect", effect), ("improvement", improvement)):
            record |= {
                name if key == "mean" else f"{name}_{key}": getattr(interval, key, None)
                for key in ("mean", "low", "high")
            }
        records.append(record)
    header = ["arm", "mean rank, 95 %", "random effect, % of the reference", "95 %", "probability of improvement, 95 %"]
    return Table("across_data_sets", "Arms over the data sets.", header, rows, records)


def profile_figure(arms: Sequence[ArmAcrossSets]) -> Figure:
    """The share of runs above each score, in percent of the reference's mean on the same data set."""
    figure, axes = new_figure(2.9)
    values = [value for arm in arms for scores in arm.relative for value in scores]
    pad = 0.03 * ((max(values) - min(values)) or 1.0)
    thresholds = np.linspace(min(values) - pad, max(values) + pad, 400)
    for index, arm in enumerate(arms):
        style = look(index)
        shares = performance_profile(arm.relative, thresholds)
        axes.plot(100 * thresholds, 100 * shares, color=style["color"], linestyle=style["linestyle"], label=arm.arm)
    axes.set_xlabel("score, percent of the reference's mean on the same data set")
    axes.set_ylabel("runs above it, percent")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def rank_groups(ranks: Floats, difference: float) -> list[tuple[int, int]]:
    """Runs of arms, in the order of their ranks, whose first and last do not differ; those within others left out."""
    found: list[tuple[int, int]] = []
    for first in range(len(ranks)):
        last = max(index for index in range(len(ranks)) if ranks[index] - ranks[first] <= difference)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def critical_difference_figure(arms: Sequence[ArmAcrossSets]) -> Figure:
    """Demsar's diagram: arms by mean rank, a bar over those that Nemenyi's test does not tell apart."""
    ordered = sorted(arms, key=lambda each: each.rank.mean)
    ranks = np.array([arm.rank.mean for arm in ordered])
    difference = critical_rank_difference(len(arms), len(arms[0].relative))
    groups = rank_groups(ranks, difference)
    figure, axes = new_figure(0.9 + 0.2 * (len(arms) + len(groups)))
    axes.set_xlim(0.8, len(arms) + 0.2)
    half = (len(arms) + 1) // 2
    for index, (arm, rank) in enumerate(zip(ordered, ranks, strict=True)):
        left = index < half
        depth = -(len(groups) + 1 + (index if left else len(arms) - 1 - index))
        edge = 0.8 if left else len(arms) + 0.2
        axes.plot([rank, rank, edge], [0, depth, depth], color=INK, linewidth=0.9)
        axes.annotate(arm.arm, (edge, depth), xytext=(-4 if left else 4, 0), textcoords="offset points", va="center",
                      ha="right" if left else "left", fontsize=8, annotation_clip=False)  # fmt: skip
    for level, (first, last) in enumerate(groups, start=1):
        axes.plot([ranks[first] - 0.03, ranks[last] + 0.03], [-level + 0.3] * 2, color=INK, linewidth=3.5)
    axes.set_ylim(-(len(groups) + half + 1), 0)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xlabel(f"mean rank, 1 the best; critical difference {difference:.2f}")
    axes.set_xticks(range(1, len(arms) + 1))
    axes.set_yticks([])
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.spines["top"].set_visible(True)
    return figure
