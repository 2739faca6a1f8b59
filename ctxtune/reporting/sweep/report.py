"""The report of a sweep."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from matplotlib.figure import Figure

from ctxtune.metric_names import metric_title
from ctxtune.reporting.ablation.tables import failures
from ctxtune.reporting.document import Document, Item, Picture, Section, Table
from ctxtune.reporting.ledger import ledger_section
from ctxtune.reporting.provenance import provenance_section
from ctxtune.reporting.published import published_scores
from ctxtune.reporting.study import bill, device_of
from ctxtune.reporting.sweep import confirmation as confirming
from ctxtune.reporting.sweep import search_figures, space_figures
from ctxtune.reporting.sweep.data import SearchedDimension, SweepData
from ctxtune.reporting.sweep.gallery import retrieved_section
from ctxtune.reporting.sweep.importance import FEWEST_TRIALS, MOST_TRIALS, Importances, importances
from ctxtune.results.costs import hours_of
from ctxtune.results.formatting import MISSING, capital, percent, price, setting
from ctxtune.results.runs import LOST, Stage
from ctxtune.results.sweep import ConfirmedScore
from ctxtune.results.wording import confirmation_sentence, lost_sentences, scope_sentences, trained_words
from ctxtune.text import counted, duration

BEST_SHOWN = 10


def sweep_document(data: SweepData, processes: int = 1) -> Document:
    """The whole report of a sweep, finished or still running; `processes` as for `importances`."""
    scores = data.results.confirmed
    sections = [
        _confirmation_section(data, scores),
        retrieved_section(data),
        _search_section(data),
        _space_section(data, processes),
        _cost_section(data),
        ledger_section(data.study, data.design.dataset),
        Section("How it was judged", _methods(data)),
        provenance_section(data.study),
    ]
    return Document(
        title=f"Sweep {data.study.name}",
        subtitle=_subtitle(data),
        facts=_facts(data),
        findings=_findings(data),
        sections=[section for section in sections if section.items],
        notes=[f"Made by ctxtune.report from {len(data.study.runs):,} runs in MLflow."],
        study=data.study.name,
    )


def _subtitle(data: SweepData) -> str:
    states = Counter(trial.run.state for trial in data.trials)
    names = {"pruned": "stopped early"}
    parts = [f"{count} {names.get(state, state)}" for state, count in states.items()]
    running = " (still running)" if data.study.parent.state == "running" else ""
    return f"{counted(len(data.trials), 'trial')}: {', '.join(parts)}{running}"


def _facts(data: SweepData) -> dict[str, str]:
    search, device = data.design.search, device_of(data.study)
    facts = {"data set": data.design.dataset, "objective": metric_title(data.objective)}
    if len(data.design.objectives) > 1:
        facts["also"] = ", ".join(metric_title(each.metric) for each in data.design.objectives[1:])
    facts |= {"sampler": search.sampler.name, "scheduler": search.scheduler.name, "epochs": str(data.design.epochs)}
    trained, full = data.results.epochs
    if full and trained:
        facts["epochs trained in the search"] = f"{100 * trained / full:.0f} % of full length"
    facts[f"time of one {device}"] = duration(hours_of(data.study.runs))
    return facts | {title: price(value) for title, value in bill(data.study.runs).items()}


def _findings(data: SweepData) -> list[str]:
    sentences = []
    title = metric_title(data.objective)
    if data.completed:
        best = data.completed[0]
        text = f"Best trial of the search: {best.run.key}, {percent(best.score)} % {title}"
        if data.start is not None and data.start.completed and data.start is not best:
            text += f"; the start point: {percent(data.start.score)} %"
        sentences.append(text + ".")
    else:
        sentences.append("No trial has come to its last epoch yet.")
    sentences += [confirmation_sentence(data.results), *lost_sentences(data.results.lost)]
    return [*sentences, *scope_sentences(data.design)]


def _confirmation_section(data: SweepData, scores: Sequence[ConfirmedScore]) -> Section:
    items: list[Item] = []
    if scores:
        items.append(confirming.confirmation_table(data, scores))
        caption = "Test scores of start and chosen configuration; a line joins the same seed, a bar is the mean."
        items.append(Picture("confirmation", caption, partial(confirming.confirmation_figure, data, scores)))
    changed = confirming.change_table(data)
    items += [changed] if changed else []
    transfer = confirming.transfer_table(data)
    items += [transfer] if transfer else []
    if scores and transfer is None:
        items.append(
            "Validation against test: these runs have no scores on test subsets of the fold's size (they are newer than this "
            "sweep), and scores of galleries of different size are not compared."
        )
    known = published_scores(data.design.dataset, float(data.design.trial.get("dataset", {}).get("label_noise") or 0))
    if known and scores:
        items.append(confirming.published_table(data, scores, known))
    return Section(f"Confirmation on the test {'images' if data.design.closed_set else 'classes'}", items)


def _search_section(data: SweepData) -> Section:
    if not any(trial.curve for trial in data.trials):
        return Section("Search", ["No trial has been scored yet."])
    device = device_of(data.study)
    items: list[Item] = []
    if data.completed:
        items.append(_best_table(data))
    caption = (
        "Optimization history. Only trials that ran to the end count for the best so far; the score of a stopped trial is "
        f"that of its last epoch. Right: {device}-hours of all trials that had ended by then."
    )
    items.append(Picture("history", caption, partial(search_figures.history, data, device)))
    caption = "Learning curves. Scores of record are those of the last epoch, never the best one."
    items.append(Picture("learning_curves", caption, partial(search_figures.learning_curves, data)))
    if data.rungs:
        caption = (
            f"The rungs of {data.design.search.scheduler.name.upper()}: who reached them, and who was stopped there."
        )
        items.append(Picture("rungs", caption, partial(search_figures.rungs, data)))
    selection = confirming.selection_table(data)
    return Section("Search", items + ([selection] if selection else []))


def _best_table(data: SweepData) -> Table:
    shown = list(data.completed[:BEST_SHOWN])
    if data.start is not None and data.start.completed and data.start not in shown:
        shown.append(data.start)
    rows, records, billed = [], [], list(bill(trial.run for trial in shown))
    for trial in shown:
        rank = data.completed.index(trial) + 1
        name = trial.run.key + (" (start)" if trial is data.start else "")
        values = [setting(trial.values[d.path]) if d.path in trial.values else MISSING for d in data.dimensions]
        costs = bill([trial.run])
        row = [name, str(rank), percent(trial.score), *values, duration(trial.run.hours)]
        rows.append(row + [price(costs.get(title, 0.0)) for title in billed])
        record = {"trial": trial.run.key, "rank": rank, "score": trial.score, "hours": trial.run.hours} | costs
        records.append(record | {d.path: trial.values.get(d.path, "") for d in data.dimensions})
    caption = f"The best completed trials by {metric_title(data.objective)}, percent; one seed: luck flatters the top."
    header = ["trial", "rank", "score", *(d.path for d in data.dimensions), "time", *billed]
    return Table("best_trials", caption, header, rows, records)


def _space_section(data: SweepData, processes: int) -> Section:
    items: list[Item] = []
    if len(data.completed) < 2 or not data.dimensions:
        return Section("Search space", ["Two completed trials at least are needed to look at the search space."])
    found = importances(data, processes)
    if found:
        items += [_importance_table(found), Picture("importance", _importance_caption(data), partial(_bars, found))]
    else:
        items.append(
            f"Importances need {FEWEST_TRIALS} completed trials with different scores, and two dimensions that all trials have."
        )
    pair = _most_important(data, found)
    if pair is not None:
        caption = (
            f"{capital(metric_title(data.objective))} over the two dimensions with the largest mean importance. Points are "
            "completed trials, crosses those that were stopped."
            + (
                " The shading, only where several completed ones are near, is a smooth surface through them, averaged over "
                "the other dimensions; of the stopped ones it knows nothing."
                if len(data.completed) >= space_figures.FEWEST_FOR_SURFACE
                else ""
            )
        )
        draw: Callable[[], Figure] = partial(space_figures.contour, data, *pair)
        items.append(Picture("contour", caption, draw))
    caption = (
        "The score over each dimension. Choices are spread a little sideways so that points do not hide one another."
    )
    items.append(Picture("slices", caption, partial(space_figures.slices, data)))
    if any(all(d.path in trial.values for d in data.dimensions) for trial in data.completed):
        caption = "Parallel coordinates of the completed trials; every axis runs over the searched range."
        items.append(Picture("parallel_coordinates", caption, partial(space_figures.parallel, data)))
    return Section("Search space", items)


def _bars(found: list[Importances]) -> Figure:
    return space_figures.importance_bars(found)


def _importance_caption(data: SweepData) -> str:
    return (
        "Importance of each dimension. Stopped trials have no final score, so three questions are answered: fANOVA on the "
        "final scores of completed trials (only those that the scheduler liked); "
        + ("fANOVA on the early score that every trial has; " if data.rungs else "")
        + "PED-ANOVA on what sets the best trials apart, which needs the order only (stopped ones rank below completed ones, "
        "by rung and score there)."
    )


def _importance_table(found: list[Importances]) -> Table:
    paths = list(dict.fromkeys(path for each in found for path in each.shares))
    paths.sort(key=lambda path: -sum(each.shares.get(path, 0.0) for each in found))
    rows = [[path, *(percent(each.shares.get(path, 0.0), 1) for each in found)] for path in paths]
    records = [{"dimension": path} | {each.name: each.shares.get(path, 0.0) for each in found} for path in paths]
    header = ["dimension", *(f"{each.short} ({each.trials})" for each in found)]
    return Table(
        "importance", "Shares of importance, percent; in brackets the number of trials.", header, rows, records
    )


def _most_important(data: SweepData, found: list[Importances]) -> tuple[SearchedDimension, SearchedDimension] | None:
    numeric = {dimension.path: dimension for dimension in data.dimensions if dimension.numeric}
    shares = {path: sum(each.shares.get(path, 0.0) for each in found) for path in numeric}
    ranked = sorted((path for path in shares if shares[path] > 0), key=lambda path: -shares[path])
    shown = [trial for trial in data.completed if all(path in trial.values for path in ranked[:2])]
    if len(ranked) < 2 or len(shown) < 2 or len({trial.score for trial in shown}) < 2:
        return None
    return numeric[ranked[0]], numeric[ranked[1]]


def _cost_section(data: SweepData) -> Section:
    rows, records, billed = [], [], list(bill(data.study.runs))
    stages: tuple[Stage, ...] = ("search", "selection", "confirmation")
    for stage in stages:
        runs = data.study.in_stage(stage)
        states = Counter(run.state for run in runs)
        if runs:
            counts = [states["completed"], states["pruned"], states["failed"] + states["killed"], states["running"]]
            row, costs = [stage, str(len(runs)), *map(str, counts), duration(hours_of(runs))], bill(runs)
            rows.append(row + [price(costs.get(name, 0.0)) for name in billed])
            names = ("completed", "stopped", "failed", "running")
            records.append(
                {"stage": stage, "runs": len(runs), **dict(zip(names, counts, strict=True)), "hours": hours_of(runs)}
                | {name: costs.get(name, 0.0) for name in billed}
            )
    device = device_of(data.study)
    header = ["stage", "runs", "completed", "stopped early", "failed", "running", f"time ({device}s)", *billed]
    table = Table("cost", f"Runs and cost by stage, in time of one {device}.", header, rows, records)
    failed = failures(data.study, [run for run in data.study.runs if run.state in LOST])
    return Section("Cost and failures", [table, *([failed] if failed else ["No run failed."])])


def _validated_on(data: SweepData) -> str:
    if data.design.closed_set:
        return "images that neither training nor test has, of the same classes"
    return "classes that neither training nor test has"


def _methods(data: SweepData) -> list[Item]:
    return [
        f"The search saw validation scores only, on {_validated_on(data)}. Selection scored the best "
        "trials and the start again with fresh seeds. Confirmation trained the chosen configuration and the unaltered start "
        f"over the same fresh seeds ({trained_words(data.design.train_on, data.design.fold_count)}), and scored the test "
        "classes once a run.",
        "Intervals: Student's t over seeds, and a bias-corrected, accelerated bootstrap (9,999 resamples), which is too "
        "narrow for few seeds. The one test is the paired t-test of chosen against start on the objective's counterpart; "
        "effect g is d_z with Hedges' correction. Seeds show how a result varies with the seed, given this one search; what "
        "another search would have found is not in the interval.",
        f"fANOVA: random forest of Optuna on up to {MOST_TRIALS} trials (Hutter et al. 2014), at least {FEWEST_TRIALS}. "
        "PED-ANOVA: Watanabe et al. 2023. With few trials importances are rough.",
    ]
