"""Reports of ablations, from MLflow alone, against scores whose truth is known."""

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ctxtune.errors import TrackingError
from ctxtune.reporting.ablation.data import read_ablation
from ctxtune.reporting.ablation.figures import band
from ctxtune.reporting.ablation.report import ablation_document
from ctxtune.reporting.study import read_study
from ctxtune.reporting.style import look, new_figure
from ctxtune.reporting.writing import write_report
from ctxtune.statistics import t_interval
from ctxtune.tracking import read_runs, read_text
from tests.helpers.processes import PATIENCE
from tests.helpers.reports import FakeAblation, write_without_figures


def table(folder: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "tables" / f"{name}.csv").read_text())))


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> tuple[FakeAblation, str, Path]:
    """Three arms under four levels of label noise, two folds, one failed run; and its report."""

    def effect(variant: str, levels) -> float:
        level = levels["dataset.label_noise"]
        return {"full": 0.62 - 0.25 * level, "same": 0.62 - 0.25 * level, "contrastive": 0.58 - 0.5 * level}[variant]

    folder = tmp_path_factory.mktemp("noise")
    ablation = FakeAblation(
        effect,
        ["full", "same", "contrastive"],
        factors={"dataset.label_noise": [0.0, 0.2, 0.5]},
        folds=("0", "1"),
        tuning="each",
        failed=[("contrastive, label_noise=0.5", 1)],
    )
    uri = ablation.write(folder)
    files = write_report(uri, "ablation", folder / "report")
    return ablation, uri, files.folder


def scores_of(ablation: FakeAblation, cell: dict, seeds=range(5)) -> list[float]:
    """What the generator wrote: the mean over folds of the ratio of sums."""
    means = []
    for seed in seeds:
        tables = [ablation.class_table(cell, 0, seed, fold).values() for fold in ablation.folds]
        means.append(np.mean([sum(t for t, _ in table) / sum(n for _, n in table) for table in tables]))
    return means


def test_contrasts_against_scipy(noise) -> None:
    ablation, _, folder = noise
    cells = {cell["cell"]: cell for cell in ablation.cells()}
    rows = {row["cell"]: row for row in table(folder, "contrasts")}
    assert len(rows) == 6
    name = "contrastive, label_noise=0.5"
    seeds = [0, 2, 3, 4]  # the failed run takes its pair with it
    ours, theirs = scores_of(ablation, cells[name], seeds), scores_of(ablation, cells["full, label_noise=0.5"], seeds)
    expected = stats.ttest_rel(ours, theirs)
    row = rows[name]
    assert row["against"] == "full, label_noise=0.5"
    assert int(row["pairs"]) == 4
    assert float(row["difference"]) == pytest.approx(np.mean(ours) - np.mean(theirs))
    assert float(row["p_t"]) == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert (float(row["t_low"]), float(row["t_high"])) == pytest.approx((interval.low, interval.high))
    p_values = sorted(float(row["p_t"]) for row in rows.values())
    smallest = min(rows.values(), key=lambda row: float(row["p_t"]))
    assert float(smallest["p_holm"]) == pytest.approx(min(1, 6 * p_values[0]))
    assert [rows[f"contrastive, label_noise={level}"]["verdict"] for level in (0.0, 0.2, 0.5)] == ["worse"] * 3
    assert all(rows[f"same, label_noise={level}"]["verdict"] not in ("better", "worse") for level in (0.0, 0.2, 0.5))
    assert {row["condition"] for row in rows.values()} == {"given one tuning run"}
    assert row["classes_low"] == ""  # of four seeds a bootstrap would be too narrow to show
    whole = rows["contrastive, label_noise=0.2"]
    assert float(whole["classes_low"]) < float(whole["difference"]) < float(whole["classes_high"])


def test_scores_and_factor_table(noise) -> None:
    ablation, _, folder = noise
    cells = ablation.cells()
    by_cell = {row["cell"]: row for row in table(folder, "scores")}
    values = scores_of(ablation, cells[0])
    row = by_cell[cells[0]["cell"]]
    assert float(row["mean"]) == pytest.approx(np.mean(values))
    assert float(row["deviation"]) == pytest.approx(np.std(values, ddof=1))
    factor = table(folder, "by_dataset_label_noise")
    assert len(factor) == 9
    shown = (folder / "tables/by_dataset_label_noise.md").read_text()
    assert "▼" in shown and f"{100 * np.mean(values):.2f} ±" in shown


def test_the_page_needs_no_network_and_shows_every_table_and_figure(noise) -> None:
    _, _, folder = noise
    page = (folder / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert "<script" not in page and "@import" not in page and "url(" not in page
    stems = {path.stem for path in (folder / "figures").iterdir()}
    assert {"forest", "arms", "over_dataset_label_noise"} <= stems
    assert page.count("<img ") == len(stems)
    assert {path.suffix for path in (folder / "figures").iterdir()} == {".png", ".svg", ".pdf"}
    for path in (folder / "tables").glob("*.md"):
        assert f'id="caption-{path.stem}"' in page
    assert "non_finite: the loss is not finite at epoch 2" in page
    text = (folder / "report.md").read_text()
    for reference in re.findall(r"\]\((figures/[^)]+)\)", text):
        assert (folder / reference).is_file()


def test_what_the_arms_share_and_every_run_are_there_for_a_reader_and_a_statistician(noise) -> None:
    ablation, _, folder = noise
    page = (folder / "report.html").read_text()
    assert "epochs 24" in page and "/home/somebody" not in page
    assert {"setting": "schedule.epochs", "value": "24"} in table(folder, "setup")
    runs = table(folder, "runs")
    assert len(runs) == 9 * 5 * 2 and {run["fold"] for run in runs} == {"0", "1"}
    cell = ablation.cells()[0]
    found = [float(run["validation/map_at_r"]) for run in runs if run["cell"] == cell["cell"]]
    assert np.mean(found) == pytest.approx(np.mean(scores_of(ablation, cell)))
    assert sum(run["state"] == "failed" for run in runs) >= 1


def test_latex_is_booktabs_with_everything_escaped(noise) -> None:
    _, _, folder = noise
    for path in (folder / "tables").glob("*.tex"):
        text = path.read_text()
        assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1
        body = text.partition(r"\toprule")[2].partition(r"\bottomrule")[0]
        columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)
        assert columns
        for line in body.splitlines():
            if line.endswith(r"\\"):
                assert len(re.findall(r"(?<!\\)&", line)) == len(columns[1]) - 1, (path.name, line)
        assert not re.search(r"(?<!\\)[_%#]", body), path.name
        assert text.isascii(), path.name


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs a TeX installation")
def test_latex_tables_compile_and_none_is_wider_than_the_text(noise, tmp_path: Path) -> None:
    _, _, folder = noise
    paths = sorted((folder / "tables").glob("*.tex"))
    inputs = [rf"\input{{{path}}}\clearpage" for path in paths]
    preamble = [r"\documentclass{article}", r"\usepackage{booktabs,graphicx}", r"\begin{document}"]
    (tmp_path / "tables.tex").write_text("\n".join([*preamble, *inputs, r"\end{document}"]))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert f"({len(paths)} pages" in done.stdout
    assert "Overfull" not in done.stdout


def test_everything_is_among_the_artifacts_of_the_parent_run(noise) -> None:
    _, uri, folder = noise
    parent = read_runs(uri, "ablation", "ablation")[0]
    assert read_text(uri, parent.run_id, "report/report.html") == (folder / "report.html").read_text()
    assert "verdict" in read_text(uri, parent.run_id, "report/tables/contrasts.csv")


def test_with_repeats_the_repeat_is_the_unit(tmp_path: Path) -> None:
    ablation = FakeAblation(
        lambda variant, levels: {"full": 0.6, "other": 0.58}[variant],
        ["full", "other"],
        seeds=3,
        repeats=4,
        tuning="each",
    )
    files = write_without_figures(ablation.write(tmp_path), tmp_path / "report")
    cells = {cell["cell"]: cell for cell in ablation.cells()}

    def unit(cell: dict, repeat: int) -> float:
        tables = [ablation.class_table(cell, repeat, seed, "0").values() for seed in range(3)]
        return float(np.mean([sum(t for t, _ in each) / sum(n for _, n in each) for each in tables]))

    ours, theirs = ([unit(cells[name], repeat) for repeat in range(4)] for name in ("other", "full"))
    row = table(files.folder, "contrasts")[0]
    assert int(row["pairs"]) == 4
    assert float(row["p_t"]) == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)
    assert row["condition"] == ""
    assert "given one tuning run" not in files.page.read_text().replace("seed, given one tuning run", "")


def test_untuned_arms_say_whose_hyperparameters_they_have(tmp_path: Path) -> None:
    ablation = FakeAblation(lambda variant, levels: 0.6, ["full", "other"], tuned_for="full")
    files = write_without_figures(ablation.write(tmp_path), tmp_path / "report")
    text = files.markdown.read_text()
    assert (
        "other †" in text and "† Nothing was tuned here: the other cells run with the hyperparameters of full." in text
    )
    assert "full (hyperparameters" not in text
    assert table(files.folder, "contrasts")[0]["condition"] == "given one tuning run; hyperparameters tuned for full"


def test_what_tuning_chose_and_gained(noise) -> None:
    ablation, _, folder = noise
    rows = table(folder, "tuning")
    assert [row["cell"] for row in rows] == [cell["cell"] for cell in ablation.cells()]
    # loss.k was the same in all trials, so it was not tuned; the third trial failed.
    found = {(row["trials"], row["own"], row["best"], row["chosen"]) for row in rows}
    assert found == {("3", "0.4", "0.6", "optimizer.lr = 0.002")}


def test_two_crossed_factors_are_shown_together(tmp_path: Path) -> None:
    factors = {"dataset.label_noise": [0.0, 0.2], "model.pooling": ["gem", "avg"]}
    ablation = FakeAblation(lambda variant, levels: 0.5, ["full", "other"], factors=factors, seeds=2)
    files = write_report(ablation.write(tmp_path), "ablation", tmp_path / "report", store=False)
    stems = {path.stem for path in files.figures}
    assert {"interaction_dataset_label_noise_model_pooling", "over_model_pooling", "over_dataset_label_noise"} <= stems


def test_while_it_runs_what_is_unfinished_counts_in_the_correction(tmp_path: Path) -> None:
    ablation = FakeAblation(lambda variant, levels: 0.5, ["full", "a", "b"], finished_seeds=1)
    files = write_without_figures(ablation.write(tmp_path), tmp_path / "report")
    assert "3 of 15 runs completed (still running)" in files.markdown.read_text()
    assert [row["verdict"] for row in table(files.folder, "contrasts")] == ["interim: 1 of 5"] * 2


def test_nothing_is_judged_before_all_its_seeds_are_there(tmp_path: Path) -> None:
    ablation = FakeAblation(lambda variant, levels: 0.5 + 0.3 * (variant == "a"), ["full", "a"], finished_seeds=4)
    files = write_without_figures(ablation.write(tmp_path), tmp_path / "report")
    row = table(files.folder, "contrasts")[0]
    assert row["verdict"] == "interim: 4 of 5" and "p_holm" not in row
    assert float(row["difference"]) == pytest.approx(0.3, abs=0.02)
    text = files.markdown.read_text()
    assert "a is better" not in text and "interim" in text


def test_a_seed_is_whole_when_all_folds_of_the_design_are_there(tmp_path: Path) -> None:
    def write(name: str, uri: str | None = None, **options) -> str:
        arms = {"full": 0.5, "a": 0.6}
        ablation = FakeAblation(
            lambda variant, levels: arms[variant], list(arms), name=name, seeds=3, folds=("0", "1"), classes_kept=False,
            **options,
        )  # fmt: skip
        return ablation.write(tmp_path, uri)

    uri = write("first fold", finished_folds=("0",))
    running = read_ablation(read_study(uri, "first fold"))
    assert running.results.scores("a", "validation/map_at_r") == {}
    assert [each.words for each in running.results.contrasts] == ["no pairs"]
    document = ablation_document(running)
    assert document.subtitle.startswith("6 of 12 runs completed")
    assert any("Nothing is finished yet" in str(item) for section in document.sections for item in section.items)
    write("older", uri, finished_folds=("0",), folds_told=False)  # what is seen is all that is known
    assert len(read_ablation(read_study(uri, "older")).results.scores("a", "validation/map_at_r")) == 3
    write("whole", uri)
    assert [each.words for each in read_ablation(read_study(uri, "whole")).results.contrasts] == ["better"]


def test_nothing_finished_and_nothing_started(tmp_path: Path) -> None:
    ablation = FakeAblation(
        lambda variant, levels: 0.5, ["full", "a"], finished_seeds=1, failed=[("full", 0), ("a", 0)], classes_kept=False
    )
    uri = ablation.write(tmp_path)
    files = write_report(uri, "ablation", tmp_path / "report", store=False)
    assert "Nothing is finished yet" in files.page.read_text()
    assert not files.figures
    empty = FakeAblation(lambda variant, levels: 0.5, ["full", "a"], name="empty", finished_seeds=0)
    empty.write(tmp_path, uri)
    with pytest.raises(TrackingError, match="no runs yet"):
        write_report(uri, "empty", tmp_path / "other")


def test_a_broken_design_is_named(tmp_path: Path, monkeypatch) -> None:
    ablation = FakeAblation(lambda variant, levels: 0.5, ["full", "a"], finished_seeds=1)
    broken = {key: value for key, value in ablation.design().items() if key != "cells"}
    monkeypatch.setattr(FakeAblation, "design", lambda self: json.loads(json.dumps(broken)))
    monkeypatch.setattr(FakeAblation, "cells", lambda self: [{"cell": "full", "variant": "full", "levels": {}}])
    with pytest.raises(TrackingError, match=r"design\.json, cells"):
        write_report(ablation.write(tmp_path), "ablation", tmp_path / "report")


def test_a_curve_goes_from_the_least_level_to_the_greatest_whatever_their_order_in_the_file() -> None:
    _, axes = new_figure(2.0)
    means = {index: t_interval([value, value + 0.01, value - 0.01]) for index, value in enumerate((0.6, 0.5, 0.7))}
    band(axes, [0.75, 0.65, 0.95], means, look(0), "full", True)
    (line,) = axes.lines
    assert line.get_xdata().tolist() == [0.65, 0.75, 0.95]
    np.testing.assert_allclose(line.get_ydata(), [50.0, 60.0, 70.0])


def test_runs_without_the_metric_are_said_not_drawn(tmp_path: Path) -> None:
    ablation = FakeAblation(lambda variant, levels: 0.5, ["full", "a"], seeds=2, metric="validation/recall_at_3")
    files = write_report(ablation.write(tmp_path), "ablation", tmp_path / "report", store=False)
    assert "none has logged validation/recall_at_3" in files.page.read_text()
