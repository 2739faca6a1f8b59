"""What an ablation shows while it runs, and what it found."""

import math

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ctxtune.ablation.outcome import AblationOutcome
from ctxtune.ablation.runs import repeats_of
from ctxtune.config import Ablation, cells_of, reference_cell
from ctxtune.statistics import Interval
from ctxtune.text import counted, duration
from ctxtune.tuning.progress_display import RunDisplay, show_point
from ctxtune.tuning.record.journal import RunRecord
from ctxtune.tuning.record.recorder import Recorder

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
        "cell_search": f"tuning: {{runs}} trials, {tune.trials if tune else 0} of {counted(epochs, 'epoch')} for every cell",
        "cell": f"cells: {{runs}} runs, the same {counted(ablation.seeds, 'seed')} for every cell, {where}",
    }

    def remark(recorder: Recorder, run: RunRecord) -> Text:
        return Text(show_point(run.spec.point), style="dim") if run.stage == "cell_search" else Text()

    return RunDisplay(
        console,
        words,
        metric=lambda stage: final if stage == "cell" else ablation.compare.metric,
        standing=lambda recorder: "",
        remark=remark,
        width=max(len(cell.key) for cell in cells_of(ablation)) + len("-repeat0-trial000" if tune else "-seed0-fold0"),
    )


def print_outcome(console: Console, ablation: Ablation, result: AblationOutcome, files: dict[str, str]) -> None:
    """Print the table of cells, and where to go from here."""
    states = ", ".join(f"{count} {state}" for state, count in sorted(result.states.items()))
    console.rule(f"[bold]{ablation.name}")
    console.print(
        f"{counted(sum(result.states.values()), 'run')} ({states}); {duration(result.hours)} of work in all",
        highlight=False,
    )
    console.print(cells_table(ablation, result, console.width))
    for note in notes(ablation):
        console.print(note, highlight=False, soft_wrap=True)
    for what, text in files.items():
        console.print(f"{what:<22} {text}", highlight=False, soft_wrap=True)


def cells_table(ablation: Ablation, result: AblationOutcome, width: int) -> Table:
    """A line for each cell: mean with its interval, and the paired difference to what it is compared with.

    Names and verdicts take as many lines as they need in a terminal of ``width`` characters; numbers are never cut.
    """
    reference = reference_cell(ablation, cells_of(ablation)).name
    compared = {each.cell: each for each in result.contrasts}
    against = {each.against for each in result.contrasts}
    over = counted(ablation.seeds, "seed")
    if repeats_of(ablation) > 1:
        over = f"{counted(repeats_of(ablation), 'repeat')} of search and {over}"
    title = f"{result.metric}, percent: mean and 95 % t-interval over the same {over}"
    if len(against) == 1:
        title += f"; paired differences to {reference}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    verdicts = [each.verdict.words for each in result.contrasts if each.verdict]
    table.add_column("cell", overflow="fold", width=_width_of_names(list(result.replications), verdicts, width))
    for column in ("n", "mean", "minus\nreference", "p, Holm"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for cell, values in result.replications.items():
        each = compared.get(cell)
        verdict = each.verdict if each else None
        words = "reference" if cell in against else verdict.words if verdict else "no pairs" if each else ""
        table.add_row(
            cell,
            str(len(values)),
            _percent(result.interval(cell)),
            _percent(each.difference, signed=True) if each else "",
            _p_value(verdict.corrected_p) if verdict else "",
            words,
        )
    return table


def _width_of_names(names: list[str], verdicts: list[str], width: int) -> int:
    """As wide as the longest name where the verdicts leave room for it, else for its longest word."""
    room = width - _NUMBERS
    longest_word = max(len(word) for name in names for word in name.split())
    left = room - max(len(words) for words in ["reference", *verdicts])
    return max(min(longest_word, room - len("reference")), min(left, max(map(len, names))), 1)


def notes(ablation: Ablation) -> list[str]:
    """What the verdicts are given under."""
    if ablation.tune_each is None:
        reference = reference_cell(ablation, cells_of(ablation)).name
        return [f"Nothing was tuned here: the other cells run with the hyperparameters of {reference}."]
    if ablation.tune_each.repeats == 1:
        return ["Every cell was tuned once: the verdicts are given one tuning run (tune_each.repeats repeats it)."]
    return []


def _percent(interval: Interval | None, *, signed: bool = False) -> str:
    if interval is None:
        return "-"
    sign = "+" if signed else ""
    half = "" if math.isnan(interval.low) else f" ± {100 * interval.half_width:.2f}"
    return f"{100 * interval.mean:{sign}.2f}{half}"


def _p_value(value: float) -> str:
    if math.isnan(value):
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
