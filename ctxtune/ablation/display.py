"""What an ablation shows while it runs, and what it found."""

from collections import Counter

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ctxtune.ablation.runs import run_count, selection_count, trials_held
from ctxtune.config import Ablation, cells_of
from ctxtune.consoles import Console
from ctxtune.metric_names import metric_title
from ctxtune.results.ablation import AblationResults
from ctxtune.results.costs import hours_of
from ctxtune.results.formatting import MISSING, p_value, percent_interval
from ctxtune.results.luck import luck
from ctxtune.results.wording import (
    lost_sentences,
    luck_sentences,
    probability_sentences,
    scope_sentences,
    tuning_sentences,
)
from ctxtune.text import counted, duration
from ctxtune.tuning.progress_display import RunDisplay, show_point
from ctxtune.tuning.record.journal import Journal, RunRecord
from ctxtune.tuning.record.recorder import Recorder
from ctxtune.tuning.spending import makespan

_NUMBERS = 47
"""Characters that the numbers of the table of cells take, with the gaps between its columns."""


def ablation_display(console: Console, ablation: Ablation) -> RunDisplay:
    """The display of an ablation."""
    epochs = ablation.trial.schedule.epochs
    tune = ablation.tune_each
    final = ablation.compare.scored_metric(confirmatory=ablation.confirmatory)
    where = (
        "on all train classes; the test classes are scored, once a run"
        if ablation.confirmatory
        else counted(epochs, "epoch")
    )
    words = {
        "cell_search": f"tuning: {{runs}} trials of {counted(epochs, 'epoch')}, {tune.trials if tune else 0} for every cell",
        "selection": "selection: {runs} runs, the best trials of every cell with fresh seeds",
        "cell": f"cells: {{runs}} runs, the same {counted(ablation.seeds, 'seed')} for every cell, {where}",
    }

    def remark(recorder: Recorder, run: RunRecord) -> Text:
        return Text(show_point(run.spec.point), style="dim") if run.stage != "cell" else Text()

    return RunDisplay(
        console,
        words,
        metric=lambda stage: final if stage == "cell" else ablation.compare.metric,
        standing=lambda recorder: "",
        remark=remark,
        hours_left=lambda recorder, places, setup: hours_left(ablation, recorder.journal, places, setup),
        width=max(len(cell.key) for cell in cells_of(ablation)) + len("-repeat0-trial000" if tune else "-seed0-fold0"),
    )


def hours_left(ablation: Ablation, journal: Journal, places: int, setup: float) -> float | None:
    """Hours of wall time until all runs are done, as long as those so far; None: none has reported yet.

    Args:
        places: runs that go on side by side.
        setup: seconds of a run that its reports do not tell of.
    """
    epochs = sum(run.epoch for run in journal.runs.values())
    if not epochs:
        return None
    each = sum(run.seconds for run in journal.runs.values()) / epochs
    seconds = 0.0
    cells = len(cells_of(ablation))
    tuning, scored = run_count(ablation, cells)
    selecting = selection_count(ablation, cells, trials_held(ablation, journal))
    for stage, count in {"cell_search": tuning, "selection": selecting, "cell": scored}.items():
        runs = journal.stage(stage)
        left = [run.spec.trial.schedule.epochs - run.epoch for run in runs if run.state == "running"]
        if not (stage == "cell_search" and journal.decisions.tuning_ended):
            left += [ablation.trial.schedule.epochs] * max(0, count - len(runs))
        seconds += makespan([each * epochs_left + setup for epochs_left in left], places)
    return seconds / 3600


def print_results(console: Console, results: AblationResults, files: dict[str, str]) -> None:
    """Print the table of cells, what was lost, and where to go from here."""
    states = Counter(run.state for run in results.runs)
    listed = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    console.rule(Text(results.design.name, style="bold"))
    console.print(
        f"{counted(len(results.runs), 'run')} ({listed}); {duration(hours_of(results.runs))} of work in all",
        highlight=False,
    )
    console.print(cells_table(results, console.width))
    for sentence in [*lost_sentences(results.lost), *scope_sentences(results.design)]:
        console.print(sentence, style="yellow", highlight=False)
    for sentence in (
        *probability_sentences(results),
        *luck_sentences(luck(results)),
        *tuning_sentences(results.design),
    ):
        console.print(sentence, highlight=False, soft_wrap=True)
    for what, text in files.items():
        console.print(f"{what:<22} {text}", highlight=False, soft_wrap=True)


def cells_table(results: AblationResults, width: int) -> Table:
    """A line for each cell: mean with its interval, and the paired difference to what it is compared with.

    Names and verdicts take as many lines as they need in a terminal of ``width`` characters; numbers are never cut.
    """
    design = results.design
    compared = {each.contrast.cell: each for each in results.contrasts}
    over = counted(design.seeds, "seed")
    if design.repeats > 1:
        over = f"{counted(design.repeats, 'repeat')} of search and {over}"
    title = f"{metric_title(design.metric)}, percent: mean and 95 % t-interval over the same {over}"
    if len(results.references) == 1:
        title += f"; paired differences to {design.reference}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    words = [each.words for each in results.contrasts]
    table.add_column("cell", overflow="fold", width=_width_of_names(list(results.cells), words, width))
    for column in ("n", "mean", "minus\nreference", "p, Holm"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for cell in results.cells:
        each, interval = compared.get(cell), results.interval(cell)
        table.add_row(
            cell,
            str(interval.count if interval else 0),
            percent_interval(interval) if interval else MISSING,
            percent_interval(each.difference.interval, sign=True) if each and each.difference else "",
            p_value(each.verdict.corrected_p) if each and each.verdict else "",
            each.words if each else "reference" if cell in results.references else "",
        )
    return table


def _width_of_names(names: list[str], verdicts: list[str], width: int) -> int:
    """As wide as the longest name where the verdicts leave room for it, else for its longest word."""
    room = width - _NUMBERS
    longest_word = max(len(word) for name in names for word in name.split())
    left = room - max(len(words) for words in ["reference", *verdicts])
    return max(min(longest_word, room - len("reference")), min(left, max(map(len, names))), 1)
