"""What a sweep shows while it runs, and what it found."""

from collections import Counter
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from ctxtune.config import SweepConfig
from ctxtune.consoles import Console
from ctxtune.metric_names import metric_title
from ctxtune.results.costs import hours_of, spent
from ctxtune.results.formatting import MISSING, percent, percent_interval, setting
from ctxtune.results.ranking import Objective
from ctxtune.results.runs import START
from ctxtune.results.sweep import SweepResults
from ctxtune.results.wording import (
    confirmation_sentence,
    lost_sentences,
    scope_sentences,
    seeds_words,
    trained_words,
)
from ctxtune.text import counted, duration
from ctxtune.tuning.progress_display import RunDisplay, show_point
from ctxtune.tuning.record.journal import RunRecord
from ctxtune.tuning.record.recorder import Recorder
from ctxtune.tuning.stages import best_trial
from ctxtune.tuning.time_left import hours_left, share_saved


def sweep_display(console: Console, config: SweepConfig) -> RunDisplay:
    """The display of a sweep."""
    search = config.search
    trained = trained_words(config.confirm.train_on if config.confirm else "all", config.validation.folds)
    words = {
        "search": f"search: up to {{runs}} trials of {config.search_epochs} epochs, "
        f"{search.sampler.name} and {search.scheduler.name}",
        "selection": "selection: {runs} runs, the best trials and the start again on validation with fresh seeds",
        "confirmation": f"confirmation: {{runs}} runs, {trained}; the test classes are scored, once a run",
    }

    def standing(recorder: Recorder) -> str:
        best = best_trial(config, recorder.journal)
        told = [f"best {best.last(search.objective.metric):.4f} ({best.key})"] if best else []
        saved = share_saved(config, recorder.journal)
        return "  ".join([*told, *([f"{search.scheduler.name} saved {saved:.0%} of the epochs"] if saved else [])])

    def remark(recorder: Recorder, run: RunRecord) -> Text:
        line = Text()
        if run.stage == "search":
            best = best_trial(config, recorder.journal)
            if best is not None and best.key == run.key:
                line.append("best  ", style="bold green")
            line.append(show_point(run.spec.point), style="dim")
        return line

    return RunDisplay(
        console,
        words,
        metric=lambda stage: _metric_of(config, stage),
        standing=standing,
        remark=remark,
        hours_left=lambda recorder, places, setup: hours_left(config, recorder.journal, places, setup),
    )


def _metric_of(config: SweepConfig, stage: str) -> str:
    objective = Objective(metric=config.search.objective.metric)
    return objective.test_metric if stage == "confirmation" else objective.metric


def print_results(console: Console, results: SweepResults, files: dict[str, str]) -> None:
    """Print what a sweep found: configuration, scores (those of the untrained model too), and where to go from here."""
    done, full = results.epochs
    states = Counter(run.state for run in results.trials)
    listed = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    cost = spent(results.runs)
    console.rule(Text(results.design.name, style="bold"))
    console.print(
        f"{counted(len(results.trials), 'trial')} ({listed}); {done} epochs trained where full length would be {full} "
        f"({done / full:.0%}); {duration(hours_of(results.runs))} of work in all"
        + (f", {cost}" if cost.gpu_hours else ""),
        highlight=False,
    )
    if results.front:
        console.print(_front_table(results))
    console.print(_configuration_table(results))
    console.print(_validation_table(results))
    if results.confirmed:
        console.print(_test_table(results))
    if results.confirmed or results.nothing_searched:
        console.print(confirmation_sentence(results), highlight=False)
    for sentence in [*lost_sentences(results.lost), *scope_sentences(results.design)]:
        console.print(sentence, style="yellow", highlight=False)
    for what, text in files.items():
        console.print(f"{what:<22} {text}", highlight=False, soft_wrap=True)


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if not column else "right")
    return table


def _front_table(results: SweepResults) -> Table:
    table = Table(
        title=f"Pareto front: {len(results.front)} trials that no other one beats; the best by the first objective goes on",
        title_justify="left",
    )
    table.add_column("trial")
    for objective in results.design.objectives:
        table.add_column(objective.metric, justify="right")
    table.add_column("point", overflow="fold")
    for run in results.front:
        table.add_row(run.key, *map(setting, results.objective_values(run).values()), show_point(results.point(run)))
    return table


def _configuration_table(results: SweepResults) -> Table:
    table = _table(f"Chosen configuration: {results.chosen}", ["", "start", "chosen"])
    for path, start, chosen in results.changes:
        table.add_row(path, setting(start), setting(chosen))
    return table


def _validation_table(results: SweepResults) -> Table:
    table = _table(
        f"{results.design.objective.metric}, {'other images' if results.design.closed_set else 'unseen classes'}",
        ["", "start", "chosen"],
    )
    scores, epochs = results.search_scores, results.design.search_epochs

    def in_search(arm: str) -> str:
        if arm not in scores:
            return MISSING
        score, epoch = scores[arm]
        return f"{score:.4f}" + ("" if epoch >= epochs else f" (stopped at {epoch})")

    table.add_row("in the search (one seed)", in_search(START), in_search("chosen"))
    selection = results.selection_with_start
    if selection:
        table.add_row(
            "in selection (fresh seeds)", _mean(selection.get(START)), _mean(selection.get(results.chosen or ""))
        )
    return table


def _mean(scores: Sequence[float] | None) -> str:
    return f"{sum(scores) / len(scores):.4f} (n={len(scores)})" if scores else MISSING


def _test_table(results: SweepResults) -> Table:
    over = seeds_words(results.confirmed[0])
    table = _table(
        f"Test {'images' if results.design.closed_set else 'classes'}, percent: mean and 95 % t-interval over {over}",
        ["", "untrained", "start", "chosen", "chosen − start, paired"],
    )
    missing = "same" if results.same else MISSING
    for score in (*results.confirmed, *results.separated):
        start, difference = score.start_interval, score.difference
        table.add_row(
            metric_title(score.metric).removeprefix("test "),
            percent(score.untrained),
            percent_interval(start) if start else missing,
            percent_interval(score.chosen_interval),
            percent_interval(difference.interval, sign=True) if difference else missing,
        )
    return table
