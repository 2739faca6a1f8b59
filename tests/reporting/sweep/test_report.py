"""Reports of sweeps and comparisons, from MLflow alone, against scores whose truth is known."""

import csv
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ctxtune.errors import TrackingError
from ctxtune.report import main
from ctxtune.reporting.ablation.data import read_ablation
from ctxtune.reporting.comparison import compared_ablations
from ctxtune.reporting.document import Table
from ctxtune.reporting.rendering import markdown
from ctxtune.reporting.study import read_study
from ctxtune.reporting.sweep.data import read_sweep
from ctxtune.reporting.sweep.report import sweep_document
from ctxtune.reporting.writing import write_comparison, write_report
from tests.helpers.processes import run_here
from tests.helpers.reports import FakeAblation, FakeSweep


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
    assert "MAP@R: the chosen configuration is better than the start on the test classes" in text
    assert row["verdict"] == "better"


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
    text = markdown(sweep_document(read_sweep(read_study(uri, "sweep"))))
    assert "(still running)" in text
    assert "No confirmation is completed: nothing is known of the test classes." in text


def test_the_page_shows_what_start_and_chosen_retrieve(tmp_path: Path) -> None:
    uri = FakeSweep(trials=4, shown=True).write(tmp_path)
    files = write_report(uri, "sweep", tmp_path / "report", store=False)
    page = files.page.read_text()
    gallery = page.partition('<div class="gallery">')[2].partition("</section>")[0]
    assert [gallery.count(f'class="retrieved {kind}"') for kind in ("asked", "right", "wrong")] == [2, 6, 6]
    assert gallery.count("cannot be read") == 4
    assert gallery.count("data:image/jpeg") == 2 + 8
    assert "&lt;car 4&gt;" in gallery and "<car" not in page
    assert "Of 6 images found, 2 of the start and 4 of the chosen configuration are right" in gallery
    assert "http" not in gallery and "<script" not in page
    assert "The pictures are on the page" in files.markdown.read_text()


def test_without_kept_images_there_is_no_gallery(sweep) -> None:
    assert "Retrieved images" not in (sweep[2] / "report.html").read_text()


def test_confirmations_that_failed_are_named_and_each_arm_is_counted(tmp_path: Path) -> None:
    fake = FakeSweep(trials=4, lost=["confirmation-start-seed2"])
    uri = fake.write(tmp_path)
    document = sweep_document(read_sweep(read_study(uri, "sweep")))
    found = next(table for table in document.tables if table.name == "confirmation")
    assert "n = 2 of the start, 3 of the chosen, 2 pairs" in found.caption
    assert "confirmation of start: 1 of 3 runs lost: seed 2 failed (not_finite: the loss is not finite" in found.note
    assert [row["start_seeds"] for row in found.records] == [2, 2]
    FakeSweep(name="none", trials=4, lost=[f"confirmation-start-seed{seed}" for seed in range(3)]).write(tmp_path, uri)
    document = sweep_document(read_sweep(read_study(uri, "none")))
    assert any("The start has no test scores" in sentence for sentence in document.findings)


def test_sweeps_side_by_side(sweep, tmp_path: Path) -> None:
    fake, uri, _ = sweep
    other = FakeSweep(name="other", gain=0.05, seed=1, trials=8)
    other.write(tmp_path, uri)
    files = write_comparison(uri, ["sweep", "other"], tmp_path / "sweeps")
    ours, theirs = fake.test_scores(fake.best), other.test_scores(other.best)
    row = next(row for row in table(files.folder, "tests_compared") if row["score"] == "test MAP@R")
    assert row["sweep − other"].startswith(f"{100 * (np.mean(ours) - np.mean(theirs)):+.2f}".replace("-", "−"))
    FakeAblation(lambda variant, levels: 0.5, ["full", "better"], name="first", seeds=2).write(tmp_path, uri)
    with pytest.raises(TrackingError, match="sweeps or ablations, not both: sweep is a sweep, first is an ablation"):
        write_comparison(uri, ["sweep", "first"], tmp_path / "mixed")


def ablation_of(name: str, dataset: str, reference: float, gain: float, **options) -> FakeAblation:
    truth = {"full": reference, "better": reference + gain, "worse": reference - 0.05}
    return FakeAblation(
        lambda variant, levels: truth[variant], list(truth), name=name, dataset=dataset, classes_kept=False,
        **{"seeds": 4, **options},
    )  # fmt: skip


def differences_of(ablation: FakeAblation, cell: int) -> tuple[np.ndarray, float]:
    """The paired differences that were written of a cell to the first one, and the first one's mean score."""
    ours, theirs = (
        np.array([
            np.mean([total / count for total, count in ablation.class_table(each, 0, seed, "0").values()])
            for seed in range(4)
        ])
        for each in (ablation.cells()[cell], ablation.cells()[0])
    )  # fmt: skip
    return ours - theirs, float(theirs.mean())


def in_sum(uri: str, *names: str) -> tuple[Table | None, str]:
    """The table and the words of a comparison's section."""
    sections = compared_ablations([read_ablation(read_study(uri, name)) for name in names]).sections
    section = next(each for each in sections if each.title == "In sum")
    found = [item for item in section.items if isinstance(item, Table)]
    return (found[0] if found else None), "  ".join(item for item in section.items if isinstance(item, str))


def test_ablations_on_different_data_sets_are_summed_relative_to_the_reference(tmp_path: Path) -> None:
    easy, hard = ablation_of("easy", "glyphs", 0.8, 0.04), ablation_of("hard", "omniglot", 0.2, 0.04)
    uri = hard.write(tmp_path, easy.write(tmp_path))
    found, words = in_sum(uri, "easy", "hard")
    total = {row["cell"]: row for row in found.records}
    assert {cell: row["mean_rank"] for cell, row in total.items()} == {"better": 1, "full": 2, "worse": 3}
    for index, cell in ((1, "better"), (2, "worse")):
        relative = [values / unit for values, unit in (differences_of(each, index) for each in (easy, hard))]
        assert total[cell]["mean"] == pytest.approx(stats.trim_mean(np.concatenate(relative), 0.25))
        assert total[cell]["scale"] == "relative"
    assert total["better"]["low"] > 0.02 and total["worse"]["high"] < -0.02
    assert "2 data sets (glyphs, omniglot)" in words
    files = write_comparison(uri, ["easy", "hard"], tmp_path / "page")
    page = files.markdown.read_text()
    assert all(paragraph in page for paragraph in words.split("  "))
    across = {row["cell"]: row for row in table(files.folder, "across_data_sets")}
    assert (
        float(across["better"]["effect_low"]) < 0.1 < float(across["better"]["effect_high"])
    )  # 0.04 of 0.8, 0.04 of 0.2
    assert float(across["better"]["improvement"]) > 0.9 and across["full"]["improvement"] == ""
    assert {path.stem for path in files.figures} >= {"profiles", "critical_difference"}
    assert float(table(files.folder, "in_sum")[0]["mean"]) == total["better"]["mean"]
    assert "in percent of the reference's mean score on the same data set" in found.caption
    differing = table(files.folder, "differing")
    assert {"setting": "trial.dataset.name", "easy": "glyphs", "hard": "omniglot"} in differing


@pytest.mark.parametrize(
    ("options", "reference", "reason"),
    [
        ({"metric": "test/map_at_r"}, "full", "scores of test MAP@R and validation MAP@R are not of one kind"),
        ({"metric": "validation/recall_at_1"}, "full", "scores of validation MAP@R and validation Recall@1 are not of one"),
        ({"finished_seeds": 0}, "full", "not every ablation has a score of full, better, worse yet"),
        ({"dataset": "glyphs"}, "full", "all are on glyphs"),
        ({}, "better", "worse is compared with better and full, not with one reference"),
    ],
)  # fmt: skip
def test_what_has_no_common_sum_is_left_out_and_said(
    options, reference: str, reason: str, tmp_path, monkeypatch
) -> None:
    uri = ablation_of("first", "glyphs", 0.5, 0.05, seeds=2).write(tmp_path)
    second = ablation_of("second", **{"dataset": "omniglot", "reference": 0.5, "gain": 0.05, "seeds": 2, **options})
    contrasts = [{"cell": cell, "against": reference} for cell in ("full", "better", "worse") if cell != reference]
    design = {**second.design(), "reference": reference, "contrasts": contrasts}
    monkeypatch.setattr(second, "design", lambda: design)
    second.write(tmp_path, uri)
    found, words = in_sum(uri, "first", "second")
    assert found is None and f"Left out: {reason}" in words


def test_mistakes_are_told_in_one_message(sweep, tmp_path: Path, monkeypatch, capsys) -> None:
    _, uri, _ = sweep
    found = run_here(main, tmp_path, "swep", "--tracking", uri, "--out", str(tmp_path / "out"))
    assert found.returncode == 2
    assert "No sweep or ablation is named 'swep'" in found.stderr and 'did you mean "sweep"?' in found.stderr
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
