"""What the test classes say: the chosen configuration beside the start, and validation beside test."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ctxtune.metric_names import metric_title, on_split
from ctxtune.palette import BLUE, GRAY, VERMILION
from ctxtune.reporting.document import Table
from ctxtune.reporting.published import Published
from ctxtune.reporting.style import WIDTH, new_figure
from ctxtune.reporting.sweep.data import SweepData
from ctxtune.results.formatting import (
    MISSING,
    capital,
    decimal,
    p_value,
    percent,
    percent_bounds,
    percent_interval,
    setting,
)
from ctxtune.results.runs import START, by_seed
from ctxtune.results.sweep import ConfirmedScore
from ctxtune.results.wording import lost_sentences, seeds_words, trained_words
from ctxtune.statistics import Interval, describe, t_interval


def confirmation_table(data: SweepData, scores: Sequence[ConfirmedScore]) -> Table:
    """Test scores of chosen and start with intervals, and their paired difference."""
    rows: list[list[str]] = []
    records: list[dict[str, Any]] = []
    for each in (*scores, *data.results.separated):
        difference, tested = each.difference, each.verdict is not None
        ours, theirs = describe(list(each.chosen.values())), each.start_interval
        row = [metric_title(each.metric).removeprefix("test ")]
        row += [percent(each.untrained), percent_interval(theirs) if theirs else MISSING]
        row += [percent_interval(ours.interval), percent_bounds(ours.bootstrap)]
        row += [percent_interval(difference.interval, sign=True) if difference else MISSING]
        row += [p_value(difference.p_value) if tested and difference else MISSING]
        row += [decimal(difference.effect_size, sign=True) if tested and difference else MISSING]
        rows.append(row)
        records.append(_record(each))
    strong = [index for index, each in enumerate(scores) if each.judged]
    trained = trained_words(data.design.train_on, data.design.fold_count)
    separated = "; separated: the mean of these models' own scores" if data.results.separated else ""
    caption = (
        f"Test classes, percent: mean ± half of the 95 % t-interval over {seeds_words(scores[0])}, {trained}{separated}. "
        "Differences are paired by seed. Only the objective's counterpart (bold) is tested."
    )
    header = ["score", "untrained", "start", "chosen", "chosen, bootstrap 95 %", "chosen − start", "p", "effect g"]
    return Table(
        "confirmation", caption, header, rows, records, strong=strong, note=" ".join(lost_sentences(data.results.lost))
    )


def _record(score: ConfirmedScore) -> dict[str, Any]:
    ours, difference = describe(list(score.chosen.values())), score.difference
    record: dict[str, Any] = {"metric": score.metric, "untrained": score.untrained, "seeds": len(score.chosen)}
    record |= {f"chosen_{key}": value for key, value in _flat(ours.interval, ours.deviation).items()}
    record |= {"chosen_bootstrap_low": ours.bootstrap.low, "chosen_bootstrap_high": ours.bootstrap.high}
    record["chosen_values"] = " ".join(f"{value:.17g}" for value in score.chosen.values())
    if score.start:
        theirs = describe(list(score.start.values()))
        record |= {f"start_{key}": value for key, value in _flat(theirs.interval, theirs.deviation).items()}
        record["start_seeds"] = len(score.start)
        record["start_values"] = " ".join(f"{value:.17g}" for value in score.start.values())
    if difference:
        flat = _flat(difference.interval, difference.deviation)
        record |= {f"difference_{key}": value for key, value in flat.items()}
        tested = score.verdict is not None
        record |= {"p_t": difference.p_value, "effect_size_g": difference.effect_size, "tested": tested}
        record["verdict"] = score.words if score.judged else ""
    return record


def change_table(data: SweepData) -> Table | None:
    """The searched values of start and chosen; None before there is one."""
    runs = data.study.in_stage("confirmation")
    chosen = next((run for run in runs if run.arm == data.results.chosen), None)
    start = next((run for run in runs if run.arm == START), data.results.start_trial)
    if chosen is None or start is None:
        return None
    rows, records = [], []
    for dimension in data.dimensions:
        before, after = (run.setting(dimension.path) for run in (start, chosen))
        shown = [MISSING if value is None else setting(value) for value in (before, after)]
        rows.append([dimension.path, *shown])
        texts = [str(run.settings.get(dimension.path, "")) for run in (start, chosen)]
        records.append({"dimension": dimension.path, "start": texts[0], "chosen": texts[1]})
    return Table("chosen", f"Searched values: the start point, and the chosen one ({data.results.chosen}).",
                 ["dimension", "start", "chosen"], rows, records)  # fmt: skip


def confirmation_figure(data: SweepData, scores: Sequence[ConfirmedScore]) -> Figure:
    """Each score of start and chosen, seed by seed."""
    figure, panels = new_figure(2.6, WIDTH, ncols=len(scores), squeeze=False)
    for axes, each in zip(panels[0], scores, strict=True):
        theirs, ours = each.start, each.chosen
        for seed in theirs.keys() & ours.keys():
            axes.plot([0, 1], [100 * theirs[seed], 100 * ours[seed]], "-", color=GRAY, linewidth=0.9, zorder=1)
        for place, values, color, marker in ((0, theirs, VERMILION, "s"), (1, ours, BLUE, "o")):
            if values:
                points = 100 * np.array(list(values.values()))
                axes.scatter(np.full(len(points), place), points, color=color, marker=marker, s=22, zorder=2)
                axes.plot([place - 0.22, place + 0.22], [points.mean()] * 2, color=color, linewidth=2.2)
        axes.set_xticks([0, 1], ["start", "chosen"])
        axes.set_xlim(-0.5, 1.5)
        axes.grid(False, axis="x")
        axes.set_title(metric_title(each.metric).removeprefix("test "), loc="left")
    panels[0][0].set_ylabel("test classes, percent")
    return figure


def transfer_table(data: SweepData) -> Table | None:
    """Validation beside test on class subsets of the fold's size: what the search's selection flattered."""
    arms = dict.fromkeys([START, data.results.chosen or START])
    records = [record for arm in arms if (record := _transfer(data, arm)) is not None]
    if not records:
        return None
    rows = [
        [
            "start" if record["arm"] == START else f"chosen ({record['arm']})",
            percent(record["search"]),
            f"{percent(record['selection'])} ({record['selection_runs']})" if record["selection_runs"] else MISSING,
            percent_interval(t_interval(_test_values(data, record["arm"], _subset_metric(data)))),
            percent(record["test_subsets_minus_validation"], sign=True),
            percent_interval(t_interval(_test_values(data, record["arm"], data.design.objective.test_metric))),
        ]
        for record in records
    ]
    caption = (
        f"{metric_title(data.objective).removeprefix('validation ')} in percent, on validation and on random subsets of the "
        "test classes of the fold's size (the same ones for all runs), so that galleries are alike."
    )
    more = "trains on more classes" if data.design.train_on == "all" else "scores several models together"
    note = (
        "The score in the search is the luckiest of many and flatters the chosen trial; selection, with fresh seeds, does so "
        "less. What both arms lose or win from validation to test is how hard the test classes are and that confirmation "
        f"{more}; where the chosen loses more than the start, selection may have flattered it by about that "
        "much, give or take the seeds and folds of both."
    )
    header = ["arm", "in the search", "in selection (runs)", "test, subsets", "test − validation", "test, all classes"]
    return Table("validation_against_test", caption, header, rows, records, note=note)


def _transfer(data: SweepData, arm: str) -> dict[str, Any] | None:
    """An arm's scores from the search to the test classes; None where it has none on test subsets."""
    confirmed = _test_values(data, arm, _subset_metric(data))
    if not confirmed:
        return None
    trials = [trial for trial in data.completed if trial.run.arm == arm]
    if arm == START:
        trials = [data.start] if data.start is not None and data.start.completed else []
    search = trials[0].score if trials else math.nan
    selected = data.selection.get(arm, [])
    selection = float(np.mean(selected)) if selected else math.nan
    return {
        "arm": arm,
        "search": search,
        "selection": selection,
        "selection_runs": len(selected),
        "test_subsets": float(np.mean(confirmed)),
        "test_subsets_minus_validation": float(np.mean(confirmed)) - (selection if selected else search),
        "test_all_classes": float(np.mean(_test_values(data, arm, data.design.objective.test_metric))),
    }


def _subset_metric(data: SweepData) -> str:
    return on_split(data.objective, "test_subset")


def _test_values(data: SweepData, arm: str, metric: str) -> list[float]:
    return list(by_seed(data.results.confirmations.get(arm, []), metric).values())


def selection_table(data: SweepData) -> Table | None:
    """The candidates' scores with fresh seeds on all folds, beside those of the search."""
    if not data.selection:
        return None
    search = {trial.run.arm or trial.run.key: trial for trial in data.trials}
    if data.start is not None:
        search.setdefault(START, data.start)
    arms = sorted(data.selection, key=lambda arm: -data.sign * float(np.mean(data.selection[arm])))
    rows: list[list[str]] = []
    records: list[dict[str, Any]] = []
    strong: list[int] = []
    for arm in arms:
        found = describe(data.selection[arm])
        if arm == data.results.chosen:
            strong.append(len(rows))
        trial = search.get(arm)
        score = trial.score if trial is not None and trial.completed else math.nan
        shown = (
            percent(score) if trial is None or trial.completed else f"{MISSING} (stopped at epoch {trial.run.epoch})"
        )
        rows.append([arm, str(found.count), percent(found.mean), percent(found.deviation), shown])
        records.append({"arm": arm, "runs": found.count, "mean": found.mean, "deviation": found.deviation,
                        "search": score})  # fmt: skip
    caption = (
        f"{capital(metric_title(data.objective))} of the candidates with fresh seeds over the selection's folds, percent; the "
        "chosen one in bold."
    )
    return Table("selection", caption, ["arm", "runs", "mean", "sd", "in the search"], rows, records, strong=strong)


def published_table(data: SweepData, scores: Sequence[ConfirmedScore], known: Sequence[Published]) -> Table:
    """Ours beside what was published for the data set."""
    names = sorted({name for each in known for name in each.scores}, key=lambda name: int(name.rpartition("_")[2]))
    ours = {each.metric.removeprefix("test/"): each.chosen_interval for each in scores}
    models = data.design.fold_count if data.design.train_on == "folds" else 1
    own = _network(data.design.trial.get("model", {}), models)
    rows: list[list[str]] = []
    records: list[dict[str, Any]] = []
    if ours:
        texts = [percent_interval(ours[name]) if name in ours else MISSING for name in names]
        rows.append(
            [f"this sweep ({data.design.name})", own, "mean ± half of the 95 % t-interval over fresh seeds", *texts]
        )
        records.append(
            {"method": data.design.name, "network": own, "source": "this sweep"}
            | {n: ours[n].mean for n in names if n in ours}
        )
    for each in known:
        texts = [percent(each.scores[name], 1) if name in each.scores else MISSING for name in names]
        rows.append([each.method, each.network, each.source, *texts])
        records.append({"method": each.method, "network": each.network, "source": each.source, **each.scores})
    caption = (
        f"Test classes of {data.design.dataset}, percent. Published values were as a rule tuned on the test classes. "
        "Scores of networks that saw other data in pretraining are not comparable."
    )
    header = ["method", "network and its pretraining", "source", *(metric_title(name) for name in names)]
    return Table("published", caption, header, rows, records, left=3, strong=[0] if ours else [])


def _network(model: Mapping[str, Any], models: int) -> str:
    """A sweep's own backbone, width and weights, to stand beside those of others."""
    weights = Path(str(model.get("weights") or "no pretraining")).name
    together = f"{models} models of " if models > 1 else ""
    return f"{together}{model.get('backbone')}, {model.get('embedding_dim')}-d, {weights}"


def _flat(interval: Interval, deviation: float) -> dict[str, float]:
    return {"mean": interval.mean, "deviation": deviation, "t_low": interval.low, "t_high": interval.high}
