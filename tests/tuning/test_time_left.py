"""The estimated end of a sweep, against the clock of a simulated one; and what the terminal shows on the way."""

import io
import re

import pytest
from rich.console import Console

from ctxtune.config import load_search_space
from ctxtune.tuning.display import sweep_display
from ctxtune.tuning.time_left import hours_left, share_saved
from tests.helpers.simulated import drive


@pytest.mark.parametrize("places", [1, 4])
@pytest.mark.parametrize("budget", ["{}", "{hours: 24}"])
def test_the_estimated_end_comes_near_the_real_one(repository, tmp_path, places, budget):
    space = load_search_space(
        repository / "search_spaces/cars.yaml",
        ["search.sampler.name=random", f"search.budget={budget}", "search.trials=32"],
    )
    told: list[tuple[float, float, bool]] = []

    def watch(recorder, run, clock):
        left = hours_left(space, recorder.journal, places, 0.0)
        if left is not None:
            told.append((clock / 3600, left, bool(recorder.journal.decisions.search_ended)))

    journal, executor = drive(space, tmp_path / "j", hours=0.6, concurrent=places, watch=watch)
    end = executor.clock / 3600
    searched = max(clock for clock, _, ended in told if not ended)
    for clock, left, ended in told:
        if clock > 0.4 * searched:  # a few trials have ended
            tolerance = 0.1 if ended else 0.3
            assert abs(clock + left - end) <= tolerance * end, (clock, left, end)
    assert told[-1][1] <= 0.01 * end
    epochs = [run.epoch for run in journal.stage("search") if run.state in ("completed", "pruned")]
    assert share_saved(space, journal) == pytest.approx(1 - sum(epochs) / len(epochs) / space.search_epochs)
    assert 0.2 < share_saved(space, journal) < 0.95


def test_nothing_is_said_before_a_run_has_reported(repository, tmp_path):
    space = load_search_space(
        repository / "search_spaces/cars.yaml", ["search.sampler.name=random", "search.trials=4", "search.budget={}"]
    )
    first: list[float | None] = []
    drive(
        space,
        tmp_path / "j",
        hours=0.6,
        watch=lambda recorder, run, clock: first.append(hours_left(space, recorder.journal, 1, 0.0)),
    )
    assert first[0] is None and first[1] is not None


@pytest.mark.parametrize("width", [90, 200])
def test_the_terminal_shows_what_runs_with_its_settings_the_best_and_the_end(repository, tmp_path, width):
    space = load_search_space(
        repository / "search_spaces/cars.yaml", ["search.sampler.name=random", "search.trials=4", "search.budget={}"]
    )
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width, highlight=False)
    with sweep_display(console, space) as display:
        watcher = display.watcher()

        def watch(recorder, run, clock):
            if run.state == "running" and len(run.reports) == 1:
                watcher.on_stage(recorder, run.stage, 4)
            watcher.on_change(recorder, run)
            display._live.refresh()

        drive(space, tmp_path / "j", hours=0.6, concurrent=2, watch=watch)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    for words in ("contextual_weight=0.8 k=4", "best 0.", "asha saved", " left, until ", "10/160"):
        assert words in shown, words
    assert re.search(r"selection-trial-\d{4}-fold\d-seed\d ", shown)  # no name is cut
    assert ("lr=8e-05" in shown) == (width == 200)
