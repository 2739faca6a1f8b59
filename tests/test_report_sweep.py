"""Reports of sweeps and comparisons, from MLflow alone, against scores whose truth is known."""

import csv
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from report_support import FakeAblation, FakeSweep
from scipy import stats

from ctxtune.errors import TrackingError
from ctxtune.report import main
from ctxtune.reporting.writing import write_comparison, write_report


def table(folder: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "tables" / f"{name}.csv").read_text())))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> tuple[FakeSweep, str, Path]:
    folder = tmp_path_factory.mktemp("sweep")
    fake = FakeSweep()
    uri = fake.write(folder)
    return fake, uri, write_report(uri, "sweep", folder / "report", store=False, processes=2).folder


def test_confirmation_against_scipy(sweep) -> None:
    fake, _, folder = sweep
    ours, start = fake.test_scores(fake.best), fake.test_scores("start")
    row = next(row for row in table(folder, "confirmation") if row["metric"] == "test/map_at_r")
    expected = stats.ttest_rel(ours, start)
    assert float(row["chosen_mean"]) == pytest.approx(np.mean(ours))
    assert float(row["difference_mean"]) == pytest.approx(np.mean(ours) - np.mean(start))
    assert float(row["difference_t_low"]) == pytest.approx(expected.confidence_interval().low)
    assert float(row["p_t"]) == pytest.approx(expected.pvalue)
    assert float(row["untrained"]) == pytest.approx(0.02)
    text = (folder / "report.md").read_text()
    assert "verdict: better (given one tuning run)" in text


def test_best_trials_and_what_the_search_cost(sweep) -> None:
    fake, _, folder = sweep
    completed = sorted((curve[-1] for _, curve, state in fake.scores() if state == "completed"), reverse=True)
    rows = table(folder, "best_trials")
    assert [float(row["score"]) for row in rows[:3]] == pytest.approx(completed[:3])
    assert rows[0]["trial"] == fake.best
    assert "loss.name" not in rows[0]
    minutes = sum(len(curve) for _, curve, _ in fake.scores())
    cost = {row["stage"]: row for row in table(folder, "cost")}
    assert float(cost["search"]["hours"]) == pytest.approx(minutes / 60)
    assert float(cost["search"]["GPU-hours"]) == pytest.approx(0.5 * minutes / 60)
    assert float(cost["search"]["money"]) == pytest.approx(1.5 * minutes / 60)
    assert all(float(row["money"]) == pytest.approx(1.5 * float(row["hours"])) for row in rows)
    assert f"money: {1.5 * minutes / 60:.2f}" in (folder / "report.md").read_text()
    assert int(cost["search"]["stopped"]) == sum(state == "pruned" for _, _, state in fake.scores())
    assert table(folder, "failures")[0]["reason"] == "out_of_memory: 24 GiB were not enough"


def test_the_learning_rate_is_what_matters(sweep) -> None:
    _, _, folder = sweep
    rows = table(folder, "importance")
    assert rows[0]["dimension"] == "optimizer.lr"
    shares = {name: float(value) for name, value in rows[0].items() if name != "dimension"}
    assert set(shares) == {"fanova_final", "fanova_first_rung", "ped_anova"}
    assert min(shares.values()) > 0.5
    assert sum(float(row["fanova_first_rung"]) for row in rows) == pytest.approx(1)


def test_every_figure_is_there(sweep) -> None:
    _, _, folder = sweep
    stems = {path.stem for path in (folder / "figures").iterdir()}
    assert stems == {
        "confirmation", "history", "learning_curves", "rungs", "importance", "contour", "slices", "parallel_coordinates",
    }  # fmt: skip
    assert all(path.stat().st_size > 2000 for path in (folder / "figures").iterdir())


def test_validation_beside_test_subsets_the_ledger_and_the_published(sweep) -> None:
    fake, _, folder = sweep
    rows = {row["arm"]: row for row in table(folder, "validation_against_test")}
    assert float(rows["start"]["test_subsets"]) == pytest.approx(np.mean(fake.test_scores("start")) + 0.12)
    assert float(rows[fake.best]["selection"]) == pytest.approx(0.585)
    ledger = table(folder, "ledger")
    assert (ledger[0]["data_set"], ledger[0]["here"], ledger[0]["all"]) == ("cars196", "6", "6")
    published = table(folder, "published")
    assert published[0]["method"] == "sweep"
    assert any(
        row["method"] == "contextual loss" and float(row["recall_at_1"]) == pytest.approx(0.8929) for row in published
    )


def test_a_sweep_that_still_runs_says_what_is_not_known_yet(tmp_path: Path) -> None:
    uri = FakeSweep(trials=3, confirmed=False, state=None).write(tmp_path)
    text = write_report(uri, "sweep", tmp_path / "report", store=False).markdown.read_text()
    assert "(still running)" in text
    assert "No confirmation is completed: nothing is known of the test classes." in text


def test_sweeps_and_ablations_side_by_side(sweep, tmp_path: Path) -> None:
    fake, uri, _ = sweep
    other = FakeSweep(name="other", gain=0.05, seed=1, trials=8)
    other.write(tmp_path, uri)
    files = write_comparison(uri, ["sweep", "other"], tmp_path / "sweeps")
    ours, theirs = fake.test_scores(fake.best), other.test_scores(other.best)
    row = next(row for row in table(files.folder, "tests_compared") if row["score"] == "test MAP@R")
    assert row["sweep − other"].startswith(f"{100 * (np.mean(ours) - np.mean(theirs)):+.2f}".replace("-", "−"))
    for name, dataset, gain in (("first", "glyphs", 0.05), ("second", "omniglot", 0.03)):
        truth = {"full": 0.5, "better": 0.5 + gain, "worse": 0.45}
        FakeAblation(
            lambda variant, levels, truth=truth: truth[variant],
            list(truth), name=name, dataset=dataset, seeds=3, classes_kept=False,
        ).write(tmp_path, uri)  # fmt: skip
    files = write_comparison(uri, ["first", "second"], tmp_path / "ablations")
    total = {row["cell"]: row for row in table(files.folder, "in_sum")}
    assert {cell: float(row["mean_rank"]) for cell, row in total.items()} == {"better": 1, "full": 2, "worse": 3}
    assert float(total["better"]["low"]) > 0.01 and float(total["worse"]["high"]) < -0.02
    assert "2 data sets (glyphs, omniglot)" in files.markdown.read_text()
    with pytest.raises(TrackingError, match="sweeps or ablations, not both: sweep is a sweep, first is an ablation"):
        write_comparison(uri, ["sweep", "first"], tmp_path / "mixed")


def test_mistakes_are_told_in_one_message(sweep, tmp_path: Path, monkeypatch, capsys) -> None:
    _, uri, _ = sweep
    command = [sys.executable, "-m", "ctxtune.report", "swep", "--tracking", uri, "--out", str(tmp_path / "out")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == 2
    assert "No sweep or ablation is named 'swep'" in found.stderr and "there are: sweep" in found.stderr
    assert "Traceback" not in found.stderr and not (tmp_path / "out").exists()
    with pytest.raises(TrackingError, match="does not exist"):
        write_report(f"sqlite:///{tmp_path}/none.db", "sweep", tmp_path / "out")
    for arguments, message in (
        ([], "give one NAME"),
        (["--compare", "a"], "two different names"),
        (["--compare", "a", "a"], "two different"),
    ):
        monkeypatch.setattr(sys, "argv", ["report", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == 2 and message in capsys.readouterr().err
