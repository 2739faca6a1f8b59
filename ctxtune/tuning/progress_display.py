"""A line for each run that ends and, on a terminal, a live view of those that are at work."""

import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ctxtune.consoles import Console
from ctxtune.results.costs import spent
from ctxtune.results.formatting import setting
from ctxtune.text import duration
from ctxtune.tuning.callbacks import Watcher
from ctxtune.tuning.ending import Ending
from ctxtune.tuning.record.journal import RunRecord
from ctxtune.tuning.record.recorder import Recorder
from ctxtune.tuning.setup_times import SetupTimes

_BAR = 16
_OTHER_COLUMNS = _BAR + 15
"""Characters of a line that the bar, the epochs and the gaps take."""
_STYLES = {"completed": "green", "pruned": "yellow", "failed": "red", "killed": "red", "running": "cyan"}


class RunDisplay:
    """The display of a sweep or an ablation.

    Args:
        console: where to.
        words: what is said when a stage begins; ``{runs}`` stands for the number of its runs.
        metric: the score that is shown, by stage.
        standing: how things stand, in a few words.
        remark: what is said of a run that ended, beside state and score.
        hours_left: until all is done, from the runs that go on side by side and the seconds that a run takes beside what it
            reports; None: unknown.
        width: of the column of names, in characters.
    """

    def __init__(
        self,
        console: Console,
        words: Mapping[str, str],
        *,
        metric: Callable[[str], str],
        standing: Callable[[Recorder], str],
        remark: Callable[[Recorder, RunRecord], Text],
        hours_left: Callable[[Recorder, int, float], float | None],
        width: int = 10,
    ) -> None:
        self._console, self._words = console, words
        self._metric, self._standing, self._remark = metric, standing, remark
        self._hours_left, self._setups, self._places = hours_left, SetupTimes(), 1
        self._width = width
        self._live = Live(console=console, transient=True, auto_refresh=True, refresh_per_second=4)
        self._stage, self._runs = "", 0
        self.link: str | None = None
        self.complete = True
        """Whether tracking has everything and no file is missing, once all is closed."""
        self._began = time.monotonic()

    def __enter__(self) -> "RunDisplay":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def watcher(self, go_on: str = "") -> Watcher:
        """What to hand to the driver; ``go_on``: how to go on if it is stopped."""
        return Watcher(
            self._on_stage, self._on_change, self._on_note, self._on_link, self._on_alert, self._on_ending, go_on
        )

    def _on_stage(self, recorder: Recorder, stage: str, runs: int) -> None:
        self._stage, self._runs = stage, runs
        text = f"{self._words[stage].format(runs=runs)} ({self._metric(stage)})"
        self._console.print(Text(text, style="bold"), soft_wrap=True)

    def _on_change(self, recorder: Recorder, run: RunRecord) -> None:
        runs = recorder.journal.runs.values()
        self._setups.watch(runs, time.monotonic())
        self._places = max(self._places, sum(each.state == "running" for each in runs))
        if run.state != "running":
            line = self._ended_line(recorder, run)
            if self._console.is_terminal:
                self._console.print(line, no_wrap=True, overflow="ellipsis")
            else:
                self._console.print(line, soft_wrap=True)  # in a log file nothing is cut off
        if self._console.is_terminal:
            self._live.update(self._view(recorder))

    def _on_note(self, text: str) -> None:
        self._console.print(Text(text, style="yellow"))

    def _on_alert(self, text: str) -> None:
        # Above the live view where there is one; else beside the output, which scripts may read.
        console = (
            self._console
            if self._console.is_terminal and not self._console.quiet
            else Console(stderr=True, markup=False)
        )
        console.print(Text(text, style="yellow"), soft_wrap=True)

    def _on_ending(self, ending: Ending) -> None:
        self.complete = ending.complete
        if ending.complete and not ending.doubtful:
            self._console.print(Text(str(ending), style="dim"), soft_wrap=True)
        else:
            self._on_alert(str(ending))

    def _on_link(self, link: str) -> None:
        self.link = link

    def _elapsed(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        return f"{minutes:3d}:{seconds:02d}"

    def _ended_line(self, recorder: Recorder, run: RunRecord) -> Text:
        score = run.last(self._metric(run.stage))
        line = Text(f"{self._elapsed()}  {run.key.removeprefix(f'{run.stage}-'):<{self._width}} ")
        line.append(f"{run.state:<9}", style=_STYLES[run.state])
        line.append(f" epoch {run.epoch:>3}  ")
        line.append("   -    " if score is None else f"{score:.4f}  ")
        if run.state in ("failed", "killed"):
            line.append(run.reason.splitlines()[0] if run.reason else "", style="red")
        else:
            line.append(self._remark(recorder, run))
        cost = spent([run])
        if cost.gpu_hours:
            line.append(f"  {cost}", style="dim")
        return line

    def _view(self, recorder: Recorder) -> RenderableType:
        metric = self._metric(self._stage)
        runs = recorder.journal.stage(self._stage)
        table = Table(box=None, pad_edge=False)
        for column in ("running", "epoch", "", metric):
            table.add_column(column, style="cyan" if column == "running" else "", no_wrap=True)
        table.add_column("", style="dim", no_wrap=True)
        running = [run for run in runs if run.state == "running"]
        names = max((len(run.key) for run in running), default=0)
        room = self._console.width - names - len(metric) - _OTHER_COLUMNS  # settings are cut, never the names
        for run in running:
            epochs = run.spec.trial.schedule.epochs
            score = run.last(metric)
            bar = ProgressBar(total=epochs, completed=run.epoch, width=_BAR)
            shown = "" if score is None else f"{score:.4f}"
            settings = Text(show_point(run.spec.point))
            settings.truncate(max(0, room), overflow="ellipsis")
            table.add_row(run.key, f"{run.epoch}/{epochs}", bar, shown, settings)
        ended = sum(run.state != "running" for run in runs)
        line = f"{self._elapsed()}  {self._stage.replace('_', ' ')} {ended}/{self._runs}  {self._standing(recorder)}"
        cost = spent(recorder.journal.runs.values())
        line += f"  {cost}" if cost.gpu_hours else ""
        line += self._end_told(recorder)
        return Group(Text(line, style="bold"), table)

    def _end_told(self, recorder: Recorder) -> str:
        hours = self._hours_left(recorder, self._places, self._setups.seconds)
        if not hours:
            return ""
        end = datetime.now() + timedelta(hours=hours)
        when = end.strftime("%H:%M") if end.date() == datetime.now().date() else end.strftime("%a %d %b %H:%M")
        return f"  about {duration(hours)} left, until {when}"


def show_point(point: Mapping[str, object]) -> str:
    """Searched values in a line."""
    return " ".join(f"{path.split('.')[-1]}={setting(value)}" for path, value in point.items())
