"""What a sweep shows while it runs, and what it found."""

import math
import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ctxtune.config import SearchSpace
from ctxtune.tuning.book import Book
from ctxtune.tuning.driver import Watcher
from ctxtune.tuning.journal import RunRecord
from ctxtune.tuning.outcome import Comparison, Outcome, changed_values, show
from ctxtune.tuning.stages import START, best_trial
from ctxtune.tuning.statistics import Interval

_STYLES = {"completed": "green", "pruned": "yellow", "failed": "red", "killed": "red", "running": "cyan"}


class SweepDisplay:
    """A line for each run that ends and, on a terminal, a live view of those that are at work."""

    def __init__(self, console: Console, space: SearchSpace) -> None:
        self._console = console
        self._space = space
        self._live = Live(console=console, transient=True, auto_refresh=True, refresh_per_second=4)
        self._book: Book | None = None
        self._stage, self._runs = "", 0
        self.link: str | None = None
        self._began = time.monotonic()

    def __enter__(self) -> "SweepDisplay":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def watcher(self) -> Watcher:
        """What to hand to `run_sweep`."""
        return Watcher(self._on_stage, self._on_change, self._on_note, self._on_link)

    def _on_stage(self, book: Book, stage: str, runs: int) -> None:
        self._book, self._stage, self._runs = book, stage, runs
        words = {
            "search": f"search: up to {runs} trials of {self._space.trial.schedule.epochs} epochs, "
            f"{self._space.search.sampler.name} and {self._space.search.scheduler.name}",
            "selection": f"selection: {runs} runs, the best trials and the start again on validation with fresh seeds",
            "confirmation": f"confirmation: {runs} runs on all train classes; the test classes are scored, once a run",
        }
        self._console.print(Text(f"{words[stage]} ({_metric_of(self._space, stage)})", style="bold"), soft_wrap=True)

    def _on_change(self, book: Book, run: RunRecord) -> None:
        self._book = book
        if run.state != "running":
            line = _ended_line(self._space, book, run, self._elapsed())
            if self._console.is_terminal:
                self._console.print(line, no_wrap=True, overflow="ellipsis")
            else:
                self._console.print(line, soft_wrap=True)  # in a log file nothing is cut off
        if self._console.is_terminal:
            self._live.update(self._view(book))

    def _on_note(self, text: str) -> None:
        self._console.print(Text(text, style="yellow"))

    def _on_link(self, link: str) -> None:
        self.link = link

    def _elapsed(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        return f"{minutes:3d}:{seconds:02d}"

    def _view(self, book: Book) -> RenderableType:
        metric = _metric_of(self._space, self._stage)
        runs = book.journal.stage(self._stage)
        table = Table(box=None, pad_edge=False)
        for column in ("running", "epoch", "", metric):
            table.add_column(column, style="cyan" if column == "running" else "")
        for run in runs:
            if run.state == "running":
                epochs = run.spec["trial"]["schedule"]["epochs"]
                score = run.last(metric)
                bar = ProgressBar(total=epochs, completed=run.epoch, width=24)
                table.add_row(run.key, f"{run.epoch}/{epochs}", bar, "" if score is None else f"{score:.4f}")
        ended = sum(run.state != "running" for run in runs)
        best = best_trial(self._space, book.journal)
        line = f"{self._elapsed()}  {self._stage} {ended}/{self._runs}"
        if best:
            line += f"  best {best.last(self._space.search.objective.metric):.4f} ({best.key})"
        return Group(Text(line, style="bold"), table)


def _metric_of(space: SearchSpace, stage: str) -> str:
    return "test/map_at_r" if stage == "confirmation" else space.search.objective.metric


def _ended_line(space: SearchSpace, book: Book, run: RunRecord, elapsed: str) -> Text:
    metric = _metric_of(space, run.stage)
    score = run.last(metric)
    line = Text(f"{elapsed}  {run.key.removeprefix(f'{run.stage}-'):<10} ")
    line.append(f"{run.state:<9}", style=_STYLES[run.state])
    line.append(f" epoch {run.epoch:>3}  ")
    line.append("   -    " if score is None else f"{score:.4f}  ")
    if run.state in ("failed", "killed"):
        line.append(run.reason.splitlines()[0] if run.reason else "", style="red")
    elif run.stage == "search":
        best = best_trial(space, book.journal)
        if best is not None and best.key == run.key:
            line.append("best  ", style="bold green")
        line.append(" ".join(f"{path.split('.')[-1]}={show(v)}" for path, v in run.spec["point"].items()), style="dim")
    return line


def print_outcome(console: Console, space: SearchSpace, result: Outcome, files: dict[str, str]) -> None:
    """Print what a sweep found: configuration, validation, test, floor, and where to go from here."""
    done, full = result.epochs
    states = ", ".join(f"{count} {state}" for state, count in sorted(result.states.items()))
    console.rule(f"[bold]{space.name}")
    console.print(
        f"{sum(result.states.values())} trials ({states}); {done} epochs trained where full length would be {full} "
        f"({done / full:.0%}); {result.hours:.2f} hours of work in all",
        highlight=False,
    )
    console.print(_configuration_table(space, result))
    console.print(_validation_table(space, result))
    if result.confirmed:
        console.print(_test_table(space, result))
        console.print(_verdict(result.confirmed), highlight=False)
    for what, text in files.items():
        console.print(f"{what:<22} {text}", highlight=False, soft_wrap=True)


def _configuration_table(space: SearchSpace, result: Outcome) -> Table:
    table = Table(title=f"Best configuration: {result.chosen}", title_justify="left")
    for column in ("", "start", "best"):
        table.add_column(column, justify="left" if not column else "right")
    for path, (start, best) in changed_values(space, result).items():
        table.add_row(path, show(start), show(best))
    return table


def _validation_table(space: SearchSpace, result: Outcome) -> Table:
    table = Table(title=f"{space.search.objective.metric}, unseen classes", title_justify="left")
    for column in ("", "start", "best"):
        table.add_column(column, justify="left" if not column else "right")
    scores, epochs = result.search_scores, space.trial.schedule.epochs

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


def _with_interval(interval: Interval | None, signed: bool = False) -> str:
    if interval is None:
        return "same"
    sign = "+" if signed else ""
    if math.isnan(interval.low):
        return f"{100 * interval.mean:{sign}.2f}"
    return f"{100 * interval.mean:{sign}.2f} ± {100 * interval.half_width:.2f}"


def _test_table(space: SearchSpace, result: Outcome) -> Table:
    seeds = result.confirmed[0].chosen.count
    table = Table(
        title=f"Test classes, percent: mean and 95 % t-interval over the same {seeds} fresh seeds", title_justify="left"
    )
    for column in ("", "untrained", "start", "best", "best - start, paired"):
        table.add_column(column, justify="left" if not column else "right")
    for comparison in result.confirmed:
        table.add_row(
            comparison.metric.removeprefix("test/"),
            f"{100 * comparison.floor:.2f}",
            _with_interval(comparison.start),
            _with_interval(comparison.chosen),
            _with_interval(comparison.difference, signed=True),
        )
    return table


def _verdict(comparisons: tuple[Comparison, ...]) -> str:
    difference = comparisons[-1].difference
    if difference is None:
        return "The start configuration itself was chosen: the search found nothing better on validation."
    if math.isnan(difference.low):
        return "One seed gives no interval: nothing can be said about the difference."
    if difference.low > 0:
        return "MAP@R: the best configuration is better than the start on the test classes (the interval excludes 0)."
    if difference.high < 0:
        return "MAP@R: the best configuration is WORSE than the start on the test classes (the interval excludes 0)."
    return "MAP@R: no evidence of a difference to the start on the test classes (the interval holds 0)."
