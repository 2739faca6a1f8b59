"""What a sweep shows while it runs, and what it found."""

import math

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ctxtune.config import SweepConfig
from ctxtune.metric_names import metric_title
from ctxtune.statistics import Interval
from ctxtune.text import duration
from ctxtune.tuning.costs import Spent
from ctxtune.tuning.progress_display import RunDisplay, show_point
from ctxtune.tuning.record.journal import RunRecord
from ctxtune.tuning.record.recorder import Recorder
from ctxtune.tuning.results import judged_metric, lost_sentences, seeds_words
from ctxtune.tuning.stages import START, best_trial
from ctxtune.tuning.summary_files import Outcome, changed_values, show


def sweep_display(console: Console, space: SweepConfig) -> RunDisplay:
    """The display of a sweep."""
    search = space.search
    words = {
        "search": f"search: up to {{runs}} trials of {space.search_epochs} epochs, "
        f"{search.sampler.name} and {search.scheduler.name}",
        "selection": "selection: {runs} runs, the best trials and the start again on validation with fresh seeds",
        "confirmation": "confirmation: {runs} runs on all train classes; the test classes are scored, once a run",
    }

    def standing(recorder: Recorder) -> str:
        best = best_trial(space, recorder.journal)
        return f"best {best.last(search.objective.metric):.4f} ({best.key})" if best else ""

    def remark(recorder: Recorder, run: RunRecord) -> Text:
        line = Text()
        if run.stage == "search":
            best = best_trial(space, recorder.journal)
            if best is not None and best.key == run.key:
                line.append("best  ", style="bold green")
            line.append(show_point(run.spec.point), style="dim")
        return line

    return RunDisplay(console, words, metric=lambda stage: _metric_of(space, stage), standing=standing, remark=remark)


def _metric_of(space: SweepConfig, stage: str) -> str:
    return judged_metric(space) if stage == "confirmation" else space.search.objective.metric


def print_outcome(console: Console, space: SweepConfig, result: Outcome, files: dict[str, str]) -> None:
    """Print what a sweep found: configuration, validation, test, floor, and where to go from here."""
    done, full = result.epochs
    states = ", ".join(f"{count} {state}" for state, count in sorted(result.states.items()))
    console.rule(f"[bold]{space.name}")
    console.print(
        f"{sum(result.states.values())} trials ({states}); {done} epochs trained where full length would be {full} "
        f"({done / full:.0%}); {duration(result.hours)} of work in all"
        + (f", {Spent(result.gpu_hours, result.money)}" if result.gpu_hours else ""),
        highlight=False,
    )
    if result.front:
        console.print(_front_table(result))
    console.print(_configuration_table(space, result))
    console.print(_validation_table(space, result))
    if result.confirmed:
        console.print(_test_table(result))
        console.print(_verdict(space, result), highlight=False)
    for sentence in lost_sentences(result.lost):
        console.print(sentence, style="yellow", highlight=False, markup=False)
    for what, text in files.items():
        console.print(f"{what:<22} {text}", highlight=False, soft_wrap=True)


def _front_table(result: Outcome) -> Table:
    table = Table(
        title=f"Pareto front: {len(result.front)} trials that no other one beats; the best by the first objective goes on",
        title_justify="left",
    )
    table.add_column("trial")
    for metric in result.front[0].values:
        table.add_column(metric, justify="right")
    table.add_column("point", overflow="fold")
    for point in result.front:
        table.add_row(point.trial, *map(show, point.values.values()), show_point(point.point))
    return table


def _configuration_table(space: SweepConfig, result: Outcome) -> Table:
    table = Table(title=f"Best configuration: {result.chosen}", title_justify="left")
    for column in ("", "start", "best"):
        table.add_column(column, justify="left" if not column else "right")
    for path, (start, best) in changed_values(space, result).items():
        table.add_row(path, show(start), show(best))
    return table


def _validation_table(space: SweepConfig, result: Outcome) -> Table:
    table = Table(title=f"{space.search.objective.metric}, unseen classes", title_justify="left")
    for column in ("", "start", "best"):
        table.add_column(column, justify="left" if not column else "right")
    scores, epochs = result.search_scores, space.search_epochs

    def in_search(arm: str) -> str:
        if arm not in scores:
            return "-"
        score, epoch = scores[arm]
        return f"{score:.4f}" + ("" if epoch >= epochs else f" (stopped at {epoch})")

    table.add_row(
        "in the search (one seed)", in_search(START), in_search("chosen" if result.chosen != START else START)
    )
    if result.selection:
        start = result.selection.get(START)
        best = result.selection.get(result.chosen or "")
        table.add_row("in selection (fresh seeds)", _mean(start), _mean(best))
    return table


def _mean(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.mean:.4f} (n={interval.count})"


def _with_interval(interval: Interval | None, missing: str, *, signed: bool = False) -> str:
    if interval is None:
        return missing
    sign = "+" if signed else ""
    if math.isnan(interval.low):
        return f"{100 * interval.mean:{sign}.2f}"
    return f"{100 * interval.mean:{sign}.2f} ± {100 * interval.half_width:.2f}"


def _test_table(result: Outcome) -> Table:
    over = seeds_words(result.confirmed[0])
    table = Table(title=f"Test classes, percent: mean and 95 % t-interval over {over}", title_justify="left")
    missing = "same" if result.same else "-"
    for column in ("", "untrained", "start", "best", "best - start, paired"):
        table.add_column(column, justify="left" if not column else "right")
    for comparison in result.confirmed:
        table.add_row(
            comparison.metric.removeprefix("test/"),
            f"{100 * comparison.floor:.2f}",
            _with_interval(comparison.start, missing),
            _with_interval(comparison.chosen, missing),
            _with_interval(comparison.difference, missing, signed=True),
        )
    return table


def _verdict(space: SweepConfig, result: Outcome) -> str:
    if result.same:
        return "The start configuration itself was chosen: the search found nothing better on validation."
    judged = next((each for each in result.confirmed if each.metric == judged_metric(space)), None)
    if judged is None or judged.start is None:
        return "The start has no test scores: nothing can be said about the difference."
    if judged.verdict is None or judged.difference is None:
        return "No seed came to its end with both configurations: nothing can be said about the difference."
    if judged.difference.count < 2:
        return "One seed gives no interval: nothing can be said about the difference."
    words = {
        "better": "the best configuration is better than the start on the test classes (the interval excludes 0)",
        "worse": "the best configuration is WORSE than the start on the test classes (the interval excludes 0)",
        "no difference": "no difference to the start on the test classes in any seed",
        "cannot be tested": "the difference to the start is the same in every seed and cannot be tested",
    }
    unclear = f"the difference to the start on the test classes is {judged.verdict.words} points (the interval holds 0)"
    title = metric_title(judged.metric.removeprefix("test/"))
    return f"{title}: {words.get(judged.verdict.judgement, unclear)}."
