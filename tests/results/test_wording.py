"""What results say, in every place where they say it."""

import io

import pytest
from rich.console import Console

from ctxtune.ablation.display import print_results as print_ablation
from ctxtune.reporting.ablation.data import read_ablation
from ctxtune.reporting.ablation.report import ablation_document
from ctxtune.reporting.study import read_study
from ctxtune.reporting.sweep.data import read_sweep
from ctxtune.reporting.sweep.report import sweep_document
from ctxtune.results.note import ablation_note, sweep_note
from ctxtune.results.summary import ablation_summary, sweep_summary
from ctxtune.tuning.display import print_results as print_sweep
from tests.helpers.reports import FakeAblation, FakeSweep

CLOSED = "nothing is known about unseen classes"


@pytest.fixture
def console() -> Console:
    return Console(record=True, width=400, file=io.StringIO())


@pytest.mark.parametrize("closed", [False, True])
def test_scores_of_known_classes_are_told_as_that(tmp_path, console, closed):
    """Wherever train and test share classes, and nowhere else."""
    study = read_study(FakeSweep(closed_set=closed, trials=6).write(tmp_path / "sweep"), "sweep")
    sweep = read_sweep(study)
    print_sweep(console, sweep.results, {})
    fake = FakeAblation(lambda variant, levels: 0.5, ["full", "less"], closed_set=closed)
    ablation = read_ablation(read_study(fake.write(tmp_path / "ablation"), "ablation"))
    print_ablation(console, ablation.results, {})
    terminal = console.export_text()
    texts = [
        terminal,
        sweep_note(sweep.results),
        str(sweep_document(sweep, processes=1)),
        ablation_note(ablation.results),
        str(ablation_document(ablation)),
    ]
    assert [CLOSED in " ".join(text.split()) for text in texts] == [closed] * len(texts)
    assert terminal.count(CLOSED) == 2 * closed and ("unseen classes  " not in terminal or not closed)
    assert sweep_summary(sweep.results)["closed_set"] is ablation_summary(ablation.results)["closed_set"] is closed
