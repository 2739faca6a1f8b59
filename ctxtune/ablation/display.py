"""What an ablation shows while it runs, and what it found."""

import math

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ctxtune.ablation.outcome import AblationOutcome
from ctxtune.ablation.runs import repeats_of
from ctxtune.config import Ablation, cells_of, reference_cell
from ctxtune.durations import duration
from ctxtune.statistics import Interval
from ctxtune.tuning.book import Book
from ctxtune.tuning.journal import RunRecord
from ctxtune.tuning.live import RunDisplay, show_point

_WIDEST_WORD = 40


def ablation_display(console: Console, ablation: Ablation) -> RunDisplay:
    """The display of an ablation."""
    epochs = ablation.trial.schedule.epochs
    tune = ablation.tune_each
    final = ablation.compare.scored_metric(confirmatory=ablation.confirmatory)
    where = (
        "on all train classes; the test classes are scored, once a run" if ablation.confirmatory else f"{epochs} epochs"
    )
    words = {
        "cell_search": f"tuning: {{runs}} trials, {tune.trials if tune else 0} of {epochs} epochs for every cell",
        "cell": f"cells: {{runs}} runs, the same {ablation.seeds} seeds for every cell, {where}",
    }

    def remark(book: Book, run: RunRecord) -> Text:
        return Text(show_point(run.spec["point"]), style="dim") if run.stage == "cell_search" else Text()

    return RunDisplay(
        console,
        words,
        metric=lambda stage: final if stage == "cell" else ablation.compare.metric,
        standing=lambda book: "",
        remark=remark,
        width=max(len(cell.key) for cell in cells_of(ablation)) + len("-repeat0-trial000" if tune else "-seed0-fold0"),
    )


def print_outcome(console: Console, ablation: Ablation, result: AblationOutcome, files: dict[str, str]) -> None:
    """Print the table of cells, and where to go from here."""
    states = ", ".join(f"{count} {state}" for state, count in sorted(result.states.items()))
    console.rule(f"[bold]{ablation.name}")
    console.print(
        f"{sum(result.states.values())} runs ({states}); {duration(result.hours)} of work in all", highlight=False
    )
    console.print(cells_table(ablation, result))
    for note in notes(ablation):
        console.print(note, highlight=False, soft_wrap=True)
    for what, text in files.items():
        console.print(f"{what:<22} {text}", highlight=False, soft_wrap=True)


def cells_table(ablation: Ablation, result: AblationOutcome) -> Table:
    """A line for each cell: mean with its interval, and the paired difference to what it is compared with."""
    reference = reference_cell(ablation, cells_of(ablation)).name
    compared = {each.cell: each for each in result.contrasts}
    against = {each.against for each in result.contrasts}
    over = f"{ablation.seeds} seeds"
    if repeats_of(ablation) > 1:
        over = f"{repeats_of(ablation)} repeats of search and {over}"
    title = f"{result.metric}, percent: mean and 95 % t-interval over the same {over}"
    if len(against) == 1:
        title += f"; paired differences to {reference}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    longest = max(len(word) for cell in result.replications for word in cell.split())
    table.add_column("cell", overflow="fold", min_width=min(longest, _WIDEST_WORD))
    for column in ("n", "mean", "minus\nreference", "p, Holm"):
        table.add_column(column, justify="right")
    table.add_column("verdict", min_width=len("no evidence"))
    for cell, values in result.replications.items():
        each = compared.get(cell)
        verdict = each.verdict if each else None
        words = "reference" if cell in against else verdict.words if verdict else ""
        table.add_row(
            cell,
            str(len(values)),
            _percent(result.interval(cell)),
            _percent(each.difference, signed=True) if each else "",
            _p_value(verdict.corrected_p) if verdict else "",
            words,
        )
    return table


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
